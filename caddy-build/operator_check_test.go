package main_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// healthy is a Caddyfile in which the doctor finds nothing. Each broken set-up
// is this one with something changed.
const healthy = `{
	admin $ADMIN
	auto_https off
	log {
		format filter {
			request>headers>3rd_session delete
			wrap json
		}
	}
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram ` + gatewaytest.AppID + ` {env.WX_SECRET}
		wechat_api $WECHAT
	}
}

http://$LISTEN {
	wxgate {
		public /static/*
	}
	reverse_proxy $UPSTREAM
}
`

// otherKey is not someKey.
const otherKey = "YW5vdGhlciBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcy4="

// report is what `check --json` prints.
type report struct {
	OK       bool
	Findings []struct{ Status, Subject, Message, Fix string }
}

// worst returns the findings that are not ok.
func (r report) worst() (lines []string) {
	for _, f := range r.Findings {
		if f.Status != "ok" {
			lines = append(lines, f.Status+" | "+f.Subject+" | "+f.Message+" | "+f.Fix)
		}
	}
	return lines
}

// TestDoctorNamesFaultAndFix breaks a set-up in one way at a time. The doctor
// must name that fault and what to do about it, and nothing else.
func TestDoctorNamesFaultAndFix(t *testing.T) {
	const faulty, doubtful = "fault", "warning"
	for name, tc := range map[string]struct {
		change  []string // old, new, …
		env     []string
		prepare func(t *testing.T, g *gatewaytest.Gateway) (change []string)
		status  string
		want    []string // in the one line of the finding
	}{
		"nothing": {},
		"the server does not expect the header": {
			change: []string{"expected_underscore_headers 3rd_session", ""},
			status: faulty, want: []string{"site ", "the header 3rd_session is dropped", "expected_underscore_headers 3rd_session"},
		},
		"a secret that is not set": {
			change: []string{"{env.WX_SECRET}", "{env.NO_SUCH_SECRET}"},
			status: faulty, want: []string{"secrets", "{env.NO_SUCH_SECRET} is not set", "--envfile"},
		},
		"a secret written out": {
			change: []string{"{env.WX_SECRET}", gatewaytest.Secret},
			status: doubtful, want: []string{"written out", "autosave.json", "{env.NAME}"},
		},
		"a secret's file that others may read": {
			change: []string{"{env.WX_SECRET}", "{file.$DIR/secret}"},
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				require.NoError(t, os.WriteFile(filepath.Join(g.Dir, "secret"), []byte(gatewaytest.Secret), 0o644))
				return letOthersIn(t, g)
			},
			status: faulty, want: []string{"mode 0644", "chmod 600"},
		},
		"a secret's file in a directory that others cannot enter": {
			change: []string{"{env.WX_SECRET}", "{file.$DIR/secret}"},
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				require.NoError(t, os.WriteFile(filepath.Join(g.Dir, "secret"), []byte(gatewaytest.Secret), 0o644))
				return nil
			},
		},
		"a secret that Kubernetes mounts": {
			change: []string{"{env.WX_SECRET}", "{file.$DIR/secret}"},
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				require.NoError(t, os.Mkdir(filepath.Join(g.Dir, "..2026_11_26"), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(g.Dir, "..2026_11_26", "secret"), []byte(gatewaytest.Secret), 0o644))
				require.NoError(t, os.Symlink("..2026_11_26", filepath.Join(g.Dir, "..data")))
				require.NoError(t, os.Symlink("..data/secret", filepath.Join(g.Dir, "secret")))
				return letOthersIn(t, g)
			},
		},
		"a key file that others may read": {
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				writeKeyFile(t, g, someKey, 0o644)
				return letOthersIn(t, g)
			},
			status: faulty, want: []string{"encryption key", "mode 0644", "chmod 600"},
		},
		"a key file with something else in it": {
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				writeKeyFile(t, g, "what is this", 0o600)
				return nil
			},
			status: faulty, want: []string{"encryption key", "base64 text of 32 bytes", "backup"},
		},
		"another key than the store's": {
			change: []string{"wechat_api", "encryption_key {env.KEY}\nstore badger $DIR/sealed\nwechat_api"},
			env:    []string{"KEY=" + otherKey},
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				makeStore(t, filepath.Join(g.Dir, "sealed"))
				return nil
			},
			status: faulty, want: []string{"store badger", "it was sealed with another encryption key", "encryption_key NEW OLD"},
		},
		"less space than min_free": {
			change: []string{"wechat_api", "store badger {\nmin_free 8EiB\n}\nwechat_api"},
			status: faulty, want: []string{"store badger", "min_free is 8.0 EiB", "new logins are refused"},
		},
		"a store in the hands of another": {
			change: []string{"wechat_api", "encryption_key {env.KEY}\nstore badger $DIR/sealed\nwechat_api"},
			env:    []string{"KEY=" + someKey},
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				other := gatewaytest.New(t)
				other.Run(gatewaytest.Config{App: "encryption_key {env.KEY}\nstore badger " + filepath.Join(g.Dir, "sealed"), Env: []string{"KEY=" + someKey}})
				return nil
			},
			status: faulty, want: []string{"another process has", "--address"},
		},
		"a store that cannot be made": {
			change: []string{"wechat_api", "store badger /proc/wxgate/sessions {\nmin_free 0B\n}\nwechat_api"},
			status: faulty, want: []string{"store badger /proc/wxgate/sessions", "cannot write to /proc", "another: store badger <dir>"},
		},
		"a store that is a file": {
			change: []string{"wechat_api", "store badger /etc/passwd\nwechat_api"},
			status: faulty, want: []string{"store badger /etc/passwd", "not a directory"},
		},
		"a store of another user": {
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				dir := filepath.Join(g.Dir, "theirs")
				require.NoError(t, os.Mkdir(dir, 0o755))
				if os.Chown(dir, 12345, 12345) != nil {
					dir = "/etc" // this user is not root
				}
				return []string{"wechat_api", "store badger " + dir + "\nwechat_api"}
			},
			status: doubtful, want: []string{"belongs to another user", "sudo -u wxgate"},
		},
		"a Redis that is down": {
			change: []string{"wechat_api", "encryption_key {env.KEY}\nstore redis 127.0.0.1:1\nwechat_api"},
			env:    []string{"KEY=" + someKey},
			status: faulty, want: []string{"store redis 127.0.0.1:1", "connection refused", "start it"},
		},
		"a Redis that may drop sessions": {
			env: []string{"KEY=" + someKey},
			prepare: func(t *testing.T, _ *gatewaytest.Gateway) []string {
				redis := redistest.Start(t, "maxmemory 100mb", "maxmemory-policy allkeys-lru")
				return []string{"wechat_api", "encryption_key {env.KEY}\nstore redis " + redis.Addr + "\nwechat_api"}
			},
			status: doubtful, want: []string{"allkeys-lru", "noeviction"},
		},
		"a Redis without a key for all nodes": {
			prepare: func(t *testing.T, _ *gatewaytest.Gateway) []string {
				return []string{"wechat_api", "store redis " + redistest.Start(t).Addr + "\nwechat_api"}
			},
			status: faulty, want: []string{"encryption_key is required", "openssl rand -base64 32"},
		},
		"a WeChat out of reach": {
			change: []string{"wechat_api $WECHAT", "wechat_api http://127.0.0.1:1"},
			status: faulty, want: []string{"wechat", "does not answer", "connection refused", "wechat_proxy"},
		},
		"an appid that WeChat does not know": {
			change: []string{gatewaytest.AppID, "wx00000000000000ff"},
			status: faulty, want: []string{"miniprogram wx00000000000000ff", "40013", "mp.weixin.qq.com"},
		},
		"a secret that WeChat refuses": {
			env:    []string{"WX_SECRET=" + gatewaytest.OtherSecret},
			status: faulty, want: []string{"40125", "AppSecret"},
		},
		"only the old secret is good": {
			change: []string{"{env.WX_SECRET}", "{env.WX_OTHER_SECRET} {env.WX_SECRET}"},
			status: doubtful, want: []string{"accepts the old one"},
		},
		"an open admin endpoint": {
			change: []string{"admin $ADMIN", "admin 0.0.0.0:1"},
			status: faulty, want: []string{"admin endpoint", "reached from outside", "admin localhost:2019"},
		},
		"an upstream that is not there": {
			change: []string{"reverse_proxy $UPSTREAM", "reverse_proxy 127.0.0.1:1"},
			status: faulty, want: []string{"site ", "upstream does not answer", "start the application"},
		},
		"a clock two minutes slow": {
			prepare: func(t *testing.T, g *gatewaytest.Gateway) []string {
				ahead := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Date", time.Now().Add(2*time.Minute).UTC().Format(http.TimeFormat))
					g.WeChat.ServeHTTP(w, r)
				}))
				t.Cleanup(ahead.Close)
				return []string{"$WECHAT", ahead.URL}
			},
			status: faulty, want: []string{"clock", "behind WeChat's", "timedatectl"},
		},
		"an access log that shows tokens": {
			change: []string{"reverse_proxy", "log {\noutput stdout\n}\nreverse_proxy"},
			status: doubtful, want: []string{"a log shows session tokens", "3rd_session", "format wxgate"},
		},
		"a log of the errors of error routes that shows tokens": {
			change: []string{"request>headers>3rd_session delete", "request>headers>Other delete", "reverse_proxy $UPSTREAM", "reverse_proxy $UPSTREAM\nhandle_errors {\nrespond sorry\n}"},
			status: doubtful, want: []string{"a log shows session tokens", "3rd_session", "format wxgate"},
		},
		"a health check that names a host": {
			change: []string{"http://$LISTEN {\n\twxgate {", "http://api.example.com:$PORT {\n\twxgate {\nhealth /healthz"},
			status: doubtful, want: []string{"site api.example.com", "health /healthz", "http://:8081"},
		},
		"a health check for any host": {
			change: []string{"http://$LISTEN {\n\twxgate {", "http://:$PORT {\n\twxgate {\nhealth /healthz\n}\n}\nhttp://api.example.com:$PORT {\n\twxgate {\nhealth /healthz"},
		},
		"a second site that leads around the gate": {
			change: []string{"http://$LISTEN {", "http://other.example.com:$PORT {\n\treverse_proxy $UPSTREAM\n}\nhttp://$LISTEN {"},
			status: faulty, want: []string{"site other.example.com", "is reached without a gate", "public /*"},
		},
		"a matcher that lets requests pass by the gate": {
			change: []string{"wxgate {\n\t\tpublic", "wxgate /api/* {\n\t\tlogin /api/login\n\t\tlogout /api/logout\n\t\tpublic"},
			status: faulty, want: []string{"site ", "is also reached without its gate", "instead of the matcher"},
		},
		"no site": {
			change: []string{"wxgate {\n\t\tpublic /static/*\n\t}", ""},
			status: faulty, want: []string{"nothing is guarded", "directive `wxgate`"},
		},
		"a gate that sites share, with a mistake": {
			change: []string{
				"http://$LISTEN {\n\twxgate {\n\t\tpublic /static/*\n\t}", "&(gate) {\n\twxgate {\n\t\tminiprograms wx00000000000000ff\n\t}\n}\nhttp://$LISTEN {\n\tinvoke gate",
			},
			status: faulty, want: []string{"site", "wx00000000000000ff is not declared"},
		},
		"a mistyped option": {
			change: []string{"public", "pubic"},
			status: faulty, want: []string{"configuration", `unrecognized option "pubic", at `, "Caddyfile:21"},
		},
		"a site with an unknown mini program": {
			change: []string{"public /static/*", "miniprograms wx00000000000000ff"},
			status: faulty, want: []string{"site ", "wx00000000000000ff is not declared"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.New(t)
			change := tc.change
			if tc.prepare != nil {
				change = append(change, tc.prepare(t, g)...)
			}
			_, port, err := net.SplitHostPort(g.Addr)
			require.NoError(t, err)
			config := strings.ReplaceAll(strings.NewReplacer(change...).Replace(healthy), "$PORT", port)
			g.WriteConfig(gatewaytest.Config{Whole: config, Env: tc.env})
			out := operate(t, g, "check", "--json")
			var found report
			out.into(t, &found)
			require.NotRegexp(t, gatewaytest.Secret+"|"+gatewaytest.OtherSecret+"|"+someKey+"|"+otherKey, out.stdout+out.stderr)
			require.NoDirExists(t, filepath.Join(g.Dir, "data", "caddy", "wxgate", "sessions"), "the doctor leaves no trace")
			require.Equal(t, tc.status != faulty, found.OK)
			if tc.status == "" {
				require.Empty(t, found.worst())
				out.require(t, 0)
				return
			}
			worst := found.worst()
			if name == "a WeChat out of reach" {
				worst = worst[:1] // and the mini program that could not be asked about
			}
			require.Len(t, worst, 1, out.stdout)
			require.True(t, strings.HasPrefix(worst[0], tc.status), worst[0])
			for _, want := range tc.want {
				require.Contains(t, worst[0], want)
			}
			if strings.Contains(worst[0], "reached without") {
				for _, f := range found.Findings {
					require.False(t, f.Message == "configuration is valid; Caddy passes the required headers" && strings.Contains(worst[0], "| "+f.Subject+" |"), out.stdout)
				}
			}
		})
	}
}

// letOthersIn opens the directories of a gateway to every user.
func letOthersIn(t *testing.T, g *gatewaytest.Gateway) []string {
	t.Helper()
	for _, dir := range []string{"", "data", "data/caddy", "data/caddy/wxgate"} {
		path := filepath.Join(g.Dir, dir)
		if _, err := os.Stat(path); err == nil {
			require.NoError(t, os.Chmod(path, 0o755))
		}
	}
	return nil
}

func writeKeyFile(t *testing.T, g *gatewaytest.Gateway, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(g.Dir, "data", "caddy", "wxgate", "encryption.key")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content+"\n"), mode))
}

// makeStore leaves a store that someKey has sealed.
func makeStore(t *testing.T, dir string) {
	t.Helper()
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{App: "encryption_key {env.KEY}\nstore badger " + dir, Env: []string{"KEY=" + someKey}})
	g.Login("alice")
	g.Stop()
}
