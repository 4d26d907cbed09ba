package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// ErrNotEmpty says that the directory to restore into holds something.
var ErrNotEmpty = errors.New("the directory is not empty")

// Restore makes a store in an empty directory from what Backup wrote, and
// returns how many values it holds. Values that have expired since are left
// out. If it fails, the directory is left empty again, or as a store that does
// not open. The error wraps ErrNoBackup if r is not a whole backup, and
// ErrNotEmpty if there is something in dir.
func Restore(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	if n, err = restore(ctx, r, dir); err != nil {
		return 0, fmt.Errorf("restoring session store into %s: %w", dir, err)
	}
	return n, nil
}

func restore(ctx context.Context, r io.Reader, dir string) (n int64, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	if err := makeDir(dir); err != nil {
		return 0, err
	}
	if err := errors.Join(checkEmpty(dir), (&room{dir: dir}).checkWrite()); err != nil {
		return 0, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, lock.release())
	}()
	marker, _, err := openMarker(dir)
	if err != nil {
		return 0, err
	}
	if err := marker.begin(phaseFilling); err != nil {
		return 0, errors.Join(err, marker.close())
	}
	if n, err = fill(ctx, r, dir, marker.state.id[:]); err != nil {
		return 0, errors.Join(err, marker.close(), removeUnused(dir), removeIdle(dir), marker.remove())
	}
	return n, errors.Join(marker.enterClosed(), marker.close())
}

// Exists reports, without opening it, whether there is a store in a directory,
// or something else that Restore would not write over.
func Exists(dir string) bool { return errors.Is(checkEmpty(dir), ErrNotEmpty) }

// checkEmpty returns ErrNotEmpty if there is anything in a directory but what
// a file system puts there.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && e.Name() != lockName {
			return fmt.Errorf("%w: it holds %s", ErrNotEmpty, e.Name())
		}
	}
	return nil
}

// fill writes a backup into a new database.
func fill(ctx context.Context, r io.Reader, dir string, id []byte) (n int64, err error) {
	db, err := openBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, db.Close())
	}()
	space := room{dir: dir}
	now := uint64(time.Now().Unix())
	batch := db.NewWriteBatchAt(1)
	defer batch.Cancel()
	if err := batch.Set(idKey, id); err != nil {
		return 0, err
	}
	err = readBackup(r, func(key, value []byte, expiresAt uint64) error {
		if err := errors.Join(ctx.Err(), space.checkWrite()); err != nil {
			return err
		}
		if expiresAt > 0 && expiresAt <= now {
			return nil
		}
		n++
		entry := badger.NewEntry(dataKey(string(key)), value)
		entry.ExpiresAt = expiresAt
		return batch.SetEntry(entry)
	})
	if err != nil {
		return 0, err
	}
	return n, batch.Flush()
}
