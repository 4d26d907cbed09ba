package caddymodule

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// codeLifetime is how long WeChat accepts a code after wx.login gave it.
const codeLifetime = 5 * time.Minute

// maxCodes bounds the memory of codes: about 40 MiB at over 800 logins a second
// for five minutes. Beyond that the oldest are forgotten, and WeChat itself
// still refuses them.
const maxCodes = 1 << 18

// codeHash names a code of one mini program without keeping it.
type codeHash [sha256.Size]byte

func hashCode(appID, code string) codeHash {
	// No appid holds a zero byte, so two pairs cannot make the same text.
	return sha256.Sum256([]byte(appID + "\x00" + code))
}

// usedCodes remembers which codes were sent to WeChat, for as long as they
// could be sent again. It outlives a reload.
type usedCodes struct {
	now      func() time.Time
	start    time.Time // what expiry is counted from
	lifetime time.Duration

	mu    sync.Mutex
	used  map[codeHash]time.Duration // when each expires
	queue []usedCode                 // oldest first; also those that were released
}

type usedCode struct {
	hash    codeHash
	expires time.Duration
}

// The names under which the pool keeps what was used: the codes of wx.login,
// and the proofs of pushes.
const (
	codesName  = "used codes"
	pushesName = "used pushes"
)

func takeUsedCodes(name string, lifetime time.Duration) *usedCodes {
	value, _, _ := stores.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newUsedCodes(time.Now, lifetime), nil
	})
	return value.(*usedCodes)
}

func newUsedCodes(now func() time.Time, lifetime time.Duration) *usedCodes {
	return &usedCodes{now: now, start: now(), lifetime: lifetime, used: make(map[codeHash]time.Duration)}
}

// claim marks a code as used. It returns false if it was.
func (c *usedCodes) claim(hash codeHash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now().Sub(c.start)
	c.forget(now)
	if _, seen := c.used[hash]; seen {
		return false
	}
	c.used[hash] = now + c.lifetime
	c.queue = append(c.queue, usedCode{hash, now + c.lifetime})
	return true
}

// release takes a claim back: the code did not reach WeChat.
func (c *usedCodes) release(hash codeHash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.used, hash)
}

// forget drops what has expired and what is too much.
func (c *usedCodes) forget(now time.Duration) {
	n := 0
	for n < len(c.queue) && (len(c.queue)-n >= maxCodes || now >= c.queue[n].expires) {
		// A code that was released and claimed again has a later entry, too.
		if c.used[c.queue[n].hash] == c.queue[n].expires {
			delete(c.used, c.queue[n].hash)
		}
		n++
	}
	c.queue = c.queue[n:]
}

// Destruct implements caddy.Destructor.
func (*usedCodes) Destruct() error { return nil }
