package fakewechat

import (
	"encoding/json"
	"net/http"
	"time"
)

// The rules for access_tokens, as WeChat documents them.
const (
	tokenLife      = 2 * time.Hour
	tokenOverlap   = 5 * time.Minute // for which a token outlives its successor's birth
	forcePause     = 30 * time.Second
	forcesEachDay  = 20
	tokenPath      = "/cgi-bin/token"
	stablePath     = "/cgi-bin/stable_token"
	tokenTextBytes = 136
)

// tokens are what a mini program has been given.
type tokens struct {
	stable, plain string // the newest
	lingering     bool   // stable is given out to its last second; see SetToken
	forced        []time.Time
}

// issued is what is known of one access_token.
type issued struct {
	appID   string
	expires time.Time
	dead    bool // replaced by force
}

// Token returns the access_token that stable_token gives out now, or nothing.
func (s *Server) Token(appID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokensOf(appID).stable
}

// SetToken makes a token that lives for so long the one that stable_token gives
// out until then, also in its last five minutes.
func (s *Server) SetToken(appID string, life time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokensOf(appID)
	t.stable, t.lingering = s.issueToken(appID, life), true
	return t.stable
}

// Revoke kills the token that stable_token gave out, as another holder of the
// secret does with force_refresh. If stale, stable_token goes on giving out the
// dead token until it is forced, as has been seen.
func (s *Server) Revoke(appID string, stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokensOf(appID)
	s.kill(t.stable)
	if !stale {
		t.stable, t.lingering = s.issueToken(appID, tokenLife), false
	}
}

// stableToken serves POST /cgi-bin/stable_token.
func (s *Server) stableToken(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		GrantType    string `json:"grant_type"`
		AppID        string `json:"appid"`
		Secret       string `json:"secret"`
		ForceRefresh bool   `json:"force_refresh"`
	}
	script, call := s.receive(r, Call{})
	s.play(w, r, script, func() (string, []byte) {
		if err := json.Unmarshal(call.Body, &ask); err != nil {
			return jsonUTF8, encode(s.fault(47001, "data format error"))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if fault := s.tokenFault(ask.AppID, ask.Secret, ask.GrantType); fault != nil {
			return jsonUTF8, encode(fault)
		}
		t, now := s.tokensOf(ask.AppID), s.cfg.Now()
		left := s.issued[t.stable].expires.Sub(now)
		switch {
		case ask.ForceRefresh && len(t.forced) >= forcesEachDay && now.Sub(t.forced[len(t.forced)-forcesEachDay]) < 24*time.Hour:
			return jsonUTF8, encode(s.fault(45009, "reach max api daily quota limit"))
		case ask.ForceRefresh && (len(t.forced) == 0 || now.Sub(t.forced[len(t.forced)-1]) >= forcePause):
			s.kill(t.stable)
			t.forced = append(t.forced, now)
			t.stable, t.lingering = s.issueToken(ask.AppID, tokenLife), false
		case left <= 0, left <= tokenOverlap && !t.lingering:
			t.stable, t.lingering = s.issueToken(ask.AppID, tokenLife), false
		}
		return jsonUTF8, s.tokenReply(t.stable)
	})
}

// plainToken serves GET /cgi-bin/token, whose tokens have nothing to do with
// those of stable_token.
func (s *Server) plainToken(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	script, _ := s.receive(r, Call{AppID: query.Get("appid")})
	s.play(w, r, script, func() (string, []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		appID := query.Get("appid")
		if fault := s.tokenFault(appID, query.Get("secret"), query.Get("grant_type")); fault != nil {
			return jsonUTF8, encode(fault)
		}
		t := s.tokensOf(appID)
		if former, ok := s.issued[t.plain]; ok {
			if end := s.cfg.Now().Add(tokenOverlap); end.Before(former.expires) {
				former.expires = end
				s.issued[t.plain] = former
			}
		}
		t.plain = s.issueToken(appID, tokenLife)
		return jsonUTF8, s.tokenReply(t.plain)
	})
}

// tokenFault returns why a token is not given, or nil.
func (s *Server) tokenFault(appID, secret, grantType string) *reply {
	known, ok := s.secrets[appID]
	switch {
	case appID == "":
		return s.fault(41002, "appid missing")
	case !ok:
		return s.fault(40013, "invalid appid")
	case grantType != "client_credential":
		return s.fault(40002, "invalid grant_type")
	case secret == "":
		return s.fault(41004, "appsecret missing")
	case secret != known:
		return s.fault(40125, "invalid appsecret")
	}
	return nil
}

// tokenJudgment returns the fault of a token, or nil and whose it is.
func (s *Server) tokenJudgment(token string) (appID string, fault *reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.issued[token]
	switch {
	case token == "":
		return "", s.fault(41001, "access_token missing")
	case !ok || known.dead:
		return "", s.fault(40001, "invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r")
	case !s.cfg.Now().Before(known.expires):
		return "", s.fault(42001, "access_token expired")
	}
	return known.appID, nil
}

func (s *Server) tokensOf(appID string) *tokens {
	if s.tokens[appID] == nil {
		s.tokens[appID] = new(tokens)
	}
	return s.tokens[appID]
}

func (s *Server) issueToken(appID string, life time.Duration) string {
	token := "90_" + randomText(tokenTextBytes-3)
	s.issued[token] = issued{appID: appID, expires: s.cfg.Now().Add(life)}
	return token
}

func (s *Server) kill(token string) {
	if known, ok := s.issued[token]; ok {
		known.dead = true
		s.issued[token] = known
	}
}

func (s *Server) tokenReply(token string) []byte {
	left := s.issued[token].expires.Sub(s.cfg.Now())
	return encode(object{"access_token": token, "expires_in": int(left / time.Second)})
}

// appOf returns whose call it is: by its access_token, or by the appid in a
// request for one.
func (s *Server) appOf(call Call) string {
	if call.Path == stablePath {
		var ask struct{ AppID string }
		_ = json.Unmarshal(call.Body, &ask)
		return ask.AppID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued[call.AccessToken()].appID
}
