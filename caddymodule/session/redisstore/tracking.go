package redisstore

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// MaxAge is how long a value that was read may be kept if no change is pushed.
// A change is normally pushed within milliseconds. If the push is lost with its
// connection, everything read over that connection is dropped when the loss is
// noticed, after two seconds and Options.Timeout. MaxAge bounds what remains: a
// server that goes on answering after another one has taken over its keys, or a
// key that was read while its slot moved between the nodes of a cluster, which
// the server does not track.
const MaxAge = 10 * time.Second

// A TrackingStore is a Store whose server pushes the keys that change.
type TrackingStore struct{ *Store }

// Observe calls changed with each key that was written, by this Store or
// another client, and with the empty key whenever the connection over which
// values were read is lost. It is called by the goroutine that reads the
// connection, so it must not wait.
func (s TrackingStore) Observe(changed func(key string)) (maxAge time.Duration, cancel func()) {
	return MaxAge, s.watch.Add(changed)
}

// A watch is the list of observers, and makes the links that call them.
type watch struct {
	storekit.Observers
	prefix string
}

// newLink is rueidis' NewCacheStoreFn: it makes the link of one connection.
func (w *watch) newLink(rueidis.CacheStoreOption) rueidis.CacheStore {
	return &link{watch: w}
}

// A link stands where rueidis has its cache of a connection. It keeps nothing,
// so each tracked read goes to the server, and hears what that cache would
// hear: which keys to drop, and that the connection is gone. rueidis calls it
// in the order in which the connection's messages came.
type link struct {
	watch *watch
	used  atomic.Bool // something was read, so that something may be stale
}

// Flight returns that the key is not cached.
func (l *link) Flight(string, string, time.Duration, time.Time) (rueidis.RedisMessage, rueidis.CacheEntry) {
	l.used.Store(true)
	return rueidis.RedisMessage{}, nil
}

// Update does nothing: the reply is on its way to its reader.
func (l *link) Update(string, string, rueidis.RedisMessage) int64 { return 0 }

// Cancel does nothing: no read waits for another.
func (l *link) Cancel(string, string, error) {}

// Delete passes on which keys were changed; nil means all of them.
func (l *link) Delete(keys []rueidis.RedisMessage) {
	if keys == nil {
		l.watch.Changed("")
	}
	for i := range keys {
		name, err := keys[i].ToString()
		key, ours := strings.CutPrefix(name, l.watch.prefix)
		switch {
		case err != nil:
			l.watch.Changed("")
		case ours:
			l.watch.Changed(key)
		}
	}
}

// Close is called when the connection is gone.
func (l *link) Close(error) {
	if l.used.Load() {
		l.watch.Changed("")
	}
}

var (
	_ session.Observer   = TrackingStore{}
	_ rueidis.CacheStore = (*link)(nil)
)
