package wechat

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

// MaxPushAge is how far the timestamp of a push may be from now.
const MaxPushAge = 10 * time.Minute

// A PushError is returned when a push does not prove that it comes from WeChat.
// Its text is one of a closed set and holds nothing of the push.
type PushError string

func (e PushError) Error() string { return "push refused: " + string(e) }

// The reasons to refuse a push.
const (
	PushMalformed PushError = "malformed" // the query or the body is not that of a push
	PushStale     PushError = "stale"     // the timestamp is more than MaxPushAge away
	PushSignature PushError = "signature" // the signature does not fit
	PushPlain     PushError = "plain"     // not encrypted, although an EncodingAESKey is configured
	PushEncrypted PushError = "encrypted" // encrypted, but no EncodingAESKey is configured
	PushWrongKey  PushError = "wrong_key" // the signature fits, the EncodingAESKey does not
	PushOtherApp  PushError = "other_app" // for another mini program
)

// A PushVerifier verifies what WeChat's message push sends for one mini program.
// Source: developers.weixin.qq.com, 消息推送.
type PushVerifier struct {
	appID, token string
	block        cipher.Block // nil: plain mode
	iv           []byte
}

// NewPushVerifier returns a verifier for the Token and the EncodingAESKey (43
// characters, or empty for plain mode) that the mini program's operator entered
// at mp.weixin.qq.com. The error does not hold them.
func NewPushVerifier(appID, token, encodingAESKey string) (*PushVerifier, error) {
	if token == "" {
		return nil, errors.New("the token is empty")
	}
	v := &PushVerifier{appID: appID, token: token}
	if encodingAESKey == "" {
		return v, nil
	}
	// Not Strict: the last of the 43 characters carries bits beyond the key.
	key, err := base64.StdEncoding.DecodeString(encodingAESKey + "=")
	if err != nil || len(encodingAESKey) != 43 || len(key) != 32 {
		return nil, errors.New("the EncodingAESKey is not 43 letters and digits")
	}
	if v.block, err = aes.NewCipher(key); err != nil {
		return nil, fmt.Errorf("using the EncodingAESKey: %w", err)
	}
	v.iv = key[:aes.BlockSize]
	return v, nil
}

// Echo verifies the GET with which WeChat checks the URL, and returns the
// echostr to answer.
func (v *PushVerifier) Echo(query url.Values, now time.Time) (string, error) {
	p, err := v.proof(query, now)
	if err != nil {
		return "", err
	}
	echo, ok := single(query, "echostr")
	if !ok || echo == "" {
		return "", PushMalformed
	}
	if !fits(p.signature, v.token, p.timestamp, p.nonce) {
		return "", PushSignature
	}
	return echo, nil
}

// A Push is a message that verified.
type Push struct {
	Message []byte // as WeChat wrote it: an XML document or a JSON object
	XML     bool

	// ID is different for each push, and the same for a copy of one.
	ID string
}

// Open verifies a push and returns its message in the clear. With an
// EncodingAESKey only what is encrypted counts, also in compatible mode.
func (v *PushVerifier) Open(query url.Values, body []byte, now time.Time) (Push, error) {
	p, err := v.proof(query, now)
	if err != nil {
		return Push{}, err
	}
	isXML := bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("<"))
	if v.block == nil {
		if query.Get("encrypt_type") == "aes" {
			return Push{}, PushEncrypted
		}
		if !fits(p.signature, v.token, p.timestamp, p.nonce) {
			return Push{}, PushSignature
		}
		if !isXML {
			if _, err := strictjson.ParseStrict(body); err != nil {
				return Push{}, PushMalformed
			}
		}
		// The signature of plain mode does not cover the message.
		return Push{Message: body, XML: isXML, ID: p.signature}, nil
	}

	signature, ok := single(query, "msg_signature")
	if !ok {
		return Push{}, PushPlain
	}
	encrypted, err := encryptedMember(body, isXML)
	if err != nil {
		return Push{}, err
	}
	if !fits(signature, v.token, p.timestamp, p.nonce, encrypted) {
		return Push{}, PushSignature
	}
	message, err := v.decrypt(encrypted)
	if err != nil {
		return Push{}, err
	}
	return Push{Message: message, XML: bytes.HasPrefix(message, []byte("<")), ID: signature}, nil
}

// pushProof is what both kinds of request carry in the query.
type pushProof struct{ signature, timestamp, nonce string }

func (*PushVerifier) proof(query url.Values, now time.Time) (pushProof, error) {
	var p pushProof
	for _, field := range []struct {
		name  string
		value *string
	}{{"signature", &p.signature}, {"timestamp", &p.timestamp}, {"nonce", &p.nonce}} {
		value, ok := single(query, field.name)
		if !ok {
			return pushProof{}, PushMalformed
		}
		*field.value = value
	}
	seconds, err := strconv.ParseInt(p.timestamp, 10, 64)
	if err != nil || seconds < 0 {
		return pushProof{}, PushMalformed
	}
	age := now.Unix() - seconds
	if limit := int64(MaxPushAge / time.Second); age > limit || age < -limit {
		return pushProof{}, PushStale
	}
	return p, nil
}

// single returns the one value of a query parameter; a second one is refused,
// because the application might read the other.
func single(query url.Values, name string) (string, bool) {
	if values := query[name]; len(values) == 1 {
		return values[0], true
	}
	return "", false
}

// fits reports whether signature is WeChat's over the parts, which it sorts.
func fits(signature string, parts ...string) bool {
	slices.Sort(parts)
	return isSHA1(signature, strings.Join(parts, ""))
}

// encryptedMember returns the member Encrypt of a pushed object or document.
func encryptedMember(body []byte, isXML bool) (string, error) {
	if isXML {
		return encryptedElement(body)
	}
	object, err := strictjson.ParseStrict(body)
	if err != nil {
		return "", PushMalformed
	}
	encrypted, found, err := object.Text("Encrypt")
	switch {
	case err != nil:
		return "", PushMalformed
	case !found:
		return "", PushPlain
	}
	return encrypted, nil
}

// xmlDirective finds a DOCTYPE, which has no place in a message, and not a
// comment or CDATA.
var xmlDirective = regexp.MustCompile(`<![^-[]`)

// encryptedElement returns the text of the one element Encrypt right below the
// root of an XML document.
func encryptedElement(body []byte) (string, error) {
	var document struct {
		Encrypt []struct {
			Text     string     `xml:",chardata"`
			Elements []struct{} `xml:",any"`
		}
	}
	dec := xml.NewDecoder(bytes.NewReader(body))
	if xmlDirective.Match(body) || dec.Decode(&document) != nil || len(bytes.TrimSpace(body[dec.InputOffset():])) > 0 {
		return "", PushMalformed
	}
	found := document.Encrypt
	switch {
	case len(found) == 0:
		return "", PushPlain
	case len(found) > 1 || len(found[0].Elements) > 0:
		return "", PushMalformed
	}
	return strings.TrimSpace(found[0].Text), nil
}

// pushBlock is the block size of the padding, which is not that of AES.
const pushBlock = 32

// decrypt opens 16 random bytes, the message's length in 4 bytes, the message
// and the appid, which are padded. The signature was judged before, so that an error here tells
// an outsider nothing.
func (v *PushVerifier) decrypt(encrypted string) ([]byte, error) {
	ciphertext, ok := decodeBase64(encrypted)
	if !ok || len(ciphertext) < pushBlock || len(ciphertext)%aes.BlockSize != 0 {
		return nil, PushWrongKey
	}
	plain := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(v.block, v.iv).CryptBlocks(plain, ciphertext)
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > pushBlock || padding > len(plain)-20 {
		return nil, PushWrongKey
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			return nil, PushWrongKey
		}
	}
	plain = plain[16 : len(plain)-padding]
	length := int64(binary.BigEndian.Uint32(plain))
	plain = plain[4:]
	if length > int64(len(plain)) {
		return nil, PushWrongKey
	}
	if string(plain[length:]) != v.appID {
		return nil, PushOtherApp
	}
	return plain[:length], nil
}
