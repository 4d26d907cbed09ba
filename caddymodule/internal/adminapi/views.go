// Package adminapi is the admin API under /wxgate/ as both of its ends use it:
// the answers, and a client.
package adminapi

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Stats is the gateway at a glance. The counters begin with the process and go
// on through reloads.
type Stats struct {
	Build        Build              `json:"build"`
	Store        Store              `json:"store"`
	KeyID        string             `json:"key_id"`             // of the encryption key that seals
	Sessions     *int64             `json:"sessions,omitempty"` // estimated; absent if the store cannot count
	Logins       map[string]int64   `json:"logins"`             // by result, all mini programs together
	MiniPrograms []MiniProgramStats `json:"mini_programs"`
	Requests     map[string]int64   `json:"requests"`    // by result
	Revocations  map[string]int64   `json:"revocations"` // by reason
	APICalls     map[string]int64   `json:"api_calls"`   // through wxgate_api, by result
}

// Build is what a binary was built from.
type Build struct {
	Version string `json:"version"` // of wxgate
	Caddy   string `json:"caddy"`
	Go      string `json:"go"`
}

// Store is the session store of the gateway.
type Store struct {
	Kind    string  `json:"kind"`              // the name of its module
	Name    string  `json:"name"`              // such as its directory
	Options string  `json:"options,omitempty"` // that need a restart to change
	Free    *uint64 `json:"free_bytes,omitempty"`

	// Why the store does not answer; empty if it does.
	Down string `json:"down,omitempty"`

	// Why there is no room for new logins; empty if there is.
	Full string `json:"full,omitempty"`
}

// MiniProgramStats are the counters of one mini program.
type MiniProgramStats struct {
	AppID  string           `json:"appid"`
	Logins map[string]int64 `json:"logins"` // by result
}

// User is a user of a mini program and his live sessions.
type User struct {
	AppID    string    `json:"appid"`
	OpenID   string    `json:"openid"`
	UnionID  string    `json:"unionid,omitempty"`
	LogName  string    `json:"log_name"` // what stands for the openid in logs
	Sessions []Session `json:"sessions"`
}

// Users are the users with one UnionID.
type Users struct {
	Users []User `json:"users"`
}

// Session is a live session.
type Session struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"` // up to a tenth of idle_timeout ago
	Expires  time.Time `json:"expires"`   // if it is not used again
}

// Revoked is the number of sessions that a request revoked.
type Revoked struct {
	Revoked int `json:"revoked"`
}

// RevokedAll is the answer to revoking every session, or those of one mini
// program.
type RevokedAll struct {
	All   bool   `json:"all"` // always true
	AppID string `json:"appid,omitempty"`
}

// IsSessionID reports whether a text has the form of a session's id.
var IsSessionID = regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString

// UnionIDPath returns the path of the route of the users with a UnionID.
func UnionIDPath(unionID string) string {
	return "/wxgate/users?" + url.Values{"unionid": {unionID}}.Encode()
}

// AllPath returns the path of the route of all users, or those of a mini program.
func AllPath(appID string) string {
	if appID == "" {
		return "/wxgate/users"
	}
	return "/wxgate/users?" + url.Values{"appid": {appID}}.Encode()
}

// UserPath returns the path of the route of a user.
func UserPath(appID, openID string) string {
	escaped := url.PathEscape(openID)
	// Dot segments mean something else, wherever they stand in a path.
	if openID == "." || openID == ".." {
		escaped = strings.ReplaceAll(openID, ".", "%2E")
	}
	return "/wxgate/users/" + url.PathEscape(appID) + "/" + escaped
}
