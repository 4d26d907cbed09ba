// Package badgerstore keeps sessions in a directory on disk, in Badger.
//
// Badger keeps the data, and is used through what it exports. This package adds
// what sessions need:
//
//   - Group commit: writes that come at the same time share one transaction and
//     one sync of the disk (commit.go).
//   - A witness of what was acknowledged. Badger goes on without a word when the
//     end of its log is missing; a revoked session could live again (directory.go).
//   - A disk that fills up ends logins before Badger writes to a memory map that
//     the disk has no block for, which ends the process (room.go). Sessions can
//     be revoked even then (reserve.go).
//   - Backups that show when they were cut or changed (backup.go).
package badgerstore
