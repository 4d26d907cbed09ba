package badgerstore

// Checksummed is the content of a store file with a text and its checksum.
func Checksummed(text string) []byte { return withChecksum([]byte(text)) }

// CloseDatabase closes Badger behind the store's back, so that commits fail.
func (s *Store) CloseDatabase() { _ = s.db.Close() }

// Version counts the transactions.
func (s *Store) Version() uint64 { return s.version.Load() }
