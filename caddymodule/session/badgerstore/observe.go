package badgerstore

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// observers are told of each write. The list is replaced, never changed, so
// that writers need no lock.
type observers struct {
	mu   sync.Mutex
	list atomic.Pointer[[]*observer]
}

type observer struct{ changed func(key string) }

// Observe implements session.Observer. Nobody else writes to the directory, so
// what is not told has not changed, for ever.
func (s *Store) Observe(changed func(key string)) (maxAge time.Duration, cancel func()) {
	o := &observer{changed: changed}
	s.observers.replace(func(list []*observer) []*observer { return append(list, o) })
	return 0, func() {
		s.observers.replace(func(list []*observer) []*observer {
			return slices.DeleteFunc(list, func(other *observer) bool { return other == o })
		})
	}
}

func (o *observers) replace(change func([]*observer) []*observer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*observer
	if old := o.list.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = change(list)
	o.list.Store(&list)
}

func (o *observers) changed(key string) {
	list := o.list.Load()
	if list == nil {
		return
	}
	for _, each := range *list {
		each.changed(key)
	}
}
