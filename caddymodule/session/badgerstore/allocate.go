package badgerstore

import (
	"os"
	"path/filepath"
)

// allocateInterval is how many bytes are written before allocateFiles is called
// again.
const allocateInterval = 256 << 10

// allocateFiles gives every file in the directory the blocks that it has not
// yet, where the system can: Badger writes to memory maps, and a page that the
// disk has no block for ends the process. It also takes the files away from
// other users, whatever the umask. Files come and go meanwhile, and what fails
// is tried again.
func allocateFiles(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info.Mode().Perm()&0o077 != 0 {
			_ = os.Chmod(path, 0o600)
		}
		allocate(path, info)
	}
}
