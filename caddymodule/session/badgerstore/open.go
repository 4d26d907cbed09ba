package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"path/filepath"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Open opens the store in a directory, and makes one in an empty directory. The
// error wraps ErrInUse if another process has it, ErrDamaged if its files are
// not as they were left, and session.ErrFull if the disk has no room even to
// open it.
func Open(ctx context.Context, opts Options) (*Store, error) {
	s, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("opening session store in %s: %w", opts.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, opts Options) (_ *Store, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opts.Dir == "" {
		return nil, errors.New("no directory is configured")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	warnOfLacks(dir, log)
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir:  dir,
		log:  log,
		lock: lock,
		seed: maphash.MakeSeed(),
		room: room{dir: dir, minFree: opts.MinFree},
	}
	if err := s.openFiles(opts.SyncWrites); err != nil {
		return nil, errors.Join(err, s.closeFiles(), returnStrays(dir))
	}
	return s, nil
}

// openFiles inspects the files and opens Badger on them.
func (s *Store) openFiles(syncWrites bool) error {
	if err := s.room.checkWrite(); err != nil {
		return err
	}
	later, err := s.prepare()
	if err != nil {
		return err
	}
	if s.db, err = openBadger(s.dir, s.log); err != nil {
		return err
	}
	s.version.Store(s.db.MaxVersion())
	if s.marker.state.phase == phaseNew {
		err = s.put(idKey, s.marker.state.id[:])
	} else {
		err = s.checkWitness(&s.marker.state)
	}
	if err != nil {
		return err
	}
	if err := s.syncing.start(s, syncWrites); err != nil {
		return err
	}
	if err := removeStrays(s.dir); err != nil {
		return err
	}
	s.upkeep.start(s, later)
	return nil
}

// prepare makes the files ready for Badger, and returns the tables that are to
// be verified later.
func (s *Store) prepare() (later []string, err error) {
	var found bool
	if s.marker, found, err = openMarker(s.dir); err != nil {
		return nil, err
	}
	if !found {
		if err := checkUnused(s.dir); err != nil {
			return nil, errors.Join(err, s.marker.remove())
		}
	}
	if !found || s.marker.state.phase == phaseNew {
		if err := removeUnused(s.dir); err != nil {
			return nil, err
		}
		return nil, s.marker.begin(phaseNew)
	}
	if later, err = inspect(s.dir, &s.marker.state, s.log); err != nil {
		return nil, err
	}
	if err := removeIdle(s.dir); err != nil {
		return nil, err
	}
	return later, s.marker.enter(phaseOpening)
}

// Close waits for calls that are under way, and closes the store. It may be
// called twice.
func (s *Store) Close() error {
	if !s.usage.close() {
		return nil
	}
	s.upkeep.stop()
	s.syncing.stop()
	if err := s.closeFiles(); err != nil {
		return fmt.Errorf("closing session store in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.closeBadger())
	}
	s.syncing.wal.close()
	if s.marker != nil {
		errs = append(errs, s.marker.close())
	}
	return errors.Join(append(errs, s.lock.release())...)
}

// closeBadger flushes the last table, unless the disk has no room for it: then
// the log, which is synced, is left to the next start.
func (s *Store) closeBadger() (err error) {
	defer recoverTo(&err)
	if free, ok := freeBytes(s.dir); ok && free < closeReserve {
		return fmt.Errorf("%w: the last writes stay in the log", session.ErrFull)
	}
	// In good order only if it was in use.
	whole := s.marker.state.phase == phaseOpen && s.broken.Load() == nil
	if whole {
		// Badger removes a log that nothing was written to, and no table shows
		// where it went.
		if err := s.marker.enter(phaseOpening); err != nil {
			return err
		}
	}
	if err := s.db.Close(); err != nil {
		return err
	}
	if s.closing != nil {
		s.closing()
	}
	if !whole {
		return nil
	}
	return s.marker.enterClosed()
}
