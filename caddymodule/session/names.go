package session

import (
	"maps"
	"sync"
	"sync/atomic"
)

// names keeps one copy of strings that are few and come again and again.
type names struct {
	mu   sync.Mutex
	kept atomic.Pointer[map[string]string] // replaced, never changed
}

// maxNames bounds what is kept: more mini programs than one store serves.
const maxNames = 1024

// intern returns b as a string.
func (n *names) intern(b []byte) string {
	if kept := n.kept.Load(); kept != nil {
		if s, ok := (*kept)[string(b)]; ok {
			return s
		}
	}
	s := string(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	next := map[string]string{s: s}
	if kept := n.kept.Load(); kept != nil && len(*kept) < maxNames {
		maps.Copy(next, *kept)
	}
	n.kept.Store(&next)
	return s
}
