package caddymodule

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
)

func init() {
	caddy.RegisterModule(new(RedisStore))
}

// RedisStore keeps sessions in Redis or Valkey, so that several gateways share
// them. All of them need the same encryption_key.
type RedisStore struct {
	// host:port, or a URL redis://, rediss:// (TLS) or unix://. Several
	// addresses are those of a cluster, or of the sentinels. An address may be
	// or hold a placeholder, such as {env.REDIS_URL}; only then may it have a
	// password. Sentinels get the password of their URL, and no other.
	Addresses []string `json:"addresses,omitempty"`

	// The ACL user and its password; write them as {env.NAME} or {file./path}.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// The database number; a cluster has only 0. Default: 0
	DB int `json:"db,omitempty"`

	// What every key begins with. Default: wxgate:
	KeyPrefix string `json:"key_prefix,omitempty"`

	// Whether to speak TLS, with the system's certificate authorities.
	TLS bool `json:"tls,omitempty"`

	// The name of the master, if the addresses are sentinels.
	Sentinel string `json:"sentinel,omitempty"`

	// How long making a connection may take. Default: 1s
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// How long one command may take; then the request is answered 503.
	// Default: 500ms
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Whether the server tells this gateway about changes (CLIENT TRACKING),
	// so that a session in use costs no round trip. Turn it off for a server
	// that forbids it; every request then asks the server. Default: on
	ClientCache *bool `json:"client_cache,omitempty"`

	logger    *slog.Logger
	addresses []string
	username  string
	password  string
}

// CaddyModule returns the Caddy module information.
func (*RedisStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "wxgate.stores.redis",
		New: func() caddy.Module { return new(RedisStore) },
	}
}

// Provision checks the options and resolves the placeholders.
func (s *RedisStore) Provision(ctx caddy.Context) error {
	s.logger = ctx.Slogger()
	s.KeyPrefix = cmp.Or(s.KeyPrefix, redisstore.DefaultKeyPrefix)
	s.DialTimeout = cmp.Or(s.DialTimeout, caddy.Duration(redisstore.DefaultDialTimeout))
	s.Timeout = cmp.Or(s.Timeout, caddy.Duration(redisstore.DefaultTimeout))
	if err := s.check(); err != nil {
		return fmt.Errorf("store redis: %w", err)
	}
	for _, secret := range []struct {
		name, raw string
		value     *string
	}{
		{"username", s.Username, &s.username},
		{"password", s.Password, &s.password},
	} {
		value, written, err := resolveSecret(secret.raw)
		if err != nil {
			return fmt.Errorf("store redis: %s: %w", secret.name, err)
		}
		if written && value != "" && secret.name == "password" {
			s.logger.Warn("a secret is written out in the configuration: it is visible in the Caddyfile, at /config of the admin endpoint and in autosave.json; write it as {env.NAME} or {file./path}", "secret", "the redis password")
		}
		*secret.value = value
	}
	for i, raw := range s.Addresses {
		address, _, err := resolveSecret(raw)
		if err != nil {
			return fmt.Errorf("store redis: address %d: %w", i+1, err)
		}
		s.addresses = append(s.addresses, address)
	}
	if err := s.options().Check(); err != nil {
		return fmt.Errorf("store redis: %w", err)
	}
	return nil
}

func (s *RedisStore) check() error {
	if len(s.Addresses) == 0 {
		return errors.New("no address is given: write `store redis <host:port>`")
	}
	for _, address := range s.Addresses {
		if err := checkRedisAddress(address); err != nil {
			return err
		}
	}
	if s.DB < 0 {
		return errors.New("db must be 0 or more")
	}
	return cmp.Or(named("dial_timeout", checkDuration(s.DialTimeout)), named("timeout", checkDuration(s.Timeout)))
}

// checkRedisAddress refuses a URL with a password in it, because the
// configuration is visible in many places; the address is not repeated.
func checkRedisAddress(address string) error {
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		return nil
	}
	switch strings.ToLower(scheme) {
	case "redis", "rediss", "unix":
	default:
		if strings.ContainsFunc(scheme, func(r rune) bool { return !unicode.IsLetter(r) }) {
			return errors.New("an address is neither host:port nor a redis:// or rediss:// URL")
		}
		return fmt.Errorf("the scheme %q of an address is not redis, rediss or unix", scheme)
	}
	// With placeholders it is no URL yet.
	userinfo := rest[:max(0, strings.LastIndex(rest, "@"))]
	_, password, _ := strings.Cut(placeholderPattern.ReplaceAllString(userinfo, ""), ":")
	if password != "" {
		return errors.New("an address holds a password: use the options username and password, with {env.NAME} or {file./path}")
	}
	return nil
}

// StoreName implements StoreModule. Other options make another connection, so
// they are part of the name, the secrets only as a hash.
func (s *RedisStore) StoreName() string {
	all, _ := json.Marshal(s) // plain fields only: it cannot fail
	resolved := append([]string{string(all), s.username, s.password}, s.addresses...)
	sum := sha256.Sum256([]byte(strings.Join(resolved, "\x00")))
	return "redis " + strings.Join(s.Addresses, " ") + " " + hex.EncodeToString(sum[:8])
}

// StoreTitle implements StoreTitler. StoreName ends with a hash of the options,
// and with that passwords could be tried.
func (s *RedisStore) StoreTitle() string { return "redis " + strings.Join(s.Addresses, " ") }

// SharedByNodes implements SharedByNodes.
func (s *RedisStore) SharedByNodes() {}

// Open implements StoreModule.
func (s *RedisStore) Open(ctx context.Context) (session.Store, error) {
	return redisstore.Open(ctx, s.options())
}

func (s *RedisStore) options() redisstore.Options {
	return redisstore.Options{
		Addresses:      s.addresses,
		Username:       s.username,
		Password:       s.password,
		DB:             s.DB,
		KeyPrefix:      s.KeyPrefix,
		TLS:            s.tls(),
		SentinelMaster: s.Sentinel,
		DialTimeout:    time.Duration(s.DialTimeout),
		Timeout:        time.Duration(s.Timeout),
		ClientCache:    s.ClientCache == nil || *s.ClientCache,
		Logger:         s.logger,
	}
}

// tls is nil where only a rediss:// URL asks for it.
func (s *RedisStore) tls() *tls.Config {
	if !s.TLS {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12}
}

// UnmarshalCaddyfile reads
//
//	store redis <address>... {
//		username <u>
//		password <p>
//		db <n>
//		key_prefix <s>
//		tls
//		sentinel <master name>
//		dial_timeout <d>
//		timeout <d>
//		client_cache on|off
//	}
func (s *RedisStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	var err error
	if s.Addresses, err = checkedArgs(checkRedisAddress)(d); err != nil {
		return err
	}
	return block(d, options{
		"username":     into(d, &s.Username, oneArg),
		"password":     into(d, &s.Password, oneArg),
		"key_prefix":   into(d, &s.KeyPrefix, oneArg),
		"sentinel":     into(d, &s.Sentinel, oneArg),
		"db":           into(d, &s.DB, atLeast(0)),
		"tls":          into(d, &s.TLS, flagArg),
		"dial_timeout": into(d, &s.DialTimeout, durationArg),
		"timeout":      into(d, &s.Timeout, durationArg),
		"client_cache": into(d, &s.ClientCache, onOffArg),
	})
}

// Interface guards
var (
	_ StoreModule           = (*RedisStore)(nil)
	_ StoreTitler           = (*RedisStore)(nil)
	_ SharedByNodes         = (*RedisStore)(nil)
	_ caddy.Provisioner     = (*RedisStore)(nil)
	_ caddyfile.Unmarshaler = (*RedisStore)(nil)
)
