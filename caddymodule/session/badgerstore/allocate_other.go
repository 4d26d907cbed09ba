//go:build !linux

package badgerstore

// allocateFiles does nothing: on these systems the reserve of room.go has to do.
func allocateFiles(string) {}
