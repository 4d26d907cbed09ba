//go:build !(linux || darwin || freebsd || windows)

package storekit

// FreeBytes is not known on this system: the store then writes until the disk
// is full.
func FreeBytes(string) (uint64, bool) { return 0, false }
