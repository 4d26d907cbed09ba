package badgerstore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData waits until the disk has the file's contents, written through a
// memory map or not.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// allocate gives the first size bytes of a file blocks on the disk. Some file
// systems cannot: the reserve of room.go is all there is then.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOSPC):
			return nil
		default:
			return err
		}
	}
}
