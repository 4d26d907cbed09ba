package storekit

import (
	"context"
	"hash/maphash"
)

// stripes locks are shared by all keys.
const stripes = 1024

// KeyLocks are striped locks: one writer per key, and a fixed number of locks
// for any number of keys. Make them with NewKeyLocks.
type KeyLocks struct {
	seed  maphash.Seed
	locks [stripes]chan struct{}
}

// NewKeyLocks returns locks that are free.
func NewKeyLocks() *KeyLocks {
	k := &KeyLocks{seed: maphash.MakeSeed()}
	for i := range k.locks {
		k.locks[i] = make(chan struct{}, 1)
	}
	return k
}

// Lock waits for the lock of a key until ctx ends, and then returns its cause.
func (k *KeyLocks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	lock := k.locks[maphash.String(k.seed, key)%stripes]
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
