package redisstore

import (
	"crypto/tls"
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseAddress(t *testing.T) {
	tests := []struct {
		text string
		want endpoint
	}{
		{"redis.internal:6380", endpoint{address: "redis.internal:6380"}},
		{"redis.internal", endpoint{address: "redis.internal:6379"}},
		{"[::1]:6380", endpoint{address: "[::1]:6380"}},
		{"redis://redis.internal", endpoint{address: "redis.internal:6379"}},
		{"redis://redis.internal:6380/", endpoint{address: "redis.internal:6380"}},
		{"redis://[::1]/2", endpoint{address: "[::1]:6379", db: 2}},
		{"REDIS://h/0", endpoint{address: "h:6379"}},
		{"redis://gate@h", endpoint{address: "h:6379", username: "gate"}},
		{"rediss://gate:p%40ss%2F@h:1", endpoint{address: "h:1", tls: true, username: "gate", password: "p@ss/"}},
		{"rediss://:p@h", endpoint{address: "h:6379", tls: true, password: "p"}},
		{"unix:///run/redis.sock", endpoint{address: "/run/redis.sock"}},
		{"unix://gate:p@/run/redis.sock?db=3", endpoint{address: "/run/redis.sock", username: "gate", password: "p", db: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseAddress(tt.text, "6379")
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, text := range []string{
		"", ":6379", "h:", "h:0", "h:65536", "h:port", "a:b:c", "]", "h h:1", "/run/redis.sock",
		"gate:canary@h:6379", "canary@h", "h:1/canary", "h:1?canary",
		"http://canary@h", "valkey://canary@h", "redis://", "redis://:canary@", "redis://:canary@h:port", "redis://:canary@h/x",
		"redis://:canary@h/-1", "redis://:canary@h/1/2", "redis://:canary@h/99999999999", "redis://:canary@h?db=1",
		"redis://:canary@h#x", "redis://:canary%zz@h", "redis://gate:canary/x@h", "redis:canary",
		"unix://canary", "unix://h/canary", "unix:///run/redis.sock?canary=1", "unix:///run/redis.sock?db=canary",
		"redis://canary\x7f@h", "redis://h\ncanary",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := parseAddress(text, "6379")
			require.Error(t, err)
			require.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestAddressesAndOptionsMustAgree(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		says    string
	}{
		{"passwords of two URLs", Options{Addresses: []string{"redis://:canary@a", "redis://:other@b"}}, "address 2 differs"},
		{"TLS and not", Options{Addresses: []string{"redis://a", "rediss://b"}}, "address 2 differs"},
		{"databases of two URLs", Options{Addresses: []string{"redis://a/1", "redis://b"}}, "address 2 differs"},
		{"password twice", Options{Addresses: []string{"redis://:canary@a"}, Password: "other"}, "another password"},
		{"user twice", Options{Addresses: []string{"redis://canary@a"}, Username: "other"}, "another user"},
		{"database twice", Options{Addresses: []string{"redis://a/1"}, DB: 2}, "another database"},
		{"negative database", Options{Addresses: []string{"a"}, DB: -1}, "negative"},
		{"negative timeout", Options{Addresses: []string{"a"}, Timeout: -1}, "positive"},
		{"socket among others", Options{Addresses: []string{"a", "unix:///b"}}, "only address"},
		{"database of a Sentinel", Options{Addresses: []string{"redis://a/1"}, SentinelMaster: "m"}, "Sentinel"},
		{"database of a cluster", Options{Addresses: []string{"a", "b"}, DB: 1}, "no database 1"},
		{"database of a cluster in the URLs", Options{Addresses: []string{"redis://a/1", "redis://b/1"}}, "no database 1"},
		{"TLS on a socket", Options{Addresses: []string{"unix:///a"}, TLS: new(tls.Config)}, "takes no TLS"},
		{"nothing", Options{}, "at least one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.options.Check()
			require.ErrorContains(t, err, tt.says)
			require.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestSentinelsHaveTheirOwnPort(t *testing.T) {
	opt, err := Options{Addresses: []string{"a", "b:1"}, SentinelMaster: "m"}.withDefaults().clientOption()
	require.NoError(t, err)
	require.Equal(t, []string{"a:26379", "b:1"}, opt.InitAddress)
}

// refusals are all that parseAddress says. They hold nothing of the address.
var refusals = []string{
	"not host:port; a user, a password or a database needs a redis:// URL",
	"not host:port or a redis:// URL",
	"a redis:// URL takes no query: use the options",
	"a unix:// URL needs an absolute path and takes no query but db: unix:///run/redis.sock?db=1",
	"the scheme must be redis, rediss or unix",
	"the database is not a number",
	"the host is missing or malformed",
	"the port is not a number from 1 to 65535",
}

// What is accepted is a place to dial, and nothing of what is refused is
// repeated.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"h:1", "redis://u:p@h:1/2", "rediss://[::1]", "unix:///s?db=1", "redis://%zz@h", "a@b:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseAddress(text, "6379")
		if err != nil {
			require.Contains(t, refusals, err.Error())
			return
		}
		if isSocket(e.address) {
			return
		}
		host, port, err := net.SplitHostPort(e.address)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		require.Positive(t, n)
		require.Less(t, n, 1<<16)
		require.GreaterOrEqual(t, e.db, 0)
	})
}
