package gatewaytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

var build = sync.OnceValues(buildBinary)

// Binary returns the path of the gateway's binary, built from this checkout; or
// the one that the environment variable WXGATE_BINARY names. With -short it skips
// a test that is not marked with Smoke.
func Binary(tb testing.TB) string {
	tb.Helper()
	needsBinary(tb)
	path, err := build()
	require.NoError(tb, err)
	return path
}

// Root is the folder of the checkout.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// buildBinary builds into a fixed place, where an unchanged binary is found to
// be up to date in no time. Several test processes take turns.
func buildBinary() (string, error) {
	if path := os.Getenv("WXGATE_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	dir := filepath.Join(Root(), ".build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "wxgate"+raceSuffix)
	args := append([]string{"build", "-o", path}, raceFlags...)
	cmd := exec.Command("go", append(args, "./caddy-build")...)
	cmd.Dir = Root()
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
}
