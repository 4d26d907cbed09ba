//go:build unix

package files

import (
	"io/fs"
	"os"
	"syscall"
)

// OwnedByUs reports whether a file belongs to the user of this process.
func OwnedByUs(info fs.FileInfo) bool { return owner(info) == os.Geteuid() }

// OwnedByRoot reports whether a file belongs to the system.
func OwnedByRoot(info fs.FileInfo) bool { return owner(info) == 0 }

func owner(info fs.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(stat.Uid)
}
