package main

import (
	"io/fs"
	"syscall"
)

// allocated is the space a file takes: Badger's files begin larger than what
// is in them.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
