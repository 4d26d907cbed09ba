// Package identity decides which parts of a request may come in from a client
// and which headers go on to the upstream: it takes the session token off a
// request, removes every spelling of a header that could name a user, writes
// the user's headers, and matches public paths.
//
// It knows net/http only: no Caddy, no sessions, no configuration files.
package identity
