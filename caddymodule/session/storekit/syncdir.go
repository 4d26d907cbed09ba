package storekit

import (
	"os"
	"runtime"
)

// SyncDir makes the names of the files in a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if runtime.GOOS == "windows" {
		return nil // it denies access
	}
	return f.Sync()
}
