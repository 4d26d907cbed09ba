package badgerstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrInUse)
	require.ErrorContains(t, err, dir)
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour), "the first one is not disturbed")

	second := exec.Command(os.Args[0], "-test.run=^TestChildOpens$")
	second.Env = append(os.Environ(), childDir+"="+dir)
	out, err := second.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), badgerstore.ErrInUse.Error())

	require.NoError(t, s.Close())
	open(t, dir)
}

const childDir = "WXGATE_TEST_CHILD_DIR"

// TestChildOpens is the second process of TestOneProcessPerDirectory.
func TestChildOpens(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	fmt.Println(err)
}
