package badgerstore_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A file system that shuts down without flushing its log, under load, and is
// mounted again, is what a loss of power leaves: no login that was acknowledged
// is lost, no revocation that was acknowledged is undone.
func TestPowerIsCut(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this test needs root, mkfs.ext4, mkfs.xfs")
	}
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			require.NoError(t, os.WriteFile(image, nil, 0o600))
			require.NoError(t, os.Truncate(image, 1<<30))
			command(t, "mkfs."+kind, "-q", image)
			disk := t.TempDir()
			dir := filepath.Join(disk, "sessions")
			all := newLedger()
			mount := func() { command(t, "mount", "-o", "loop", image, disk) }
			mount()
			t.Cleanup(func() { _ = exec.Command("umount", "-l", disk).Run() })
			const rounds = 10
			for range rounds {
				all.run(t, dir, func(child *os.Process) error { return errors.Join(shutDown(disk), child.Kill()) })
				command(t, "umount", disk)
				mount()
				all.checkDir(t, dir)
			}
			t.Logf("%d cuts: %d logins and %d revocations acknowledged", rounds, len(all.loggedIn), len(all.revoked))
		})
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "this test mounts a disk, so it needs root and mkfs: %s", out)
}

// shutDown ends a file system at once, and what it has not written is lost.
func shutDown(disk string) error {
	const (
		goingDown = 0x8004587d // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
		noFlush   = 2
	)
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(noFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), goingDown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return errno
	}
	return nil
}
