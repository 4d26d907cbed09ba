package badgerstore

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// memTableSize is how much is written before Badger makes a table of it. It is
// what the store costs in memory, twice while a table is made.
const memTableSize = 8 << 20

// walSize is the size of the file behind a memtable.
const walSize = 2 * memTableSize

// badgerOptions tunes Badger for many values of a few hundred bytes: tens of
// megabytes of memory, not hundreds.
func badgerOptions(dir string, log *slog.Logger) badger.Options {
	opts := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
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
		WithValueThreshold(maxValue + 1).
		WithValueLogFileSize(1 << 20).
		// Keys are locked here, and syncs are shared here.
		WithDetectConflicts(false).
		WithSyncWrites(false).
		// Badger treats a block whose checksum fails as one that does not
		// hold the key, and a compaction drops it, without a word. Tables are
		// verified before they are opened instead, and values are sealed.
		WithChecksumVerificationMode(options.NoVerification).
		WithMetricsEnabled(false)
	// Tables of one size on all levels: a compaction builds up to a dozen at a
	// time in memory. With a million sessions, and logins as fast as they go,
	// that is 230 MiB at the most, and 295 MiB with Badger's default of 2.
	opts.TableSizeMultiplier = 1
	return opts
}

// openBadger opens the database, in managed mode: the store numbers the
// versions itself.
func openBadger(dir string, log *slog.Logger) (db *badger.DB, err error) {
	defer recoverTo(&err)
	return badger.OpenManaged(badgerOptions(dir, log))
}

// badgerLog passes on what Badger says of trouble. Its keys are hashes, and
// values are not in it.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any) {
	l.log.Error("session store engine", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("session store engine", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
