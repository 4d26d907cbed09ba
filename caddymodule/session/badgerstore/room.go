package badgerstore

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

const (
	// writeReserve is what must be free for Badger to write. It writes tables
	// in the background through memory maps, and a page that the disk has no
	// block for ends the process: there must be room for what it has begun.
	writeReserve = 64 << 20

	// closeReserve is what must be free for Badger to flush its last table.
	closeReserve = 2 * memTableSize

	// roomInterval is how long an answer about the free space counts: it costs
	// a system call, and a disk that takes 4 GiB a second takes 20 MiB in it.
	roomInterval = 5 * time.Millisecond
)

// room knows how much space the disk has left.
type room struct {
	dir     string
	minFree uint64
	last    atomic.Pointer[freeSpace]
}

type freeSpace struct {
	bytes uint64
	known bool
	asked time.Time
}

// Room implements session.RoomChecker. Below MinFree there is no room for new
// sessions, and the Manager does not renew any; sessions can be read and revoked.
func (s *Store) Room() error { return s.room.check(max(s.room.minFree, writeReserve)) }

// Free implements session.RoomChecker.
func (s *Store) Free() (bytes uint64, ok bool) { return storekit.FreeBytes(s.dir) }

// check returns an error wrapping session.ErrFull if less than that is free.
func (r *room) check(least uint64) error {
	now := time.Now()
	free := r.last.Load()
	if free == nil || now.Sub(free.asked) >= roomInterval {
		free = &freeSpace{asked: now}
		free.bytes, free.known = storekit.FreeBytes(r.dir)
		r.last.Store(free)
	}
	if !free.known || free.bytes >= least {
		return nil
	}
	return fmt.Errorf("%w: %d MiB are free in %s, at least %d are needed",
		session.ErrFull, free.bytes>>20, r.dir, (least+1<<20-1)>>20)
}
