package badgerstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

var (
	// ErrNoBackup is returned when what was read is not a whole backup.
	ErrNoBackup = storekit.ErrNoRecords

	// ErrNotEmpty is returned when the directory to restore into holds something.
	ErrNotEmpty = errors.New("the directory is not empty")
)

// Backup implements session.Backuper. It shows the store as it was when it was
// called; the values are sealed, so it is as secret as the store. When the store
// closes, it does not wait for a receiver that may have stopped reading.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(s.calls.Stopping(), func() { cancel(session.ErrClosed) })()
	return storekit.SendRecords(ctx, w, func(visit func(*write) error) error { return s.each(ctx, "", visit) })
}

// Restore makes a store in an empty directory from what Backup wrote, and
// returns how many values it holds. Values that have expired since are left
// out. If it fails, the directory is removed; if it is interrupted, the
// directory does not open. The error wraps ErrNoBackup if r is not a whole
// backup, and ErrNotEmpty if there is something in dir.
func Restore(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	defer func() {
		if err != nil {
			n, err = 0, fmt.Errorf("restoring session store into %s: %w", dir, err)
		}
	}()
	if err := errors.Join(os.MkdirAll(dir, 0o700), checkEmpty(dir)); err != nil {
		return 0, err
	}
	mark := filepath.Join(dir, restoringFile)
	if err := errors.Join(os.WriteFile(mark, nil, 0o600), storekit.SyncDir(dir)); err != nil {
		return 0, err
	}
	if n, err = fill(ctx, r, dir); err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	// The mark goes when all else is on the disk.
	return n, errors.Join(storekit.SyncDir(dir), os.Remove(mark), storekit.SyncDir(dir))
}

// fill writes a backup into a new store.
func fill(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	s, err := open(ctx, Options{Dir: dir}, true)
	if err != nil {
		return 0, err
	}
	in, now := bufio.NewReaderSize(r, 64<<10), uint64(time.Now().Unix())
	err = storekit.ReadRecords(in, func(w *write) error {
		if w.Deleted {
			return ErrNoBackup
		}
		if w.ExpiresAt > 0 && w.ExpiresAt <= now {
			return nil
		}
		n++
		return s.committer.add(ctx, w)
	})
	if _, follows := in.ReadByte(); err == nil && follows == nil {
		err = fmt.Errorf("%w: something follows it", ErrNoBackup)
	}
	return n, errors.Join(err, s.Close())
}
