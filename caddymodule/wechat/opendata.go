package wechat

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

// Errors of OpenData. Compare with errors.Is.
var (
	// ErrMalformed says that encryptedData or iv is not base64 of a length
	// that AES-CBC can have. No key was tried.
	ErrMalformed = errors.New("the open data is malformed")

	// ErrRejected says that no key gives data that verifies. Why is not said, in
	// words or in time: whoever could tell bad padding from bad content could
	// decrypt without the key.
	ErrRejected = errors.New("the open data does not verify")
)

// maxAhead is how far WeChat's clock may be ahead of ours.
const maxAhead = time.Minute

// EncryptedData is what a mini program gets from wx.getUserProfile,
// wx.getPhoneNumber, wx.getWeRunData and their like.
type EncryptedData struct {
	EncryptedData string `json:"encryptedData"` // base64 of AES-128-CBC with PKCS#7
	IV            string `json:"iv"`            // base64 of 16 bytes

	// RawData and Signature come with a user's profile only. Signature is the
	// lower-case hex SHA-1 of RawData and the session_key's text; if it is
	// empty, RawData is not looked at.
	RawData   string `json:"rawData"`
	Signature string `json:"signature"`
}

// Opened is open data that verified.
type Opened struct {
	Data     json.RawMessage // the decrypted object, as WeChat wrote it
	UserInfo json.RawMessage // RawData, which is an object, if there was a Signature; else nil
}

// OpenData decrypts and verifies a user's open data. sessionKeys are those
// that may be in use, best first: after a login the mini program may still
// hold data under the key before.
//
// The data must be one plain JSON object, as strict as a reply of WeChat (see
// the package's doc), with a watermark of appID and of a time that is not more than
// a minute ahead of now and not older than maxAge (0 means any age). If it has
// an openId, that must be openID. A signature, if there is one, must fit.
//
// What this cannot promise: AES-CBC hides but does not seal. Who sends the
// data chooses the iv, and can cut blocks off the front, so that the first 16 bytes of
// the object are theirs to choose. No openId but their own gets through, and
// only who has the key can write a watermark or a signature. Yet a
// unionId should be taken from the session, not from here.
func OpenData(sessionKeys []string, appID, openID string, in EncryptedData, maxAge time.Duration, now time.Time) (Opened, error) {
	ciphertext, okData := decodeBase64(in.EncryptedData)
	iv, okIV := decodeBase64(in.IV)
	if !okData || !okIV || len(iv) != aes.BlockSize || len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return Opened{}, ErrMalformed
	}
	want := expected{appID: appID, openID: openID, maxAge: maxAge, now: now}
	var opened Opened
	found := false
	// Each key takes the same steps, also after the right one.
	for _, key := range sessionKeys {
		candidate, ok := open(key, iv, ciphertext, in, want)
		if ok && !found {
			opened, found = candidate, true
		}
	}
	if !found {
		return Opened{}, ErrRejected
	}
	return opened, nil
}

// open tries one key. It takes every step whatever the one before gave.
func open(sessionKey string, iv, ciphertext []byte, in EncryptedData, want expected) (Opened, bool) {
	key, ok := decodeBase64(sessionKey)
	if !ok || len(key) != 16 {
		return Opened{}, false // not for anything that the client sent
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Opened{}, false
	}
	plain := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, ciphertext)
	padding, good := paddingOf(plain)
	plain = plain[:len(plain)-padding]

	verified := want.describes(plain)
	signed := true
	var userInfo json.RawMessage
	if in.Signature != "" {
		signed = isSignature(in.Signature, in.RawData, sessionKey)
		userInfo = json.RawMessage(in.RawData)
		if _, err := strictjson.ParseStrict(userInfo); err != nil {
			signed = false
		}
	}
	return Opened{Data: plain, UserInfo: userInfo}, good == 1 && verified && signed
}

// paddingOf returns the length of the PKCS#7 padding at the end of blocks, and
// 1 if it is well formed: else 0 and 0. Its time does not depend on the bytes.
func paddingOf(blocks []byte) (padding, good int) {
	last := blocks[len(blocks)-aes.BlockSize:]
	n := last[aes.BlockSize-1]
	good = subtle.ConstantTimeLessOrEq(1, int(n)) & subtle.ConstantTimeLessOrEq(int(n), aes.BlockSize)
	for i := 1; i <= aes.BlockSize; i++ {
		inPadding := subtle.ConstantTimeLessOrEq(i, int(n))
		same := subtle.ConstantTimeByteEq(last[aes.BlockSize-i], n)
		good &= subtle.ConstantTimeSelect(inPadding, same, 1)
	}
	return subtle.ConstantTimeSelect(good, int(n), 0), good
}

// isSignature compares with the signature that WeChat makes of rawData.
func isSignature(signature, rawData, sessionKey string) bool {
	sum := sha1.Sum([]byte(rawData + sessionKey))
	want := hex.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(signature), []byte(want)) == 1
}

// expected is what open data must say.
type expected struct {
	appID, openID string
	maxAge        time.Duration
	now           time.Time
}

// describes says that plain is an object for this mini program, user and time.
func (want expected) describes(plain []byte) bool {
	object, err := strictjson.ParseStrict(plain)
	if err != nil {
		return false
	}
	for _, member := range object {
		// A reader that does not tell cases apart would take openid for openId.
		if strictjson.Fold(member.Name) != strictjson.Fold("openId") {
			continue
		}
		if openID, ok := strictjson.String(member.Value); !ok || openID != want.openID {
			return false
		}
	}
	watermark, err := strictjson.ParseStrict(object.Get("watermark"))
	if err != nil {
		return false
	}
	appID, ok := strictjson.String(watermark.Get("appid"))
	if !ok || appID != want.appID {
		return false
	}
	timestamp, err := strconv.ParseInt(string(watermark.Get("timestamp")), 10, 64)
	return err == nil && timestamp >= 0 && want.isInTime(timestamp)
}

// isInTime compares in whole seconds, in which no timestamp overflows.
func (want expected) isInTime(timestamp int64) bool {
	age := want.now.Unix() - timestamp
	if age < -int64(maxAhead/time.Second) {
		return false
	}
	return want.maxAge == 0 || age <= int64(want.maxAge/time.Second)
}

// decodeBase64 takes standard base64 with padding, written in the one way. The
// decoder alone would pass over line breaks.
func decodeBase64(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return b, err == nil
}
