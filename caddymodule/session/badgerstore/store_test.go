package badgerstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// open opens a store that is closed with the test.
func open(t testing.TB, dir string) *badgerstore.Store {
	t.Helper()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func openForSuite(t testing.TB) (session.Store, func() session.Store) {
	dir := t.TempDir()
	reopen := func() session.Store { return open(t, dir) }
	return reopen(), reopen
}

func TestStore(t *testing.T) { sessiontest.Run(t, openForSuite) }
