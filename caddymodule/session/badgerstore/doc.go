// Package badgerstore keeps sessions in a directory on disk, in Badger.
//
// It is made for many small values and little memory, and adds to Badger what
// sessions need:
//
//   - Acknowledged writes survive the loss of power, and writers that come at
//     the same time share one sync (sync.go).
//   - Damaged, truncated or missing files are found before Badger sees them,
//     which would carry on without them: an older version of a record could
//     then come to light, and with it a session that was revoked (inspect.go).
//   - A disk that fills up stops logins, then all writes, before Badger writes
//     through a memory map to a page that the disk has no block for, which
//     ends the process (room.go).
//   - One process works on a directory at a time, and a store may be closed
//     while it is in use (open.go, usage.go).
package badgerstore
