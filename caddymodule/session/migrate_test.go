package session_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestMigrate(t *testing.T) {
	from, to := openStore(t), openStore(t)
	old := manage(t, from)
	tokens := make(map[string]string)
	for i := range 1200 {
		openID := fmt.Sprint("o", i)
		tokens[openID] = old.login(openID)
	}
	ended := old.login("oEnded")
	_, err := old.Revoke(t.Context(), ended)
	require.NoError(t, err)
	old.Close()

	n, err := session.Migrate(t.Context(), from, to)
	require.NoError(t, err)
	require.EqualValues(t, 1201, n)

	f := manage(t, to)
	for openID, token := range tokens {
		f.lives(token, openID)
	}
	f.dead(ended)
	one, err := f.RevokeUser(t.Context(), appID, "o7")
	require.NoError(t, err)
	require.Len(t, one, 1)
	f.dead(tokens["o7"])

	ttl := make(map[string]time.Duration)
	read := func(store session.Scanner) {
		require.NoError(t, store.Scan(t.Context(), "", func(key string, _ []byte, left time.Duration) error {
			if before, there := ttl[key]; there {
				require.InDelta(t, before, left, float64(time.Minute))
			}
			ttl[key] = left
			return nil
		}))
	}
	read(from)
	read(to)

	t.Run("a target that has moved on", func(t *testing.T) {
		_, err := session.Migrate(t.Context(), from, to)
		require.ErrorIs(t, err, session.ErrForeign)
		f.dead(tokens["o7"])
	})
}

func TestMigrateGoesOnWhereItWasInterrupted(t *testing.T) {
	from, to := openStore(t), openStore(t)
	old := manage(t, from)
	token := old.login("oAlice")
	old.login("oBob")
	net := between(to)
	writes := 0
	net.down(func(method, _ string) bool { writes++; return method != "get" && writes > 3 })
	_, err := session.Migrate(t.Context(), from, net)
	require.ErrorIs(t, err, errDown)
	n, err := session.Migrate(t.Context(), from, to)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	manage(t, to).lives(token, "oAlice")
}

func TestMigrateRefuses(t *testing.T) {
	from := openStore(t)
	old := manage(t, from)
	token := old.login("oAlice")

	t.Run("a target with other sessions", func(t *testing.T) {
		to := openStore(t)
		f := manage(t, to)
		there := f.login("oBob")
		_, err := session.Migrate(t.Context(), from, to)
		require.ErrorIs(t, err, session.ErrForeign)
		f.lives(there, "oBob")
		f.dead(token)
	})
	t.Run("a marked target that cannot tell", func(t *testing.T) {
		type plain struct{ session.Store }
		to := openStore(t)
		manage(t, to)
		_, err := session.Migrate(t.Context(), from, plain{to})
		require.ErrorIs(t, err, session.ErrForeign)
	})
	t.Run("a source that cannot be read through", func(t *testing.T) {
		type plain struct{ session.Store }
		_, err := session.Migrate(t.Context(), plain{from}, openStore(t))
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
	t.Run("a source of another version", func(t *testing.T) {
		other := openStore(t)
		manage(t, other)
		meta := dump(t, other, "meta")["meta"]
		meta[0]--
		require.NoError(t, sessiontest.Put(t.Context(), other, "meta", meta, 0))
		_, err := session.Migrate(t.Context(), other, openStore(t))
		require.ErrorIs(t, err, session.ErrVersion)
	})
	t.Run("an empty source", func(t *testing.T) {
		_, err := session.Migrate(t.Context(), openStore(t), openStore(t))
		require.Error(t, err)
	})
	t.Run("but not one that was only marked", func(t *testing.T) {
		to := openStore(t)
		manage(t, to)
		_, err := session.Migrate(t.Context(), from, to)
		require.NoError(t, err)
		manage(t, to).lives(token, "oAlice")
	})
}
