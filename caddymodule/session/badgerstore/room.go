package badgerstore

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// writeReserve is what must be free for any write. Badger writes tables in the
// background through memory maps, and a page that the disk has no block for
// ends the process: what it may have begun must find its room.
const writeReserve = 64 << 20

// closeReserve is what must be free for Badger to flush its last table.
const closeReserve = 2 * memTableSize

// askEvery is how long an answer about the free space counts. The question is a
// system call of some microseconds, which three for each login would make a
// tenth of all that a login costs; meanwhile a disk that takes 4 GiB a second
// takes 20 MiB of the reserve.
const askEvery = 5 * time.Millisecond

// room knows how much space the disk has left.
type room struct {
	dir     string
	minFree uint64
	last    atomic.Pointer[freeSpace]
}

// freeSpace is what the system said, and when.
type freeSpace struct {
	bytes uint64
	known bool
	asked time.Time
}

// Room implements session.RoomChecker. Below MinFree there is no room for new
// sessions, and the Manager puts renewals off; reads and revocations go on.
func (s *Store) Room() error { return s.room.check(max(s.room.minFree, writeReserve)) }

// Free implements session.RoomChecker.
func (s *Store) Free() (bytes uint64, ok bool) { return freeBytes(s.dir) }

// checkWrite returns an error wrapping session.ErrFull if nothing at all may
// be written any more.
func (r *room) checkWrite() error { return r.check(writeReserve) }

func (r *room) none() bool { return r.checkWrite() != nil }

func (r *room) check(least uint64) error {
	if free := r.free(); free.known && free.bytes < least {
		return fmt.Errorf("%w: %d MiB are free in %s, at least %d are needed",
			session.ErrFull, free.bytes>>20, r.dir, (least+1<<20-1)>>20)
	}
	return nil
}

func (r *room) free() *freeSpace {
	now := time.Now()
	if last := r.last.Load(); last != nil && now.Sub(last.asked) < askEvery {
		return last
	}
	free := &freeSpace{asked: now}
	free.bytes, free.known = freeBytes(r.dir)
	r.last.Store(free)
	return free
}
