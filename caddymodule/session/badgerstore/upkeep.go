package badgerstore

import (
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// upkeep does what Badger in managed mode leaves to its user.
type upkeep struct {
	quit chan struct{}
	wg   sync.WaitGroup
}

// upkeepEvery is how often the small things are done.
const upkeepEvery = time.Second

func (u *upkeep) start(s *Store, later []string) {
	u.quit = make(chan struct{})
	u.wg.Go(func() { u.tick(s) })
	if len(later) > 0 {
		u.wg.Go(func() { u.verify(s, later) })
	}
}

func (u *upkeep) tick(s *Store) {
	ticker := time.NewTicker(upkeepEvery)
	defer ticker.Stop()
	var expired sweeper
	for {
		select {
		case <-u.quit:
			return
		case <-ticker.C:
		}
		// Compactions may drop what nobody reads any more.
		s.db.SetDiscardTs(s.oldestRead())
		if err := errors.Join(s.syncing.refresh(), expired.tick(s)); err != nil {
			s.log.Warn("looking after the session store", "dir", s.dir, "error", err)
		}
	}
}

// verify verifies the tables that Open had no time for.
func (u *upkeep) verify(s *Store, tables []string) {
	for _, path := range tables {
		select {
		case <-u.quit:
			return
		default:
		}
		if err := verifyTable(path, true); err != nil && s.inUse(path) {
			_ = s.fail(err)
			return
		}
	}
}

// inUse reports whether Badger still has a table. It does not read one that was
// compacted away, whose file it empties before it removes it.
func (s *Store) inUse(path string) bool {
	return slices.ContainsFunc(s.db.Tables(), func(table badger.TableInfo) bool {
		return tableName(table.ID) == filepath.Base(path)
	})
}

func (u *upkeep) stop() {
	close(u.quit)
	u.wg.Wait()
}
