//go:build unix

package command

import (
	"io/fs"
	"os"
	"syscall"
)

// ofAnotherUser reports whether a file belongs neither to this user nor to root.
func ofAnotherUser(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid()
}
