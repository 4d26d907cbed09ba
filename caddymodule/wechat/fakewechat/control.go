package fakewechat

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// maxControlBody bounds the body of a control request.
const maxControlBody = 1 << 20

// ServeHTTP serves WeChat's API
//
//	GET  /sns/jscode2session
//	POST /cgi-bin/stable_token
//	GET  /cgi-bin/token
//	     /cgi-bin/… /wxa/… /wxaapi/… /xpay/…  the server API
//
// and, for other processes, what steers it:
//
//	POST   /fake/code?appid=A&user=U      {"code":"…"}: a fresh code, see IssueCode
//	GET    /fake/user?appid=A&user=U      {"openid":"…","unionid":"…"}
//	POST   /fake/phone?appid=A&user=U     {"code":"…"}: see IssuePhoneCode
//	POST   /fake/revoke?appid=A[&stale=1] see Revoke
//	POST   /fake/script                   one Script or a list of them, as JSON
//	POST   /fake/release                  see Release
//	GET    /fake/calls[?code=C]           the calls received, as a list of Call
//	POST   /fake/reset                    see Reset
//	POST   /fake/opendata?appid=A&user=U  see OpenData; the body, if any, is the fields as JSON
//	POST   /fake/push?url=U&appid=A&token=T[&key=K][&xml=1]
//	                                      pushes the body to U, see PushConfig; {"status":200,"answer":"…"}
//
// They let anyone log in as anyone in this sandbox: serve it on
// loopback only.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sns/jscode2session", s.code2Session)
	mux.HandleFunc("POST /cgi-bin/stable_token", s.stableToken)
	mux.HandleFunc("GET /cgi-bin/token", s.plainToken)
	for _, prefix := range []string{"/cgi-bin/", "/wxa/", "/wxaapi/", "/xpay/"} {
		mux.HandleFunc(prefix, s.callAPI)
	}
	for route, answer := range map[string]func(appID, user string) object{
		"POST /fake/code":  func(appID, user string) object { return object{"code": s.IssueCode(appID, user)} },
		"POST /fake/phone": func(appID, user string) object { return object{"code": s.IssuePhoneCode(appID, user)} },
		"GET /fake/user": func(appID, user string) object {
			return object{"openid": s.OpenID(appID, user), "unionid": s.UnionID(user)}
		},
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			if appID, user, ok := s.appAndUser(w, r); ok {
				writeJSON(w, answer(appID, user))
			}
		})
	}
	for route, act := range map[string]func(r *http.Request){
		"POST /fake/revoke":  func(r *http.Request) { s.Revoke(r.FormValue("appid"), r.FormValue("stale") != "") },
		"POST /fake/release": func(*http.Request) { s.Release() },
		"POST /fake/reset":   func(*http.Request) { s.Reset() },
	} {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			act(r)
			w.WriteHeader(http.StatusNoContent)
		})
	}
	mux.HandleFunc("POST /fake/script", s.serveScript)
	mux.HandleFunc("GET /fake/calls", s.serveCalls)
	mux.HandleFunc("POST /fake/opendata", s.serveOpenData)
	mux.HandleFunc("POST /fake/push", s.servePush)
	return mux
}

func (s *Server) serveScript(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBody))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	body = bytes.TrimSpace(body)
	if !bytes.HasPrefix(body, []byte("[")) {
		body = append(append([]byte("["), body...), ']')
	}
	// A misspelt member would silently test nothing.
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	var scripts []Script
	if err := dec.Decode(&scripts); err != nil {
		http.Error(w, "not a script: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.Script(scripts...)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveCalls(w http.ResponseWriter, r *http.Request) {
	code := r.FormValue("code")
	calls := []Call{}
	for _, call := range s.Calls() {
		if code == "" || call.Code == code {
			calls = append(calls, call)
		}
	}
	writeJSON(w, calls)
}

func (s *Server) serveOpenData(w http.ResponseWriter, r *http.Request) {
	appID, user, ok := s.appAndUser(w, r)
	if !ok {
		return
	}
	var fields map[string]any
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody)).Decode(&fields)
	if err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, "the body is not a JSON object", http.StatusBadRequest)
		return
	}
	data, err := s.OpenData(appID, user, fields)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, data)
}

// appAndUser reads the query, and answers if the mini program is unknown or the user has no name.
func (s *Server) appAndUser(w http.ResponseWriter, r *http.Request) (appID, user string, ok bool) {
	query := r.URL.Query()
	appID, user = query.Get("appid"), query.Get("user")
	s.mu.Lock()
	_, known := s.secrets[appID]
	s.mu.Unlock()
	switch {
	case !known:
		http.Error(w, "unknown appid", http.StatusNotFound)
	case user == "":
		http.Error(w, "the user has no name", http.StatusBadRequest)
	default:
		return appID, user, true
	}
	return "", "", false
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that is gone needs no answer
}
