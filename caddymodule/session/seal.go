package session

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize is the size of an encryption key in bytes.
const KeySize = 32

// formatVersion is the first byte of every stored value. It covers the sealing
// and the form of the records.
const formatVersion = 3

// A sealed value is
//
//	format version (1) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag
//
// The nonces are random, so one key must not seal more than 2^32 values
// (NIST SP 800-38D §8.3): at 100 writes a second, more than a year.
const (
	keyIDSize  = 4
	sealHeader = 1 + keyIDSize
)

// A sealer seals records for the store and opens them again.
type sealer struct {
	keys []sealingKey // the first seals, all open
}

type sealingKey struct {
	header []byte // format version and key id, as every value under this key begins
	aead   cipher.AEAD
}

// newSealer takes the configured encryption keys, newest first.
func newSealer(keys [][]byte) (*sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no encryption key is configured")
	}
	s := new(sealer)
	for i, key := range keys {
		if len(key) != KeySize {
			return nil, fmt.Errorf("encryption key %d has %d bytes, want %d", i+1, len(key), KeySize)
		}
		k, err := newSealingKey(key)
		if err != nil {
			return nil, fmt.Errorf("preparing encryption key %d: %w", i+1, err)
		}
		s.keys = append(s.keys, k)
	}
	return s, nil
}

// newSealingKey derives what seals, and the id that names it, from an
// encryption key, so that the id reveals nothing about the key.
func newSealingKey(key []byte) (sealingKey, error) {
	derived, err := hkdf.Key(sha256.New, key, nil, "wxgate seal", 32)
	if err != nil {
		return sealingKey{}, err
	}
	id, err := hkdf.Key(sha256.New, key, nil, "wxgate key id", keyIDSize)
	if err != nil {
		return sealingKey{}, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return sealingKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealingKey{}, err
	}
	return sealingKey{header: append([]byte{formatVersion}, id...), aead: aead}, nil
}

// seal returns the value to store under the storage key.
func (s *sealer) seal(storageKey string, plain []byte) []byte {
	k := s.keys[0]
	sealed := make([]byte, 0, sealHeader+len(plain)+k.aead.Overhead())
	sealed = append(sealed, k.header...)
	return k.aead.Seal(sealed, nil, plain, []byte(storageKey))
}

// checkVersion returns ErrVersion if another version of wxgate wrote a value, and
// ErrDamaged if it is too short to tell.
func checkVersion(sealed []byte) error {
	if len(sealed) < sealHeader {
		return ErrDamaged
	}
	if v := sealed[0]; v != formatVersion {
		return fmt.Errorf("%w: its format is %d, and this version reads %d", ErrVersion, v, formatVersion)
	}
	return nil
}

// open returns what was sealed under the storage key, and whether an old key
// sealed it. The result is appended to dst, which may be the space of the
// ciphertext itself: sealed[sealHeader:sealHeader].
//
// The error is ErrVersion if another version of wxgate wrote the value,
// ErrWrongKey if none of the keys is the one that the value names, and
// ErrDamaged if it is and the value still does not open.
func (s *sealer) open(dst []byte, storageKey string, sealed []byte) (plain []byte, old bool, err error) {
	if err := checkVersion(sealed); err != nil {
		return nil, false, err
	}
	for i, k := range s.keys {
		if !bytes.Equal(k.header, sealed[:sealHeader]) {
			continue
		}
		plain, err := k.aead.Open(dst, nil, sealed[sealHeader:], []byte(storageKey))
		if err != nil {
			return nil, false, ErrDamaged
		}
		return plain, i > 0, nil
	}
	return nil, false, ErrWrongKey
}

// KeyID returns the id that names an encryption key in what it sealed, so that
// two keys can be compared without showing them. It is empty for a text of
// another length than KeySize.
func KeyID(key []byte) string {
	k, err := newSealingKey(key)
	if err != nil || len(key) != KeySize {
		return ""
	}
	return hex.EncodeToString(k.header[1:])
}
