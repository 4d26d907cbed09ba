package badgerstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// memTableSize is how much is written before Badger makes a table of it: what
// the store costs in memory, twice while a table is made.
const memTableSize = 8 << 20

// externalMagic tells Badger's directories of this package from others.
const externalMagic = 0x5747

// badgerOptions tunes Badger for many values of a few hundred bytes: tens of
// megabytes of memory, not hundreds.
func (s *Store) badgerOptions() badger.Options {
	opts := badger.DefaultOptions(s.dir).
		WithLogger(badgerLog{s}).
		WithExternalMagic(externalMagic).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2).                     // one is refused
		WithCompression(options.None).            // sealed values do not compress
		WithBlockCacheSize(0).                    // tables are read where they are mapped
		WithValueThreshold(session.MaxValue + 1). // so the value log stays empty
		WithValueLogFileSize(1 << 20).
		WithDetectConflicts(false). // keys are locked here
		WithSyncWrites(s.syncs).
		// On reading, Badger takes a block whose checksum fails for one that
		// does not hold the key. Tables are verified after opening instead.
		WithChecksumVerificationMode(options.NoVerification).
		WithMetricsEnabled(false)
	// A compaction builds up to a dozen tables in memory: with a million
	// sessions at most 230 MiB, and 295 MiB with Badger's default of 2.
	opts.TableSizeMultiplier = 1
	return opts
}

// badgerLog passes on Badger's errors, which hold neither keys nor values in the
// clear. While Badger opens, it returns them, too.
type badgerLog struct{ *Store }

func (s badgerLog) Errorf(format string, args ...any) {
	if s.opened.Load() {
		s.log.Error("session store engine", "message", fmt.Sprintf(format, args...))
	}
}

func (badgerLog) Warningf(string, ...any) {}
func (badgerLog) Infof(string, ...any)    {}
func (badgerLog) Debugf(string, ...any)   {}

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
	if opts.Dir == "" {
		return nil, errors.New("no directory is configured")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, err
	}
	if !restoring && has(dir, restoringFile) {
		return nil, ErrRestoring
	}
	s := &Store{
		dir:   dir,
		log:   cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)),
		syncs: opts.SyncWrites,
		room:  room{dir: dir, minFree: opts.MinFree},
		calls: storekit.NewCalls(),
		keys:  storekit.NewKeyLocks(),
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), s.room.check(writeReserve)); err != nil {
		return nil, err
	}
	if s.witness, err = openWitness(dir); err != nil {
		return nil, err
	}
	before, err := beginOpening(dir)
	if err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	if err := s.openFiles(); err != nil {
		return nil, errors.Join(err, s.closeFiles(), setOpening(dir, before))
	}
	s.opened.Store(true)
	s.noteTables()
	s.background.Go(s.committer.run)
	return s, nil
}

func (s *Store) openFiles() (err error) {
	if s.reserve, err = openReserve(s.dir); err != nil {
		return err
	}
	if err := s.openBadger(); err != nil {
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
func (s *Store) openBadger() error {
	var err error
	for range openAttempts {
		err = recovered(func() (err error) {
			s.db, err = badger.OpenManaged(s.badgerOptions())
			return err
		})
		if err == nil {
			return nil
		}
		s.db = nil
		if refusal := refusalOf(err); refusal != nil {
			return refusal
		}
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// cures are the errors that are no damage, and what to do about them.
var cures = map[error]string{
	syscall.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE)",
	syscall.ENFILE: "raise the system's limit of open files (fs.file-max)",
	syscall.ENOMEM: "give the process more memory or address space",
	syscall.EIO:    "check the disk",
	syscall.EROFS:  "mount the file system for writing",
	syscall.EACCES: "give the directory and its files to the gateway's user",
	syscall.EPERM:  "give the directory and its files to the gateway's user",
	syscall.ENOSPC: "free some space",
	syscall.EDQUOT: "free some space",
}

// refusalOf returns nil if an error of Badger is damage. Badger wraps some
// errors in a way that only their text remains.
func refusalOf(err error) error {
	if strings.Contains(err.Error(), "Another process is using this Badger database") {
		return ErrInUse
	}
	for cause, cure := range cures {
		if strings.Contains(err.Error(), cause.Error()) {
			return fmt.Errorf("%w; %s (%w)", cause, cure, err)
		}
	}
	return nil
}

// verifyTimeout is how long Open waits for the tables to be verified. The rest
// is verified while the store is in use, and if it is damaged, the next start
// does not open it.
const verifyTimeout = time.Second

func (s *Store) verify() error {
	verified := make(chan error, 1)
	s.background.Go(func() { verified <- recovered(s.db.VerifyChecksum) })
	select {
	case err := <-verified:
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return setOpening(s.dir, nil)
	case <-time.After(verifyTimeout):
	}
	s.background.Go(func() {
		var reason []byte
		if err := <-verified; err != nil {
			reason = []byte(err.Error())
			s.log.Error("the session store is damaged: the next start will not open it", "dir", s.dir, "error", err)
		}
		if err := setOpening(s.dir, reason); err != nil {
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
	if err := s.closeFiles(); err != nil {
		return fmt.Errorf("closing session store in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) closeFiles() error {
	s.background.Wait()
	errs := []error{s.witness.file.Close()}
	if s.reserve != nil {
		errs = append(errs, s.reserve.file.Close())
	}
	if s.db != nil {
		if free, ok := storekit.FreeBytes(s.dir); ok && free < closeReserve {
			// The next start reads the log, which is synced.
			errs = append(errs, fmt.Errorf("%w: the last writes stay in the log", session.ErrFull))
		} else {
			errs = append(errs, recovered(s.db.Close))
		}
	}
	return errors.Join(errs...)
}
