package badgerstore

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Badger forgives much when it opens a directory: it starts anew without its
// list of tables and deletes the tables, it skips a table whose index is
// damaged, it cuts its log at the first entry that does not fit. Each time an
// older version of a record may come to light, and with it a session that was
// revoked. So the files are inspected first, and what does not fit keeps the
// store from opening. What Badger itself would have repaired after a crash,
// because nobody had been told that it was written, is repaired here.

// inspect checks the files of a store that was used before, and returns the
// tables that remain to be verified in the background.
func inspect(dir string, marker *markerState, log *slog.Logger) (later []string, err error) {
	if marker.phase == phaseFilling {
		return nil, fmt.Errorf("%w: a restore into it did not finish", ErrDamaged)
	}
	if err := returnStrays(dir); err != nil {
		return nil, err
	}
	if err := checkManifestSize(dir, marker); err != nil {
		return nil, err
	}
	tables, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if later, err = verifyTables(dir, tables); err != nil {
		return nil, err
	}
	if err := inspectWAL(dir, marker, log); err != nil {
		return nil, err
	}
	return later, setStraysAside(dir, tables)
}

// checkManifestSize finds a list of tables that was cut or replaced. It is
// appended to, and every sync notes its size. It is shorter only if Badger has
// written it anew since.
func checkManifestSize(dir string, marker *markerState) error {
	size, head, err := readManifestState(dir)
	if err != nil {
		return err
	}
	anew := head != 0 && head != marker.head
	switch {
	case size < 0:
		return fmt.Errorf("%w: %s is missing", ErrDamaged, manifestName)
	case size < marker.manifest && !anew, marker.phase == phaseClosed && size != marker.manifest:
		return fmt.Errorf("%w: %s has %d bytes and had %d", ErrDamaged, manifestName, size, marker.manifest)
	}
	return nil
}

// readManifest returns the numbers of the tables that Badger will open.
func readManifest(dir string) (numbers []uint64, err error) {
	defer recoverTo(&err)
	f, err := os.Open(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, 0, badgerOptions(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", ErrDamaged, manifestName, err)
	}
	for number := range manifest.Tables {
		numbers = append(numbers, number)
	}
	return numbers, nil
}

// strayExt is given to tables that the list does not name. Badger would delete
// them; they are kept until the store has proved to be whole without them.
const strayExt = ".stray"

// setStraysAside renames tables that the manifest does not name. A crash leaves
// such tables, but so does a manifest that was cut.
func setStraysAside(dir string, tables []uint64) error {
	known := make(map[string]bool, len(tables))
	for _, number := range tables {
		known[tableName(number)] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tableExt) && !known[e.Name()] {
			path := filepath.Join(dir, e.Name())
			if err := os.Rename(path, path+strayExt); err != nil {
				return err
			}
		}
	}
	return nil
}

// returnStrays undoes setStraysAside, where nothing has taken the name.
func returnStrays(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, stray := strings.CutSuffix(e.Name(), strayExt)
		if !stray || exists(filepath.Join(dir, name)) {
			continue
		}
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// removeStrays ends what setStraysAside began, once the store is open.
func removeStrays(dir string) error {
	return removeFiles(dir, func(name string) bool { return strings.HasSuffix(name, tableExt+strayExt) })
}

// removeIdle removes files of Badger that hold nothing of ours: the value log,
// because every value is below the threshold, its statistics, and the registry
// of Badger's own encryption. Badger makes them anew; damaged, they could keep
// it from opening or end the process.
func removeIdle(dir string) error {
	return removeFiles(dir, func(name string) bool {
		return strings.HasSuffix(name, ".vlog") || strings.HasSuffix(name, "-REWRITE") ||
			name == "DISCARD" || name == "KEYREGISTRY"
	})
}

func removeFiles(dir string, which func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if which(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// isBadgerFile reports whether Badger keeps data in a file of this name.
func isBadgerFile(name string) bool {
	if name == manifestName || name == "KEYREGISTRY" {
		return true
	}
	switch filepath.Ext(name) {
	case tableExt, walExt, ".vlog":
		return true
	}
	return false
}

// checkUnused returns an error if a directory without a marker holds files of
// Badger: they are somebody else's, or the marker was deleted.
func checkUnused(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isBadgerFile(e.Name()) {
			return fmt.Errorf("%w: %s is there and %s is missing", ErrDamaged, e.Name(), markerName)
		}
	}
	return nil
}

// removeUnused clears what a first start left that did not come to its end.
func removeUnused(dir string) error { return removeFiles(dir, isBadgerFile) }

// checkWitness compares the data with the marker, now that Badger has read
// both its tables and its log.
func (s *Store) checkWitness(marker *markerState) error {
	id, err := s.get(idKey)
	if err != nil || string(id) != string(marker.id[:]) {
		return fmt.Errorf("%w: its files are those of another store, or a part of them is lost", ErrDamaged)
	}
	synced, err := s.getOwn(syncedKey)
	if err != nil {
		return err
	}
	if synced < marker.synced {
		return fmt.Errorf("%w: writes that were acknowledged are lost (%d of %d syncs are there)",
			ErrDamaged, synced, marker.synced)
	}
	marker.synced = synced
	return nil
}

// idKey holds the store's id among the data.
var idKey = []byte{ownPrefix, 'i'}
