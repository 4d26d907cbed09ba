package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// OpenData says on which paths the body may hold WeChat's encrypted open data,
// which the gateway then decrypts and verifies.
type OpenData struct {
	// Path patterns, case-sensitive, as in `public`.
	Paths []string `json:"paths,omitempty"`

	// How old the data's watermark may be; 0 means any age. Default: 10m
	MaxAge *caddy.Duration `json:"max_age,omitempty"`
}

// errOpenDataRejected says that open data does not verify, for whatever reason.
var errOpenDataRejected = errors.New("open data rejected")

func (o *OpenData) setDefaults() {}

func (o *OpenData) check() error {
	return errors.New("open data is not built yet")
}

func (h *Handler) openData(http.ResponseWriter, *http.Request, *session.Session) error { return nil }
