package storekit

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Observers is the list of callbacks of a session.Observer. The zero value is
// an empty list. Changed takes no lock: the list is replaced and never changed.
type Observers struct {
	mu   sync.Mutex // held while the list is replaced
	list atomic.Pointer[[]*observer]
}

type observer struct{ changed func(key string) }

// Add registers a callback. cancel removes it and may be called twice.
func (o *Observers) Add(changed func(key string)) (cancel func()) {
	added := &observer{changed}
	o.replace(func(list []*observer) []*observer { return append(list, added) })
	return func() {
		o.replace(func(list []*observer) []*observer {
			return slices.DeleteFunc(list, func(each *observer) bool { return each == added })
		})
	}
}

func (o *Observers) replace(change func([]*observer) []*observer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*observer
	if old := o.list.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = change(list)
	o.list.Store(&list)
}

// Changed calls each callback with the key.
func (o *Observers) Changed(key string) {
	if list := o.list.Load(); list != nil {
		for _, each := range *list {
			each.changed(key)
		}
	}
}
