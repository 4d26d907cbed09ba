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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

var (
	// ErrMalformed is returned by OpenData when encryptedData or iv is not base64 of a
	// length that AES-CBC can have. No key was tried.
	ErrMalformed = errors.New("the open data is malformed")

	// ErrRejected is what every Rejection is, by errors.Is.
	ErrRejected = errors.New("the open data does not verify")
)

// A Rejection is returned by OpenData when no key gives data that verifies. Its text is the
// reason, for the log only: a client that could tell bad padding from bad content, in words
// or in time, could decrypt without the key.
type Rejection string

// The reasons, each of which is checked after those before it.
const (
	RejectedKey       Rejection = "key replaced" // or made up: no key decrypts it
	RejectedApp       Rejection = "other app"
	RejectedUser      Rejection = "other user"
	RejectedFuture    Rejection = "from the future"
	RejectedStale     Rejection = "stale"
	RejectedSignature Rejection = "signature"
	RejectedShape     Rejection = "shape"
)

var rejections = []Rejection{RejectedKey, RejectedApp, RejectedUser, RejectedFuture, RejectedStale, RejectedSignature, RejectedShape}

func (r Rejection) Error() string { return ErrRejected.Error() + ": " + string(r) }

// Is makes every Rejection an ErrRejected.
func (r Rejection) Is(target error) bool { return target == ErrRejected }

// maxAhead is how far WeChat's clock may be ahead of ours.
const maxAhead = time.Minute

// EncryptedData is what a mini program gets from wx.getUserProfile,
// wx.getPhoneNumber, wx.getWeRunData and their like.
type EncryptedData struct {
	EncryptedData string `json:"encryptedData"` // base64 of AES-128-CBC with PKCS#7
	IV            string `json:"iv"`            // base64 of 16 bytes

	// RawData and Signature come with a user's profile only. Signature is the
	// lower-case hex SHA-1 of RawData and the session_key's text; if it is
	// empty, RawData is ignored.
	RawData   string `json:"rawData"`
	Signature string `json:"signature"`
}

// Opened is open data that verified.
type Opened struct {
	Data     json.RawMessage // the decrypted object, as WeChat wrote it
	UserInfo json.RawMessage // RawData, which is an object, if there was a Signature; else nil
}

// Expected is what open data must be about.
type Expected struct {
	AppID   string
	OpenID  string
	UnionID string // "" if it is not known

	// MaxAge is how old the watermark may be; 0 means any age.
	MaxAge time.Duration
	Now    time.Time
}

// OpenData decrypts and verifies a user's open data. sessionKeys are those
// that may be in use, best first: after a login the mini program may still
// hold data under the key before.
//
// The data must be one plain JSON object, as strict as a reply of WeChat (see
// the package's doc), in one of the shapes that WeChat documents, with a watermark of
// the mini program and of a time that is not more than a minute ahead and not too old. If it
// has an openId or unionId, it must be the user's. A signature, if there is one, must fit.
//
// What this cannot promise: AES-CBC hides but does not authenticate. The sender of the
// data chooses the iv, and can cut blocks off the front, so that the first 16 bytes of
// the object are theirs to choose; and can change any block if a random block may be in its
// stead, as in a nickname. Only who has the key can write a watermark or a signature.
func OpenData(sessionKeys []string, want Expected, in EncryptedData) (Opened, error) {
	ciphertext, okData := decodeBase64(in.EncryptedData)
	iv, okIV := decodeBase64(in.IV)
	if !okData || !okIV || len(iv) != aes.BlockSize || len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return Opened{}, ErrMalformed
	}
	var opened Opened
	furthest := 0 // the index of the reason of the key that got furthest
	// Each key takes the same steps, also after the right one.
	for _, key := range sessionKeys {
		candidate, reason := open(key, iv, ciphertext, in, want)
		if reason == "" && furthest < len(rejections) {
			opened, furthest = candidate, len(rejections)
		}
		furthest = max(furthest, slices.Index(rejections, reason))
	}
	if furthest < len(rejections) {
		return Opened{}, rejections[furthest]
	}
	return opened, nil
}

// open tries one key. It takes every step whatever the one before gave.
func open(sessionKey string, iv, ciphertext []byte, in EncryptedData, want Expected) (Opened, Rejection) {
	key, ok := decodeBase64(sessionKey)
	if !ok || len(key) != 16 {
		return Opened{}, RejectedKey // not for anything that the client sent
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Opened{}, RejectedKey
	}
	plain := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, ciphertext)
	padding, good := paddingOf(plain)
	plain = plain[:len(plain)-padding]

	reason := want.check(plain)
	var userInfo json.RawMessage
	if in.Signature != "" {
		userInfo = json.RawMessage(in.RawData)
		if _, err := strictjson.ParseStrict(userInfo); (err != nil || !isSHA1(in.Signature, in.RawData+sessionKey)) &&
			(reason == "" || reason == RejectedShape) {
			reason = RejectedSignature
		}
	}
	if good != 1 {
		reason = RejectedKey
	}
	return Opened{Data: plain, UserInfo: userInfo}, reason
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

// isSHA1 reports whether a signature is the lower-case hex SHA-1 of a text, which is how WeChat
// signs.
func isSHA1(signature, text string) bool {
	sum := sha1.Sum([]byte(text))
	return subtle.ConstantTimeCompare([]byte(signature), []byte(hex.EncodeToString(sum[:]))) == 1
}

// check returns why plain is not an object for this mini program, user and time, or "".
func (want Expected) check(plain []byte) Rejection {
	object, err := strictjson.ParseStrict(plain)
	if err != nil {
		return RejectedKey
	}
	watermark, err := strictjson.ParseStrict(object.Get("watermark"))
	if err != nil || len(watermark) != 2 {
		return RejectedShape
	}
	appID, ok := strictjson.String(watermark.Get("appid"))
	timestamp, err := strconv.ParseInt(string(watermark.Get("timestamp")), 10, 64)
	age := want.Now.Unix() - timestamp // in whole seconds, in which no timestamp overflows
	switch {
	case !ok || err != nil || timestamp < 0:
		return RejectedShape
	case appID != want.AppID:
		return RejectedApp
	case !want.isUser(object):
		return RejectedUser
	case age < -int64(maxAhead/time.Second):
		return RejectedFuture
	case want.MaxAge != 0 && age > int64(want.MaxAge/time.Second):
		return RejectedStale
	case !hasShape(object):
		return RejectedShape
	}
	return ""
}

// isUser reports whether the object names no other user. A reader that does not tell cases
// apart would take openid for openId.
func (want Expected) isUser(object strictjson.Object) bool {
	for _, member := range object {
		id, isString := strictjson.String(member.Value)
		switch strictjson.Fold(member.Name) {
		case "openid":
			if !isString || id != want.OpenID {
				return false
			}
		case "unionid":
			if !isString || want.UnionID != "" && id != want.UnionID {
				return false
			}
		}
	}
	return true
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
