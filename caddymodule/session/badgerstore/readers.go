package badgerstore

import (
	"sync"
	"sync/atomic"
)

// readers are the scans that see the store as it was at a version, which must
// not be dropped under them.
type readers struct {
	mu sync.Mutex
	at map[uint64]int // how many scans per version
}

// begin returns the version to read at.
func (r *readers) begin(version *atomic.Uint64) (at uint64, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = version.Load()
	if r.at == nil {
		r.at = make(map[uint64]int)
	}
	r.at[at]++
	return at, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.at[at]--; r.at[at] == 0 {
			delete(r.at, at)
		}
	}
}

// oldestRead returns the version from which on older ones may be dropped.
func (s *Store) oldestRead() uint64 {
	s.readers.mu.Lock()
	defer s.readers.mu.Unlock()
	oldest := s.version.Load()
	for at := range s.readers.at {
		oldest = min(oldest, at)
	}
	return oldest
}
