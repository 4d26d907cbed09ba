package redisstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func BenchmarkMany(b *testing.B) {
	sessiontest.BenchMany(b, func(b *testing.B) (func() session.Store, func() int64) {
		server := redistest.Start(b)
		options := patient(server.Addr)
		options.ClientCache = true
		store := func() session.Store {
			s, err := redisstore.Open(b.Context(), options)
			require.NoError(b, err)
			return s
		}
		return store, func() (bytes int64) {
			_, text, _ := strings.Cut(server.Do(b, "info", "memory"), "used_memory:")
			_, err := fmt.Sscan(text, &bytes)
			require.NoError(b, err)
			return bytes
		}
	})
}
