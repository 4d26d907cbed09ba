package sessiontest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// benchRecords is how many records a benchmark reads among.
const benchRecords = 20_000

// Bench measures a store by itself and under a Manager. Compare runs with
// benchstat.
func Bench(b *testing.B, open OpenFunc) {
	b.Run("store", func(b *testing.B) { benchStore(b, open) })
	b.Run("manager", func(b *testing.B) { benchManager(b, open) })
}

// benchKey spreads as the real ones do.
func benchKey(i uint64) string {
	h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
	return "session:" + string(h[:])
}

// measure calls work in so many goroutines, whatever the number of cores: they
// wait for the disk or the network, not for a core.
func measure(b *testing.B, name string, goroutines int, work func() error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		together(b, goroutines, b.N, func(int) error { return work() })
	})
}

// errFound is returned when a look-up finds what was never written.
var errFound = errors.New("found what was never written")

func keep(old []byte) ([]byte, time.Duration, error) { return old, time.Hour, nil }

func benchStore(b *testing.B, open OpenFunc) {
	value := make([]byte, 200)
	s, _ := open(b)
	for i := range uint64(benchRecords) {
		require.NoError(b, Put(b.Context(), s, benchKey(i), value, time.Hour))
	}
	known := func() string { return benchKey(rand.Uint64N(benchRecords)) }
	create := func() error { return Put(b.Context(), s, benchKey(rand.Uint64()), value, time.Hour) }

	measure(b, "get", 1, func() error {
		_, err := s.Get(b.Context(), known())
		return err
	})
	measure(b, "get absent", 1, func() error {
		if _, err := s.Get(b.Context(), benchKey(rand.Uint64())); !errors.Is(err, session.ErrNotFound) {
			return errFound
		}
		return nil
	})
	measure(b, "update absent", 1, create)
	measure(b, "update", 1, func() error { return s.Update(b.Context(), known(), keep) })
	for _, writers := range []int{1, 16, 64} {
		measure(b, fmt.Sprintf("durable update/writers=%d", writers), writers, func() error {
			err := create()
			if syncer, ok := s.(session.Syncer); ok && err == nil {
				err = syncer.Sync(b.Context())
			}
			return err
		})
	}
}

func benchManager(b *testing.B, open OpenFunc) {
	start := func(cacheSize int) (m *session.Manager, create func() (token string, err error), lookup func() error) {
		s, _ := open(b)
		m, err := session.NewManager(b.Context(), session.Config{Store: s, Keys: [][]byte{Key(1)}, CacheSize: cacheSize})
		require.NoError(b, err)
		b.Cleanup(m.Close)
		create = func() (string, error) {
			created, err := m.Create(b.Context(), Login(fmt.Sprintf("oBench%022d", rand.Uint64())))
			return created.Token, err
		}
		var tokens [1000]string
		for i := range tokens {
			tokens[i], err = create()
			require.NoError(b, err)
		}
		return m, create, func() error {
			_, err := m.Lookup(b.Context(), tokens[rand.IntN(len(tokens))])
			return err
		}
	}
	m, create, lookup := start(0)
	measure(b, "lookup hit", 1, lookup)
	_, _, lookup = start(8) // nearly every look-up reads the store
	measure(b, "lookup miss", 1, lookup)
	var foreign [1000]string
	for i := range foreign {
		foreign[i] = fmt.Sprintf("%043d", i)
	}
	measure(b, "lookup refused", 1, func() error {
		if _, err := m.Lookup(b.Context(), foreign[rand.IntN(len(foreign))]); !errors.Is(err, session.ErrInvalid) {
			return errFound
		}
		return nil
	})
	for _, writers := range []int{1, 16, 64} {
		measure(b, fmt.Sprintf("create/writers=%d", writers), writers, func() error {
			_, err := create()
			return err
		})
	}
}
