package fakewechat

import (
	"crypto/aes"
	"crypto/sha1" // #nosec G505 -- WeChat's signature
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// PushConfig is what a mini program's operator enters for message push.
type PushConfig struct {
	AppID          string
	Token          string
	EncodingAESKey string // empty: plain mode
	XML            bool   // instead of JSON
}

// sign returns the query of a request that is made at a time.
func (c PushConfig) sign(at time.Time) url.Values {
	query := url.Values{"timestamp": {fmt.Sprint(at.Unix())}, "nonce": {fmt.Sprint(rand.Uint32())}}
	query.Set("signature", PushSignature(c.Token, query.Get("timestamp"), query.Get("nonce")))
	return query
}

// PushSignature returns the signature of the parts.
func PushSignature(parts ...string) string {
	slices.Sort(parts)
	sum := sha1.Sum([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(sum[:])
}

// Check returns the query of the GET that checks the URL. The right answer to it
// is echo.
func (c PushConfig) Check(echo string, at time.Time) url.Values {
	query := c.sign(at)
	query.Set("echostr", echo)
	return query
}

// Seal returns the query and the body of the POST that pushes a message.
func (c PushConfig) Seal(message string, at time.Time) (query url.Values, body string) {
	query = c.sign(at)
	query.Set("openid", "oSender")
	if c.EncodingAESKey == "" {
		return query, message
	}
	encrypted := c.Encrypt(message)
	query.Set("encrypt_type", "aes")
	query.Set("msg_signature", PushSignature(c.Token, query.Get("timestamp"), query.Get("nonce"), encrypted))
	if c.XML {
		return query, "<xml><ToUserName><![CDATA[gh_sandbox]]></ToUserName><Encrypt><![CDATA[" + encrypted + "]]></Encrypt></xml>"
	}
	text, _ := json.Marshal(map[string]string{"ToUserName": "gh_sandbox", "Encrypt": encrypted})
	return query, string(text)
}

// Encrypt returns a message as it stands in Encrypt.
func (c PushConfig) Encrypt(message string) string {
	key, err := base64.StdEncoding.DecodeString(c.EncodingAESKey + "=")
	if err != nil {
		panic("fakewechat: the EncodingAESKey is not base64")
	}
	plain := binary.BigEndian.AppendUint32(randomBytes(16), uint32(len(message)))
	plain = append(append(plain, message...), c.AppID...)
	encrypted, err := encryptCBC(key, key[:aes.BlockSize], plain, 32)
	if err != nil {
		panic("fakewechat: the EncodingAESKey is not a key")
	}
	return base64.StdEncoding.EncodeToString(encrypted)
}

// Push sends a message to address, as WeChat would.
func (c PushConfig) Push(address, message string) (status int, answer string, err error) {
	query, body := c.Seal(message, time.Now())
	contentType := "application/json"
	if c.XML {
		contentType = "text/xml"
	}
	resp, err := http.Post(address+"?"+query.Encode(), contentType, strings.NewReader(body)) // #nosec G107 -- a sandbox on loopback
	if err != nil {
		return 0, "", fmt.Errorf("pushing: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxControlBody))
	return resp.StatusCode, string(text), err
}

// servePush pushes the body of the request.
func (s *Server) servePush(w http.ResponseWriter, r *http.Request) {
	message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBody))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	query := r.URL.Query()
	cfg := PushConfig{
		AppID: query.Get("appid"), Token: query.Get("token"), EncodingAESKey: query.Get("key"), XML: query.Get("xml") != "",
	}
	status, answer, err := cfg.Push(query.Get("url"), string(message))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	writeJSON(w, map[string]any{"status": status, "answer": answer})
}
