package badgerstore

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// allocateFiles gives the files in the directory the blocks that they do not
// have yet, where the file system can: Badger writes to memory maps, and a page
// that the disk has no block for ends the process. It also makes them private,
// whatever the umask. Files come and go meanwhile; what fails is tried again.
func allocateFiles(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var stat unix.Stat_t
		if unix.Lstat(path, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if stat.Mode&0o077 != 0 {
			_ = os.Chmod(path, 0o600)
		}
		if stat.Blocks*512 >= stat.Size {
			continue
		}
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, stat.Size)
			_ = f.Close()
		}
	}
}
