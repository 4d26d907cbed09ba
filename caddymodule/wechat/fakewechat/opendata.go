package fakewechat

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// ErrNoSession is returned when a user has not logged in, so that there is no session_key.
var ErrNoSession = errors.New("the user has no session_key yet")

// OpenData is what the mini program's wx functions hand over: data about the
// user, encrypted with the session_key.
type OpenData struct {
	EncryptedData string `json:"encryptedData"`
	IV            string `json:"iv"`
	RawData       string `json:"rawData"`
	Signature     string `json:"signature"`
}

// OpenData returns fields encrypted with the user's session_key, as
// wx.getUserProfile or wx.getPhoneNumber would. Nil fields are a user's
// profile. A watermark of now is added unless fields have one. rawData is the
// fields without openId, unionId and watermark, and signature is made of it.
func (s *Server) OpenData(appID, user string, fields map[string]any) (OpenData, error) {
	key := s.SessionKey(appID, user)
	if key == "" {
		return OpenData{}, ErrNoSession
	}
	if fields == nil {
		fields = s.profile(appID, user)
	}
	plain := maps.Clone(fields)
	if _, given := plain["watermark"]; !given {
		plain["watermark"] = map[string]any{"appid": appID, "timestamp": s.cfg.Now().Unix()}
	}
	public := maps.Clone(fields)
	for _, name := range []string{"openId", "unionId", "watermark"} {
		delete(public, name)
	}
	plainJSON, err := json.Marshal(plain)
	if err != nil {
		return OpenData{}, fmt.Errorf("encoding open data: %w", err)
	}
	publicJSON, err := json.Marshal(public)
	if err != nil {
		return OpenData{}, fmt.Errorf("encoding raw data: %w", err)
	}
	iv := randomBytes(aes.BlockSize)
	encrypted, err := Encrypt(key, iv, plainJSON)
	if err != nil {
		return OpenData{}, err
	}
	return OpenData{
		EncryptedData: base64.StdEncoding.EncodeToString(encrypted),
		IV:            base64.StdEncoding.EncodeToString(iv),
		RawData:       string(publicJSON),
		Signature:     Sign(key, string(publicJSON)),
	}, nil
}

// profile is what wx.getUserInfo said of a user.
func (s *Server) profile(appID, user string) map[string]any {
	fields := map[string]any{
		"openId": s.OpenID(appID, user), "nickName": user, "gender": 1, "language": "zh_CN",
		"city": "Guangzhou", "province": "Guangdong", "country": "CN",
		"avatarUrl": "https://thirdwx.qlogo.cn/mmopen/vi_32/sandbox/132",
	}
	if unionID := s.UnionID(user); unionID != "" {
		fields["unionId"] = unionID
	}
	return fields
}

// Encrypt encrypts bytes of any kind as WeChat encrypts open data: AES-128-CBC
// with PKCS#7 padding, the key being what sessionKey is the base64 of.
func Encrypt(sessionKey string, iv, plain []byte) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(sessionKey)
	if err != nil {
		return nil, errors.New("the session_key is not base64")
	}
	return encryptCBC(key, iv, plain, aes.BlockSize)
}

// encryptCBC pads plain to a multiple of size as PKCS#7 does, and encrypts it.
func encryptCBC(key, iv, plain []byte, size int) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	padding := size - len(plain)%size
	padded := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	return padded, nil
}

// Sign returns the signature of rawData as WeChat makes it: the hex SHA-1 of it and the
// session_key's text.
func Sign(sessionKey, rawData string) string {
	sum := sha1.Sum([]byte(rawData + sessionKey))
	return hex.EncodeToString(sum[:])
}
