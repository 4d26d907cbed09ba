//go:build !unix

package badgerstore

// A dirLock is left to Badger on this system.
type dirLock struct{}

func lockDir(string) (*dirLock, error) { return new(dirLock), nil }

func (*dirLock) release() error { return nil }
