package badgerstore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

// markerName is a small file beside Badger's that says what they must be.
const markerName = "wxgate.store"

// A markerState is the content of the marker file.
type markerState struct {
	phase    phase
	id       [16]byte // random, also among the data: files of another store do not fit
	synced   uint64   // the number of the last sync that was acknowledged
	manifest int64    // size of Badger's list of tables then; it grows, until it is written anew
	head     uint64   // how the list began, which tells that
	oldest   uint64   // the log files there were then
	newest   uint64
}

// A phase says how far the store has come.
type phase uint32

const (
	phaseNew     phase = iota + 1 // nothing has been acknowledged
	phaseFilling                  // a restore is under way
	phaseOpening                  // Badger is at its files, to open or to close them
	phaseOpen                     // in use, or left by a crash
	phaseClosed                   // in good order
)

const (
	markerMagic = "wxgate sessions 1\n"
	markerSize  = len(markerMagic) + 4 + 16 + 5*8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m *markerState) encode() []byte {
	b := make([]byte, 0, markerSize)
	b = append(b, markerMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(m.phase))
	b = append(b, m.id[:]...)
	b = binary.BigEndian.AppendUint64(b, m.synced)
	b = binary.BigEndian.AppendUint64(b, uint64(m.manifest))
	b = binary.BigEndian.AppendUint64(b, m.head)
	b = binary.BigEndian.AppendUint64(b, m.oldest)
	b = binary.BigEndian.AppendUint64(b, m.newest)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeMarker(b []byte) (m markerState, err error) {
	if len(b) != markerSize || !bytes.HasPrefix(b, []byte(markerMagic)) {
		return m, fmt.Errorf("%w: %s is not what the store wrote", ErrDamaged, markerName)
	}
	body, sum := b[:markerSize-4], b[markerSize-4:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return m, fmt.Errorf("%w: the checksum of %s is wrong", ErrDamaged, markerName)
	}
	body = body[len(markerMagic):]
	m.phase = phase(binary.BigEndian.Uint32(body))
	copy(m.id[:], body[4:])
	m.synced = binary.BigEndian.Uint64(body[20:])
	m.manifest = int64(binary.BigEndian.Uint64(body[28:]))
	m.head = binary.BigEndian.Uint64(body[36:])
	m.oldest = binary.BigEndian.Uint64(body[44:])
	m.newest = binary.BigEndian.Uint64(body[52:])
	return m, nil
}

// A marker is the marker file of an open store.
type marker struct {
	dir   string
	file  *os.File
	state markerState
}

// openMarker opens the marker file, or makes one for a new store. found is
// false if there was none, or one that had been made and not yet written.
func openMarker(dir string) (m *marker, found bool, err error) {
	path := filepath.Join(dir, markerName)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	found = len(content) > 0
	m = &marker{dir: dir}
	if found {
		if m.state, err = decodeMarker(content); err != nil {
			return nil, true, err
		}
	}
	if m.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, found, err
	}
	return m, found, nil
}

// begin marks a new store.
func (m *marker) begin(phase phase) error {
	m.state = markerState{phase: phase, manifest: -1}
	rand.Read(m.state.id[:])
	if err := m.write(); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return err
	}
	return syncDir(m.dir)
}

// enter writes a new phase, durably.
func (m *marker) enter(phase phase) error {
	m.state.phase = phase
	if err := m.write(); err != nil {
		return err
	}
	return m.file.Sync()
}

// enterClosed marks a store that Badger has closed.
func (m *marker) enterClosed() (err error) {
	if m.state.manifest, m.state.head, err = readManifestState(m.dir); err != nil {
		return err
	}
	return m.enter(phaseClosed)
}

// note writes what a sync has made durable. The marker itself is not synced:
// after a loss of power it may be behind the data, never ahead of it.
func (m *marker) note(synced uint64, wal *walFiles) error {
	m.state.synced = synced
	m.state.manifest, m.state.head = wal.tables, wal.head
	m.state.oldest, m.state.newest = uint64(wal.from), uint64(wal.newest)
	return m.write()
}

func (m *marker) write() error {
	_, err := m.file.WriteAt(m.state.encode(), 0)
	return err
}

func (m *marker) close() error { return m.file.Close() }

// remove takes the file away again from a directory that is not ours.
func (m *marker) remove() error { return os.Remove(m.file.Name()) }
