package fakewechat

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// A reply is the body of an answer. Its fields are in WeChat's order.
type reply struct {
	SessionKey string `json:"session_key,omitempty"`
	ExpiresIn  int    `json:"expires_in,omitempty"`
	OpenID     string `json:"openid,omitempty"`
	UnionID    string `json:"unionid,omitempty"`

	// Errcode is absent, a number or a string.
	Errcode any    `json:"errcode,omitempty"`
	Errmsg  string `json:"errmsg,omitempty"`
}

// code2Session serves GET /sns/jscode2session.
func (s *Server) code2Session(w http.ResponseWriter, r *http.Request) {
	script, _ := s.receive(r, Call{AppID: r.URL.Query().Get("appid"), Code: r.URL.Query().Get("js_code")})
	s.play(w, r, script, func() (string, []byte) {
		rep := s.exchange(r.URL.Query())
		if script.Errcode != nil && rep.Errcode == nil {
			rep.Errcode, rep.ExpiresIn = int64(0), 7200
		}
		if script.ErrcodeText && rep.Errcode != nil {
			rep.Errcode = fmt.Sprint(rep.Errcode)
		}
		return jsonAsText, encode(rep)
	})
}

// exchange answers a query as WeChat does, and spends the code if it is good.
func (s *Server) exchange(query url.Values) *reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	appID := query.Get("appid")
	secret, known := s.secrets[appID]
	c := s.codes[query.Get("js_code")]
	switch {
	case appID == "":
		return s.fault(41002, "appid missing")
	case query.Get("secret") == "":
		return s.fault(41004, "appsecret missing")
	case query.Get("js_code") == "":
		return s.fault(41008, "missing code")
	case query.Get("grant_type") != "authorization_code":
		return s.fault(40002, "invalid grant_type")
	case !known:
		return s.fault(40013, "invalid appid")
	case query.Get("secret") != secret:
		return s.fault(40125, "invalid appsecret")
	case c == nil || c.appID != appID || s.cfg.Now().After(c.expires):
		return s.fault(40029, "invalid code")
	case c.used:
		return s.fault(40163, "code been used")
	}
	c.used = true
	// A login may replace the session_key. Here it always does, since that is
	// what a gateway must be able to bear.
	s.sessionKeys[c.account] = randomKey()
	return &reply{SessionKey: s.sessionKeys[c.account], OpenID: s.OpenID(appID, c.user), UnionID: s.UnionID(c.user)}
}

// fault returns the reply for an errcode.
func (s *Server) fault(errcode int64, message string) *reply {
	return &reply{Errcode: errcode, Errmsg: message + ", rid: " + s.rid()}
}

// rid looks like 652d44d0-1d0af18b-5b069232: the time and two random numbers.
func (s *Server) rid() string {
	b := randomBytes(8)
	return fmt.Sprintf("%08x-%x-%x", uint32(s.cfg.Now().Unix()), b[:4], b[4:])
}

// loginPath is code2Session's.
const loginPath = "/sns/jscode2session"

// jsonAsText is how WeChat labels the JSON of code2Session.
const jsonAsText = "text/plain"

func writeReply(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}
