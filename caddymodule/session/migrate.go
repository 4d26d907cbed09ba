package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrForeign is returned when a store holds sessions that do not come from the
// store they would be mixed with.
var ErrForeign = errors.New("the target store holds other sessions")

// Migrate copies everything that is live from one store to another, and returns
// how many users it copied. The records stay sealed: both ends work under the
// same encryption keys.
//
// The target must be empty, or hold a part of the same copy: a migration that
// was interrupted may be run again. A record that differs from the source's
// ends the migration with ErrForeign, because one of the two is newer and the
// older one could revive a revoked session; empty the target then, and start
// again. No gateway should run on either store meanwhile: a session that is
// revoked in the source after its user was copied lives on in the target.
//
// The error is errors.ErrUnsupported if from is no Scanner.
func Migrate(ctx context.Context, from, to Store) (n int64, err error) {
	scanner, ok := from.(Scanner)
	if !ok {
		return 0, fmt.Errorf("reading all of the source store: %w", errors.ErrUnsupported)
	}
	if err := migrateMeta(ctx, from, to); err != nil {
		return 0, err
	}
	err = scanner.Scan(ctx, userPrefix, func(key string, value []byte, ttl time.Duration) error {
		err := copyTo(ctx, to, key, value, ttl, nil)
		if err == nil {
			n++
		}
		return err
	})
	if err != nil {
		return n, fmt.Errorf("copying users: %w", err)
	}
	if syncer, ok := to.(Syncer); ok {
		if err := syncer.Sync(ctx); err != nil {
			return n, fmt.Errorf("syncing the target store: %w", err)
		}
	}
	return n, nil
}

// migrateMeta marks the target as a copy of the source. A gateway may have
// marked the target and been stopped before the first login: that is as good as
// empty.
func migrateMeta(ctx context.Context, from, to Store) error {
	meta, err := from.Get(ctx, metaKey)
	if errors.Is(err, ErrNotFound) {
		return errors.New("the source store holds no sessions of wxgate")
	}
	if err != nil {
		return fmt.Errorf("reading the source store: %w", err)
	}
	if err := checkVersion(meta); errors.Is(err, ErrVersion) {
		return fmt.Errorf("reading the source store: %w", err)
	}
	there, err := to.Get(ctx, metaKey)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("reading the target store: %w", err)
	}
	if !bytes.Equal(there, meta) {
		if err := checkEmpty(ctx, to, there != nil); err != nil {
			return err
		}
	}
	if err := copyTo(ctx, to, metaKey, meta, 0, there); err != nil {
		return fmt.Errorf("marking the target store: %w", err)
	}
	return nil
}

// checkEmpty returns ErrForeign if the store holds users, and also
// if it is marked and is no Scanner.
func checkEmpty(ctx context.Context, store Store, marked bool) error {
	scanner, ok := store.(Scanner)
	switch {
	case !ok && marked:
		return ErrForeign
	case !ok:
		return nil
	}
	err := scanner.Scan(ctx, userPrefix, func(string, []byte, time.Duration) error { return ErrForeign })
	if err != nil {
		return fmt.Errorf("reading the target store: %w", err)
	}
	return nil
}

// copyTo writes a record unless it is there already. It replaces former, and
// nothing else.
func copyTo(ctx context.Context, to Store, key string, value []byte, ttl time.Duration, former []byte) error {
	err := to.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		switch {
		case bytes.Equal(old, value):
			return nil, 0, errUnchanged
		case old == nil, former != nil && bytes.Equal(old, former):
			return value, ttl, nil
		}
		return nil, 0, ErrForeign
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}
