package badgerstore

import (
	"errors"
	"os"
	"runtime"
)

var (
	// ErrInUse says that another process, or another Store of this one, works
	// on the directory.
	ErrInUse = errors.New("another process has the session store open")

	// ErrDamaged says that the files in the directory are not as they were
	// left. Sessions that were ended might live again, so none is opened.
	// Restore a backup, or move the directory away to start without sessions:
	// everybody logs in again then.
	ErrDamaged = errors.New("the session store is damaged: restore a backup, or move the directory away and let everybody log in again")
)

// lockName is the file that a process locks. It is not among the files that a
// store consists of.
const lockName = "wxgate.lock"

// makeDir makes the directory for this user alone.
func makeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

// syncDir makes the names of new files durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it cannot sync a directory, and says that access is denied
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
