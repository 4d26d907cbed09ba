package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// memTableSize is how much is written before Badger makes a table of it. It is
// what the store costs in memory, twice while a table is made.
const memTableSize = 8 << 20

// externalMagic tells Badger's directories of this package from others.
const externalMagic = 0x5747

// badgerOptions tunes Badger for many values of a few hundred bytes: tens of
// megabytes of memory, not hundreds.
func (s *Store) badgerOptions(syncWrites bool) badger.Options {
	opts := badger.DefaultOptions(s.dir).
		WithLogger(badgerLog{s.log, &s.opened}).
		WithExternalMagic(externalMagic).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2). // one is refused
		// Sealed values do not compress. Without compression, tables are read
		// where they are mapped, and a block cache would hold them twice.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		// Every value is smaller than this, so the value log stays empty.
		WithValueThreshold(session.MaxValue + 1).
		WithValueLogFileSize(1 << 20).
		WithDetectConflicts(false). // keys are locked here
		WithSyncWrites(syncWrites).
		// Badger treats a block whose checksum fails on reading as one that does
		// not hold the key, and a compaction drops it, without a word. Tables
		// are verified after opening instead, and values are sealed.
		WithChecksumVerificationMode(options.NoVerification).
		WithMetricsEnabled(false)
	// Tables of one size on all levels: a compaction builds up to a dozen at a
	// time in memory. With a million sessions, and logins as fast as they go,
	// that is 230 MiB at the most, and 295 MiB with Badger's default of 2.
	opts.TableSizeMultiplier = 1
	return opts
}

// badgerLog passes on Badger's messages about trouble. Its keys are hashes, and
// values are not in it. While Badger opens, it returns its errors, too.
type badgerLog struct {
	log    *slog.Logger
	opened *atomic.Bool
}

func (l badgerLog) Errorf(format string, args ...any) {
	if l.opened.Load() {
		l.log.Error("session store engine", "message", fmt.Sprintf(format, args...))
	}
}

func (l badgerLog) Warningf(format string, args ...any) {
	if l.opened.Load() {
		l.log.Warn("session store engine", "message", fmt.Sprintf(format, args...))
	}
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}

// Open opens the store in a directory, and makes one in an empty directory. The
// error wraps ErrDamaged if the files are not as they were left, which cannot be
// repaired: an empty directory has to take the place of this one. ErrInUse,
// ErrForeign, ErrVersion, ErrRestoring, session.ErrFull and all others mean that
// nothing is wrong with the files.
func Open(ctx context.Context, opts Options) (*Store, error) {
	s, err := open(ctx, opts, false)
	if err != nil {
		return nil, fmt.Errorf("opening session store in %s: %w", opts.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, opts Options, restoring bool) (_ *Store, err error) {
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
	if _, err := os.Lstat(filepath.Join(dir, restoringFile)); err == nil && !restoring {
		return nil, ErrRestoring
	}
	s := &Store{
		dir:   dir,
		log:   opts.Logger,
		calls: storekit.NewCalls(),
		keys:  storekit.NewKeyLocks(),
		room:  room{dir: dir, minFree: opts.MinFree},
		syncs: opts.SyncWrites,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.room.checkWrite(); err != nil {
		return nil, err
	}
	if s.witness, err = openDirectory(dir); err != nil {
		return nil, err
	}
	if err := s.openFiles(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	s.opened.Store(true)
	s.background.Go(s.committer.run)
	return s, nil
}

func (s *Store) openFiles() (err error) {
	giveUp, err := beginOpening(s.dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, giveUp())
		}
	}()
	if s.reserve, err = openReserve(s.dir); err != nil {
		return err
	}
	if s.db, err = openBadger(s.badgerOptions(s.syncs)); err != nil {
		return err
	}
	s.version.Store(s.db.MaxVersion())
	s.committer = newCommitter(s)
	allocateFiles(s.dir)
	if err := s.recoverReserve(); err != nil {
		return err
	}
	return s.verify()
}

// openAttempts is how often Badger is asked to open the directory: where the
// process was killed at the wrong moment, the first attempt fails and repairs
// it (github.com/dgraph-io/badger/issues/2207).
const openAttempts = 4

// openBadger opens the database in managed mode: the store numbers the versions
// itself, and readers need not wait for writers of other keys.
func openBadger(opts badger.Options) (db *badger.DB, err error) {
	for range openAttempts {
		err = recovered(func() (err error) {
			db, err = badger.OpenManaged(opts)
			return err
		})
		if err == nil {
			return db, nil
		}
		if refusal := refusalOf(err); refusal != nil {
			return nil, refusal
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
}

// refusals are the errors that are no damage, each with what to do about it.
// Badger wraps some of them in a way that only their text remains.
var refusals = []struct {
	err  error
	text string
	cure string
}{
	{ErrInUse, "Another process is using this Badger database", ""},
	{session.ErrFull, syscall.ENOSPC.Error(), ""},
	{session.ErrFull, syscall.EDQUOT.Error(), ""},
	{syscall.EMFILE, syscall.EMFILE.Error(), "; raise the limit of open files (ulimit -n, LimitNOFILE)"},
	{syscall.ENFILE, syscall.ENFILE.Error(), "; raise fs.file-max"},
	{syscall.ENOMEM, syscall.ENOMEM.Error(), "; give the process more memory or address space"},
	{syscall.EIO, syscall.EIO.Error(), "; look after the disk"},
	{syscall.EROFS, syscall.EROFS.Error(), "; mount the file system for writing"},
	{syscall.EACCES, syscall.EACCES.Error(), "; give the directory and its files to the user of the process"},
	{syscall.EPERM, syscall.EPERM.Error(), "; give the directory and its files to the user of the process"},
}

func refusalOf(err error) error {
	for _, r := range refusals {
		if strings.Contains(err.Error(), r.text) {
			return fmt.Errorf("%w%s (%v)", r.err, r.cure, err)
		}
	}
	return nil
}

// verifyTimeout is how long Open waits for the tables to be verified. The rest
// is verified while the store is in use.
const verifyTimeout = time.Second

// verify verifies the checksums of all tables, and that no acknowledged commit
// is missing.
func (s *Store) verify() error {
	verified := make(chan error, 1)
	s.background.Go(func() { verified <- recovered(s.db.VerifyChecksum) })
	select {
	case err := <-verified:
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return endOpening(s.dir)
	case <-time.After(verifyTimeout):
	}
	s.background.Go(func() {
		err := <-verified
		if err != nil {
			s.log.Error("the session store is damaged: the next start will not open it", "dir", s.dir, "error", err)
			err = os.WriteFile(filepath.Join(s.dir, damagedFile), []byte(err.Error()), 0o600)
		}
		if err := errors.Join(err, endOpening(s.dir)); err != nil {
			s.log.Error("writing to the session store's directory", "dir", s.dir, "error", err)
		}
	})
	return nil
}

// recovered turns a panic of f into an error. Badger panics on files that are
// not as it wrote them.
func recovered(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}

// Close waits for calls that are under way, and closes the store. It may be
// called twice.
func (s *Store) Close() error {
	if !s.calls.Close() {
		return nil
	}
	close(s.committer.quit)
	s.background.Wait()
	if err := errors.Join(s.closeFiles(), endOpening(s.dir)); err != nil {
		return fmt.Errorf("closing session store in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) closeFiles() error {
	s.background.Wait()
	var errs []error
	if s.db != nil {
		errs = append(errs, s.closeBadger())
	}
	if s.reserve != nil {
		errs = append(errs, s.reserve.file.Close())
	}
	return errors.Join(append(errs, s.witness.file.Close())...)
}

// closeBadger flushes the last table, unless the disk has no room for it: then
// the next start reads the log, which is synced.
func (s *Store) closeBadger() error {
	if free, ok := FreeBytes(s.dir); ok && free < closeReserve {
		return fmt.Errorf("%w: the last writes stay in the log", session.ErrFull)
	}
	return recovered(s.db.Close)
}
