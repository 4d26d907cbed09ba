//go:build linux || darwin || freebsd

package storekit

import "golang.org/x/sys/unix"

// FreeBytes returns what an ordinary user may still write in a directory.
func FreeBytes(dir string) (uint64, bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, false
	}
	return uint64(max(0, int64(fs.Bavail))) * uint64(fs.Bsize), true
}
