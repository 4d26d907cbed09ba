package redisstore_test

import (
	"crypto/rand"
	"testing"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// fresh opens a store for each test on the same server, under a prefix of its
// own.
func fresh(o redisstore.Options) sessiontest.OpenFunc {
	return func(t testing.TB) (session.Store, func() session.Store) {
		o := o
		o.KeyPrefix = rand.Text() + ":"
		return open(t, o), func() session.Store { return open(t, o) }
	}
}

func TestConformance(t *testing.T) {
	t.Run("single server", func(t *testing.T) {
		sessiontest.Run(t, fresh(patient(redistest.Start(t).Addr)))
	})
	t.Run("without client cache", func(t *testing.T) {
		o := patient(redistest.Start(t).Addr)
		o.ClientCache = false
		sessiontest.Run(t, fresh(o))
	})
	t.Run("cluster", func(t *testing.T) {
		servers := redistest.StartCluster(t, 3)
		sessiontest.Run(t, fresh(patient(servers[0].Addr, servers[1].Addr)))
	})
}

func BenchmarkStore(b *testing.B) {
	o := patient(redistest.Start(b).Addr)
	sessiontest.Bench(b, fresh(o))
}

// one is what each key counts.
func one(string, []byte) int64 { return 1 }
