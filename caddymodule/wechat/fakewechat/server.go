// Package fakewechat plays the part of WeChat's API that a login needs, and of
// the server API with its access_tokens, for tests and for the demo, as
// api.weixin.qq.com does: errors with HTTP 200, an errmsg that ends in a rid,
// codes that live for five minutes and work once, one valid session_key per
// user and mini program, and access_tokens that die when another is forced.
//
// A Server can be told to misbehave, call by call: see [Script]. It can be steered
// from Go or, by another process, over HTTP: see [Server.ServeHTTP].
package fakewechat

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// codeLife is how long a code can be exchanged, as WeChat documents it.
	codeLife = 5 * time.Minute

	// keepCalls bounds the memory of calls, and keepCodes that of codes, so
	// that a sandbox can run for days.
	keepCalls = 1 << 16
	keepCodes = 1 << 17

	// keepBody is how much of a call's body is kept.
	keepBody = 2 << 20
)

// A Config says what world a Server plays.
type Config struct {
	// MiniPrograms are the secrets by appid. Other appids are unknown.
	MiniPrograms map[string]string

	// OpenPlatform is set if the mini programs are bound to one Open Platform
	// account, so that users have a unionid.
	OpenPlatform bool

	// Now is the clock for the life of codes and tokens and for watermarks;
	// the default is time.Now.
	Now func() time.Time
}

// A Server is a sandbox WeChat. Its methods may be called by many goroutines.
type Server struct {
	cfg Config
	mux *http.ServeMux

	mu          sync.Mutex
	secrets     map[string]string // by appid
	codes       map[string]*code  // by the code's text
	sweepAt     int               // how many codes there are when expired ones are deleted
	appKeys     map[string]string // of virtual payment, by appid
	phoneCodes  map[string]*code
	sessionKeys map[account]string // the one that is valid
	tokens      map[string]*tokens // by appid
	issued      map[string]issued  // every access_token
	scripts     []*Script          // those with calls left, oldest first
	calls       []Call
	release     chan struct{} // closed by Release
	closed      chan struct{} // closed by Close
	close       func()
}

// An account is a user of a mini program.
type account struct{ appID, user string }

// A code is what wx.login gave a user.
type code struct {
	account
	expires time.Time
	used    bool
}

// A Call is one request to the API that the Server received.
type Call struct {
	Time       time.Time   `json:"time"`
	Method     string      `json:"method"`
	Path       string      `json:"path"`
	AppID      string      `json:"appid"`
	Code       string      `json:"code"`
	Secret     string      `json:"-"` // not shown over HTTP, where a demo's visitors look
	Query      string      `json:"-"` // as it arrived
	Header     http.Header `json:"-"`
	Proto      string      `json:"proto"`
	RemoteAddr string      `json:"remote_addr"`
	Body       []byte      `json:"-"`          // at most its first 2 MiB
	BodyBytes  int64       `json:"body_bytes"` // the length of the whole body
	BodySHA256 string      `json:"body_sha256,omitempty"`
}

// New returns a Server of the given world.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg:         cfg,
		secrets:     make(map[string]string),
		codes:       make(map[string]*code),
		appKeys:     make(map[string]string),
		phoneCodes:  make(map[string]*code),
		tokens:      make(map[string]*tokens),
		issued:      make(map[string]issued),
		sessionKeys: make(map[account]string),
		release:     make(chan struct{}),
		closed:      make(chan struct{}),
	}
	s.close = sync.OnceFunc(func() { close(s.closed) })
	maps.Copy(s.secrets, cfg.MiniPrograms)
	s.mux = s.routes()
	return s
}

// SetSecret changes or adds a mini program, as its owner does on WeChat's
// site. The former secret is invalid at once.
func (s *Server) SetSecret(appID, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[appID] = secret
}

// SetAppKey sets the AppKey of a mini program's virtual payment.
func (s *Server) SetAppKey(appID, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appKeys[appID] = key
}

// IssueCode returns a fresh code for a user of a mini program, as wx.login
// does. Users are any names; they exist by being named.
func (s *Server) IssueCode(appID, user string) string {
	text := randomText(32)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if len(s.codes) >= max(keepCodes, s.sweepAt) {
		maps.DeleteFunc(s.codes, func(_ string, c *code) bool { return now.After(c.expires) })
		s.sweepAt = 2 * len(s.codes) // or many live codes would be looked through for each new one
	}
	s.codes[text] = &code{account: account{appID, user}, expires: now.Add(codeLife)}
	return text
}

// OpenID returns the openid of a user of a mini program, which is always the same.
func (s *Server) OpenID(appID, user string) string { return id("openid", appID, user) }

// UnionID returns the user's unionid, or nothing without an Open Platform account.
func (s *Server) UnionID(user string) string {
	if !s.cfg.OpenPlatform {
		return ""
	}
	return id("unionid", user)
}

// SessionKey returns the session_key that is valid for the user now; empty
// before the first login.
func (s *Server) SessionKey(appID, user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionKeys[account{appID, user}]
}

// Calls returns the calls received since the start or Reset, oldest first. Of
// very many only the latest are kept.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// CallsWith returns how often a code was received.
func (s *Server) CallsWith(code string) int {
	n := 0
	for _, call := range s.Calls() {
		if call.Code == code {
			n++
		}
	}
	return n
}

// CallsTo returns the calls of a path since the start or Reset, oldest first.
func (s *Server) CallsTo(path string) []Call {
	return slices.DeleteFunc(s.Calls(), func(call Call) bool { return call.Path != path })
}

// Reset forgets scripts and calls and lets held calls go on. Codes, users and
// secrets stay.
func (s *Server) Reset() {
	s.mu.Lock()
	s.scripts, s.calls = nil, nil
	s.mu.Unlock()
	s.Release()
}

// Close ends every answer that is held, dripping or endless, so that an
// http.Server that serves s can shut down.
func (s *Server) Close() { s.close() }

// receive reads a call's body, records the call, of which appid and code are
// given, and returns the script for it and what is recorded.
func (s *Server) receive(r *http.Request, call Call) (*Script, Call) {
	hash := sha256.New()
	start, err := io.ReadAll(io.TeeReader(io.LimitReader(r.Body, keepBody), hash))
	rest, restErr := io.Copy(hash, r.Body)
	if err != nil || restErr != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	call.Time = s.cfg.Now()
	call.Method, call.Path, call.Query = r.Method, r.URL.Path, r.URL.RawQuery
	call.Secret = r.URL.Query().Get("secret")
	call.Header, call.Proto, call.RemoteAddr = r.Header.Clone(), r.Proto, r.RemoteAddr
	call.BodyBytes, call.Body = int64(len(start))+rest, start
	if call.BodyBytes > 0 {
		call.BodySHA256 = hex.EncodeToString(hash.Sum(nil))
	}
	if call.AppID == "" {
		call.AppID = s.appOf(call)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) >= keepCalls {
		s.calls = slices.Clone(s.calls[keepCalls/2:])
	}
	s.calls = append(s.calls, call)
	for i, script := range s.scripts {
		if !script.isFor(call) {
			continue
		}
		if script.Calls--; script.Calls == 0 {
			s.scripts = slices.Delete(s.scripts, i, i+1)
		}
		return script, call
	}
	return new(Script), call
}

// id returns 28 characters like those of a real openid.
func id(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		// The length keeps ("a", "bc") apart from ("ab", "c").
		h.Write([]byte{byte(len(part) >> 8), byte(len(part))})
		h.Write([]byte(part))
	}
	return "o" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))[:27]
}

// randomText returns n letters and digits.
func randomText(n int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	text := randomBytes(n)
	for i, b := range text {
		text[i] = alphabet[int(b)%len(alphabet)]
	}
	return string(text)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never returns an error
	return b
}

// randomKey returns a key as a session_key is.
func randomKey() string { return base64.StdEncoding.EncodeToString(randomBytes(16)) }
