package session

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors that a Store returns and the Manager decides on. Compare with errors.Is.
var (
	// ErrNotFound is returned when a key is absent. It is an answer, not a
	// fault: a store that could not look returns another error.
	ErrNotFound = errors.New("key not found")

	// ErrClosed is returned when the store was closed before or during the call.
	ErrClosed = errors.New("session store is closed")

	// ErrFull is returned when the store has no room for new sessions. Reads
	// go on, and updates that make no value longer, as revocations are.
	ErrFull = errors.New("session store has no room for new sessions")

	// ErrUnavailable is returned when a store cannot be reached, or refuses
	// what it may do later: it is no reason not to start.
	ErrUnavailable = errors.New("session store is unavailable")

	// ErrRefused is returned when a store answers and does not take a write
	// now, so that asking it again soon is of no use.
	ErrRefused = errors.New("session store refuses writes")

	// ErrConflict is returned when Update gave up because other writers kept
	// changing the key. Nothing was written.
	ErrConflict = errors.New("session store is contended")
)

// MaxValue is the largest value, in bytes, that a Store must take.
const MaxValue = 512 << 10

// A Store keeps opaque values under string keys. It knows neither sessions nor
// secrets: the Manager seals every value before it gets here, and no key names a
// user.
//
// The contract, which sessiontest.Run checks:
//
//   - All methods may be called by many goroutines at once.
//   - Keys are 1 to 256 bytes of any kind; values are 0 bytes to MaxValue.
//     The store keeps no reference to a key or value it was given, and the caller
//     may keep and change what it was handed.
//   - When an Update returns nil, every later read sees it, from any goroutine
//     and, for a shared store, from any node (see Observer for caches).
//   - A ttl says when the store may free the space, never when a session
//     ends: a value may outlive its ttl, and must not vanish before it. A ttl
//     of 0 keeps the value until it is deleted; a negative one is an error.
//   - Absent is not broken. Only a store that has looked and found nothing
//     returns ErrNotFound; every failure is another error.
//   - A call whose context has ended returns soon, with an error.
//   - After Close every method returns ErrClosed. Close waits for calls that
//     are under way, and may be called twice.
//   - No error text holds a value, a password or an address with a password.
type Store interface {
	// Get returns the value under key, or ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)

	// Update changes one key atomically: between the value that change is
	// given and the one it returns, no other writer changes the key. change may
	// be called several times, so it must not have side effects.
	Update(ctx context.Context, key string, change ChangeFunc) error

	Close() error
}

// A ChangeFunc computes the next value of a key. old is nil if the key is
// absent. Returning a nil value deletes the key (or leaves it absent); an
// error leaves it as it was and is returned by Update unchanged.
type ChangeFunc func(old []byte) (value []byte, ttl time.Duration, err error)

// Optional abilities. A Store implements those that its engine really has; the
// Manager asks with a type assertion.
type (
	// A Syncer can lose a write with the process or the machine's power until
	// it is synced. Sync returns when everything that was written before the
	// call is on stable storage. Concurrent callers share the work. A write
	// that is not synced, such as a renewal, is kept soon, too.
	Syncer interface {
		Sync(ctx context.Context) error
	}

	// An Observer reports when values may have changed, so that what was read
	// from it may be kept in memory. A store that cannot know must not
	// implement it, and is then read on every request.
	//
	// changed is called with the key after each write through this Store,
	// before the write returns, and soon after a write by another node. The
	// empty key means that any key may have changed (a lost connection).
	// changed is quick and does not call the store. cancel ends the calls.
	//
	// A Get that starts after changed(key) was called returns the new value.
	//
	// maxAge bounds how long a value that was read may be kept when no change
	// is reported, because a partition can swallow a report; 0 means without
	// bound.
	Observer interface {
		Observe(changed func(key string)) (maxAge time.Duration, cancel func())
	}

	// A MultiGetter reads several keys in one round trip. GetMany returns a
	// value for each key, in order, nil for an absent one. It is as good as a
	// Get of each key that starts when GetMany does; the values need not be
	// of one moment.
	MultiGetter interface {
		GetMany(ctx context.Context, keys ...string) (values [][]byte, err error)
	}

	// A Pinger can say cheaply whether it would answer now.
	Pinger interface {
		Ping(ctx context.Context) error
	}

	// A RoomChecker knows how much space is left to it.
	RoomChecker interface {
		// Room returns nil, or an error while no new sessions can be
		// written, such as ErrFull or ErrUnavailable. It is cheap enough for
		// every login.
		Room() error
		// Free returns the bytes left to the store, and false if the
		// system cannot tell.
		Free() (bytes uint64, ok bool)
	}

	// A Counter estimates the sum of a number over every live value whose key
	// begins with prefix. It may look at a part of them.
	Counter interface {
		Count(ctx context.Context, prefix string, number func(key string, value []byte) int64) (int64, error)
	}

	// A Scanner visits every live key that begins with prefix, in no order,
	// with its value and the ttl left (0: none). Keys written meanwhile may
	// be missed. An error of visit ends the scan and is returned.
	Scanner interface {
		Scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error
	}

	// A Backuper writes a consistent copy of itself while it is in use.
	Backuper interface {
		Backup(ctx context.Context, w io.Writer) error
	}
)
