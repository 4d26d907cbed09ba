package session_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// hooked calls after once, when several records were read.
type hooked struct {
	watched
	after func()
	asked []string
}

func (h *hooked) GetMany(ctx context.Context, keys ...string) (values [][]byte, err error) {
	h.asked = append(h.asked, keys...)
	for _, key := range keys {
		value, err := h.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return nil, err
		}
		values = append(values, value)
	}
	if f := h.after; f != nil {
		h.after = nil
		f()
	}
	return values, nil
}

// A revocation between the reading of several records and the look at the cache's
// epoch must not be hidden by what was read before.
func TestRevokeAllDuringAReadAhead(t *testing.T) {
	store := openStore(t)
	h := &hooked{watched: watched{between(store)}}
	f := manage(t, h)
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	require.NoError(t, f.RevokeAll(t.Context(), "wxffffffffffffffff")) // so that the next look-up reads
	h.after = func() { require.NoError(t, f.RevokeAll(t.Context(), "")) }
	_, _ = f.Lookup(t.Context(), token) // began before the revocation
	_, err := f.Lookup(t.Context(), token)
	require.ErrorIs(t, err, session.ErrInvalid, "RevokeAll has returned")
	created, err := f.Create(t.Context(), session.Login{AppID: appID, OpenID: "oBob", SessionKey: "x"})
	require.NoError(t, err)
	_, err = f.Lookup(t.Context(), created.Token)
	require.NoError(t, err)
}

// The store's own record is the same for all sessions: it is read again when it
// may have changed, and not with each of them.
func TestReadAheadOfTheMetaRecord(t *testing.T) {
	store := openStore(t)
	h := &hooked{watched: watched{between(store)}}
	f := manage(t, h)
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	asked := func(change func()) (keys []string) {
		change()
		h.asked = nil
		f.lives(token, "oAlice")
		return h.asked
	}
	for key := range dump(t, store, "user:") {
		v, err := store.Get(t.Context(), key)
		require.NoError(t, err)
		require.Empty(t, asked(func() { require.NoError(t, sessiontest.Put(t.Context(), store, key, v, 0)) }), "several keys")
	}
	keys := asked(func() { require.NoError(t, f.RevokeAll(t.Context(), "wxffffffffffffffff")) })
	require.Len(t, keys, 2)
	require.Contains(t, keys, "meta")
	for key, value := range dump(t, store, "user:") {
		require.Empty(t, asked(func() { require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0)) }), "it is known again")
	}
}
