//go:build !linux

package badgerstore

import "io/fs"

// allocate does nothing: on these systems the reserve of room.go has to do.
func allocate(string, fs.FileInfo) {}
