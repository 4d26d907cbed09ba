// Package session keeps the login sessions of WeChat mini programs.
//
// A login makes a token of 32 random bytes. The client keeps the token; the
// Store keeps only its SHA-256. There are two records per login:
//
//	session:<SHA-256 of the token>             user, created, last seen, expires
//	user:<SHA-256 of appid, NUL and openid>    generation, live sessions, session_key
//	meta                                       generations of the store
//
// A session is live only while its user's record lists it, under the user's
// generation, and its own generation is the store's. So revoking one session,
// all of a user or all of the store is one atomic write of one record, which
// counts at once on every node, and no lost deletion revives a session.
//
// Every value is sealed with AES-256-GCM before it reaches the Store, with its
// storage key as additional data: neither the engine nor its backups hold an
// openid or a session_key in the clear, and a record that is moved to another
// key does not open.
//
// The Manager is the only caller of a Store. It decides expiry from the
// records, never from the store's ttl, and tells "no live session" (ErrInvalid)
// apart from "the store cannot answer" (every other error). A record that does
// not open is reported and is no live session.
package session
