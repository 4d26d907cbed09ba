package badgerstore

// FreeBytes returns what an ordinary user may still write in a directory, and
// false if the system cannot tell. It is for those who ask without opening the
// store.
func FreeBytes(dir string) (bytes uint64, ok bool) { return freeBytes(dir) }
