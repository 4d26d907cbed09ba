package badgerstore

import (
	"math"
	"time"
)

// DuringSync sets what is called between the sync of the disk and its
// acknowledgement.
func (s *Store) DuringSync(f func()) {
	s.syncing.files.Lock()
	defer s.syncing.files.Unlock()
	s.syncing.during = f
}

// UnsyncedLogs returns the numbers of the oldest log file that the next sync
// will sync, and of the newest.
func (s *Store) UnsyncedLogs() (oldest, newest int) {
	s.syncing.files.Lock()
	defer s.syncing.files.Unlock()
	return s.syncing.wal.from, s.syncing.wal.newest
}

// NewestLog returns the number of the newest log file that is known, while a
// sync is held.
func (s *Store) NewestLog() int { return s.syncing.wal.newest }

// FollowShorterList is what happens soon after Badger has written its list of
// tables anew.
func (s *Store) FollowShorterList() error {
	s.syncing.files.Lock()
	s.marker.state.manifest = math.MaxInt64
	s.syncing.files.Unlock()
	return s.syncing.refresh()
}

// DuringClose sets what is called when Badger has closed its files and the
// marker does not say so yet.
func (s *Store) DuringClose(f func()) { s.closing = f }

// VerifyLater verifies tables as Open does in the background with those that it
// had no time for.
func (s *Store) VerifyLater(paths ...string) { s.upkeep.verify(s, paths) }

// Fail puts the store out of use, as a disk does that cannot sync.
func (s *Store) Fail(err error) error { return s.fail(err) }

// MemTableSize is how much is written before the log is changed for a new one.
const MemTableSize = memTableSize

// Sweep looks once at all keys and deletes those that have expired.
func (s *Store) Sweep() (expired int, err error) {
	return new(sweeper).sweep(s, uint64(time.Now().Unix()), math.MaxInt)
}

// SweepInSteps goes round all keys, so many at a time.
func (s *Store) SweepInSteps(keys int) (steps int, err error) {
	var w sweeper
	for steps = 1; ; steps++ {
		if _, err := w.sweep(s, 0, keys); err != nil || w.next == nil {
			return steps, err
		}
	}
}
