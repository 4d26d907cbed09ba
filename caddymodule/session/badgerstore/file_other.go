//go:build !linux

package badgerstore

import "os"

func syncData(f *os.File) error { return f.Sync() }

// allocate is not known here; see writeReserve.
func allocate(*os.File, int64) error { return nil }
