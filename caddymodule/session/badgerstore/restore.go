package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// ErrNotEmpty is returned when the directory to restore into holds something.
var ErrNotEmpty = errors.New("the directory is not empty")

// Restore makes a store in an empty directory from what Backup wrote, and
// returns how many values it holds. Values that have expired since are left
// out. If it fails, the directory is removed; if it is interrupted, the
// directory does not open. The error wraps ErrNoBackup if r is not a whole
// backup, and ErrNotEmpty if there is something in dir.
func Restore(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	if n, err = restore(ctx, r, dir); err != nil {
		return 0, fmt.Errorf("restoring session store into %s: %w", dir, err)
	}
	return n, nil
}

func restore(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := checkEmpty(dir); err != nil {
		return 0, err
	}
	mark := filepath.Join(dir, restoringFile)
	if err := errors.Join(os.WriteFile(mark, nil, 0o600), syncDir(dir)); err != nil {
		return 0, err
	}
	if n, err = fill(ctx, r, dir); err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	// The directory is synced before and after: the mark goes last.
	return n, errors.Join(syncDir(dir), os.Remove(mark), syncDir(dir))
}

// fill writes a backup into a new store.
func fill(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	s, err := open(ctx, Options{Dir: dir}, true)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, s.Close())
	}()
	now := uint64(time.Now().Unix())
	err = readBackup(r, func(w *write) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.expiresAt > 0 && w.expiresAt <= now {
			return nil
		}
		n++
		return s.committer.add(ctx, w)
	})
	if err != nil {
		return 0, err
	}
	return n, s.sync(ctx)
}
