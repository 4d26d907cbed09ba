// Package redisstore is a session.Store on Redis or Valkey, for gateways that
// run on more than one machine and share their sessions.
//
// A single server, a Cluster and Sentinel are all spoken to through
// [rueidis]; the keys need not share a slot. It takes Redis 6 or any Valkey;
// an older Redis works as a single server with ClientCache off.
//
// # Reading without a round trip
//
// The store keeps no values in memory. With Options.ClientCache it is a
// session.Observer, so the session.Manager on top of it can: every read asks
// the server to remember that this connection has seen the key (CLIENT
// TRACKING, OPTIN), and the server pushes one message over the same connection
// when the key changes. A reply and the message that makes it stale therefore
// arrive in that order, and when the connection is lost everything that was
// read over it is given up. So a session that is revoked on one machine ends
// on the others after one message, normally within milliseconds. A partition
// can swallow the message: the connection is then given up after two seconds
// and Options.Timeout, and no value may be kept for longer than [MaxAge] in
// any case.
//
// rueidis has a cache of its own, which is not used. It may serve the old
// value after this process has written the new one, until the server's message
// is here, and that would break the promise of session.Observer.
//
// # What the server must allow
//
// GET, MGET, SET with PX, DEL, PERSIST, EVAL, HELLO, AUTH, SELECT, PING and ECHO; CLIENT
// TRACKING and CLIENT CACHING with ClientCache; CLUSTER SLOTS (or SHARDS) in a
// cluster; ROLE and SENTINEL with Sentinel; SCAN, PTTL, DBSIZE and RANDOMKEY for
// counting and moving sessions; INFO, if a warning about eviction is wanted.
// EVAL runs one script, an atomic compare-and-swap of one key by GET, SET, DEL
// and, if memory is short, PERSIST.
//
// # What Redis does not promise
//
// A write that was acknowledged is as durable as the server makes it. Redis
// copies to replicas after it has answered, so a failover may lose the last
// writes, a revocation among them; min-replicas-to-write bounds that, and
// appendfsync always makes a write survive the loss of power. A server that
// evicts keys (a maxmemory-policy other than noeviction) ends sessions when it
// pleases; Open warns about it. One that is full and does not evict refuses
// every Update that makes a value longer; revoking a session does not.
//
// [rueidis]: https://github.com/redis/rueidis
package redisstore
