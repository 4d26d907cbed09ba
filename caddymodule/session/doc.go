// Package session keeps the login sessions of WeChat mini programs.
//
// A login makes a token of 32 random bytes. The client keeps the token; the
// Store keeps only its SHA-256, under which lies a record that says who logged
// in. A second record per user lists the sessions that are live:
//
//	session:<SHA-256 of the token>       who, since when, last seen, until when
//	user:<keyed hash of appid, openid>   generation, live sessions, session_key
//	meta                                 the key of that keyed hash
//
// A session is good only while its user's record lists it under the same
// generation. Ending one session, or all of a user, is therefore one atomic
// write of one record, in force at once on every node, and no lost delete can
// bring a session back to life.
//
// Every value is sealed with AES-256-GCM before it reaches the Store, with its
// storage key as additional data: neither the engine nor its backups hold an
// openid or a session_key in the clear, and a record that is moved to another
// key does not open.
//
// The Manager is the only caller of a Store. It decides expiry from the
// records, never from the store's ttl, and tells "no live session" (ErrInvalid)
// apart from "the store cannot answer" (every other error).
package session
