package badgerstore

import (
	"io/fs"
	"os"
	"syscall"
)

// fallocKeepSize is FALLOC_FL_KEEP_SIZE: the file does not get longer.
const fallocKeepSize = 1

// allocate gives a file its blocks, if it has holes and the file system can.
func allocate(path string, info fs.FileInfo) {
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Blocks*512 >= info.Size() {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = syscall.Fallocate(int(f.Fd()), fallocKeepSize, 0, info.Size())
}
