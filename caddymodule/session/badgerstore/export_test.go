package badgerstore

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

// Fail puts the store out of use, as a disk does that cannot sync.
func (s *Store) Fail(err error) error { return s.fail(err) }

// MemTableSize is how much is written before the log is changed for a new one.
const MemTableSize = memTableSize
