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

// TestDoctorBesideTheRunningGateway neither disturbs it nor is disturbed.
func TestDoctorBesideTheRunningGateway(t *testing.T) {
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{Whole: healthy})
	token := g.Login("alice").Token

	text := operate(t, g, "check").require(t, 0).stdout
	for _, want := range []string{
		"gateway: runs, and its store answers, about 1 live sessions",
		"in use by the running gateway",
		"WeChat accepts the appid and the secret (",
		"the upstream " + g.Upstream.Addr + " answers",
		"agrees with WeChat's",
		"No problems found.",
	} {
		require.Contains(t, text, want)
	}
	require.NoError(t, os.Remove(filepath.Join(g.Dir, "Caddyfile")))
	fromGateway := operate(t, g, "check", "--address", g.Admin).require(t, 0).stdout
	require.Equal(t, withoutTimes(text), withoutTimes(fromGateway), "the running configuration is the same")

	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
	g.Stop()
	operate(t, g, "check").require(t, 4)
}

// TestDoctorBlamesNoGatewayForTheShell runs without the secrets that only the
// gateway's service has.
func TestDoctorBlamesNoGatewayForTheShell(t *testing.T) {
	g := gatewaytest.New(t)
	keyFile := filepath.Join(g.Dir, "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(someKey), 0o600))
	push := "public /static/*\n\t\tpush /push " + gatewaytest.AppID + " {env.PUSH_TOKEN} {env.PUSH_KEY}"
	g.Run(gatewaytest.Config{
		Whole: strings.NewReplacer("wechat_api", "encryption_key {file.$DIR/key}\nwechat_api", "public /static/*", push).Replace(healthy),
		Env:   []string{"PUSH_TOKEN=sandbox", "PUSH_KEY=0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"},
	})
	require.NoError(t, os.Remove(keyFile))
	check := g.Command("wxgate", "check")
	check.Env = append(check.Env, "WX_SECRET=")
	out := finish(t, check).require(t, 0)
	require.NotContains(t, out.stdout, "FAULT")
	require.Contains(t, out.stdout, "{env.WX_SECRET} is not set here")
	require.Contains(t, out.stdout, "{file."+keyFile+"} cannot be read here")
	require.Contains(t, out.stdout, "the upstream "+g.Upstream.Addr+" answers", "the rest is examined")

	check = g.Command("wxgate", "check")
	check.Env = append(check.Env, "WX_SECRET=", "PUSH_TOKEN=", "PUSH_KEY=")
	out = finish(t, check).require(t, 0)
	require.Contains(t, out.stdout, "WARNING  site: could not be examined here: ")
}

// TestDoctorAsAnotherUser has another default data directory than the gateway.
func TestDoctorAsAnotherUser(t *testing.T) {
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{Whole: healthy})
	other := gatewaytest.New(t)
	check := g.Command("wxgate", "check")
	check.Env = append(check.Env, "XDG_DATA_HOME="+other.Dir)
	out := finish(t, check).require(t, 0)
	require.Contains(t, out.stdout, "No problems found.")
	writeKeyFile(t, other, otherKey, 0o600)
	check = g.Command("wxgate", "check")
	check.Env = append(check.Env, "XDG_DATA_HOME="+other.Dir+"/data")
	out = finish(t, check).require(t, 0)
	require.Contains(t, out.stdout, "may run as another user")
}

// TestDoctorComparesWithTheRunningGateway changes the configuration of a gateway
// that goes on with the former one.
func TestDoctorComparesWithTheRunningGateway(t *testing.T) {
	g := gatewaytest.New(t)
	env := []string{"KEY=" + someKey, "OTHER_KEY=" + otherKey}
	config := func(key, store string) gatewaytest.Config {
		return gatewaytest.Config{Whole: strings.Replace(healthy, "wechat_api", "encryption_key "+key+"\n"+store+"\nwechat_api", 1), Env: env}
	}
	g.Run(config("{env.KEY}", "store badger $DIR/one"))
	for name, tc := range map[string]struct {
		key, store string
		code       int
		want       string
	}{
		"the same":      {"{env.KEY}", "store badger $DIR/one", 0, "No problems found."},
		"key rotated":   {"{env.OTHER_KEY} {env.KEY}", "store badger $DIR/one", 0, "No problems found."},
		"another key":   {"{env.OTHER_KEY}", "store badger $DIR/one", 1, "encryption_key is not the key of the running gateway"},
		"another store": {"{env.KEY}", "store badger $DIR/two", 0, "keeps its sessions in another store, badger " + g.Dir + "/one"},
		"other options": {"{env.KEY}", "store badger $DIR/one {\nsync_writes off\n}", 0, "a reload will be refused"},
	} {
		t.Run(name, func(t *testing.T) {
			g.WriteConfig(config(tc.key, tc.store))
			require.Contains(t, operate(t, g, "check").require(t, tc.code).stdout, tc.want)
		})
	}
}

// TestDoctorSeesThatTokensDoNotArrive stands behind a proxy that removes the
// header: logins succeed, and no request carries a token.
func TestDoctorSeesThatTokensDoNotArrive(t *testing.T) {
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{Whole: healthy})
	for range 3 {
		g.Login("alice")
		require.Equal(t, http.StatusUnauthorized, g.Get("/").Status)
	}
	out := operate(t, g, "check").require(t, 0)
	require.Contains(t, out.stdout, "WARNING  traffic: 3 logins succeeded, but 3 requests came without a token and only 0 with one")
	require.Contains(t, out.stdout, "underscores_in_headers on")
	token := g.Login("bob").Token
	for range 4 {
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	}
	require.NotContains(t, operate(t, g, "check").require(t, 0).stdout, "traffic")
	require.NotEmpty(t, g.Upstream.Take())
}

// TestDoctorFetchesTheKeysOfAssertions from the running gateway, as applications do.
func TestDoctorFetchesTheKeysOfAssertions(t *testing.T) {
	g := gatewaytest.New(t)
	relay := gatewaytest.FreeAddr(t)
	site := "http://" + relay + " {\n\tbind 127.0.0.1\n\twxgate_api\n}\n\nhttp://$LISTEN {\n\twxgate {\n\t\tinject assertion X-Assertion"
	asserting := strings.Replace(healthy, "http://$LISTEN {\n\twxgate {", site, 1)
	g.Run(gatewaytest.Config{Whole: asserting})
	const fetched = ": applications can fetch the keys of assertions, " + jwksPath
	text := operate(t, g, "check").require(t, 0).stdout
	require.Contains(t, text, "ok       site 127.0.0.1"+fetched)
	require.Equal(t, 2, strings.Count(text, fetched), text)

	out, err := g.Reload(gatewaytest.Config{Whole: strings.Replace(asserting, "reverse_proxy", "redir /.well-known/* https://www.example.com{uri}\n\treverse_proxy", 1)})
	require.NoError(t, err, out)
	text = operate(t, g, "check").require(t, 1).stdout
	require.Equal(t, 1, strings.Count(text, "FAULT"), text)
	require.Contains(t, text, "applications cannot fetch the keys of assertions, "+jwksPath+", from the running gateway: the answer is another one, 302 Found")
	require.Contains(t, text, "let it come to wxgate, or name another: assertion { jwks <path> }")
	require.Equal(t, 1, strings.Count(text, fetched), "the one of wxgate_api")
}

// TestDoctorAsksTheStoreOfTheRunningGateway does not take figures, which a
// gateway has without its store, for a sign of health.
func TestDoctorAsksTheStoreOfTheRunningGateway(t *testing.T) {
	redis := redistest.Start(t)
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{
		Whole: strings.Replace(healthy, "wechat_api", "encryption_key {env.KEY}\nstore redis "+redis.Addr+"\nwechat_api", 1),
		Env:   []string{"KEY=" + someKey},
	})
	require.Contains(t, operate(t, g, "check").require(t, 0).stdout, "gateway: runs, and its store answers")
	require.NotRegexp(t, `redis \S+ [0-9a-f]{16}`, operate(t, g, "stats", "--address", g.Admin).require(t, 0).stdout, "a hash of the password")
	redis.Kill()
	out := operate(t, g, "check").require(t, 1)
	require.Contains(t, out.stdout, "FAULT    gateway: runs, but cannot work: ")
	require.NotContains(t, out.stdout, "its store answers")
	stats := operate(t, g, "stats", "--address", g.Admin).require(t, 4)
	require.Contains(t, stats.stderr, "the session store does not answer: ")
	require.Contains(t, stats.stdout, "logins", "the gateway has its figures without the store")
}

// withoutTimes takes out what differs from run to run.
func withoutTimes(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " ms") && !strings.Contains(line, "free") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// TestDoctorOpensAStoreThatIsNotInUse proves that the key is the store's.
func TestDoctorOpensAStoreThatIsNotInUse(t *testing.T) {
	g := gatewaytest.New(t)
	makeStore(t, filepath.Join(g.Dir, "sealed"))
	envFile := filepath.Join(g.Dir, "env")
	require.NoError(t, os.WriteFile(envFile, []byte("# for the gateway\n\nexport KEY=\""+someKey+"\"\nWX_SECRET=overridden\n"), 0o600))
	g.WriteConfig(gatewaytest.Config{Whole: strings.Replace(healthy, "wechat_api", "encryption_key {env.KEY}\nstore badger $DIR/sealed\nwechat_api", 1)})
	out := operate(t, g, "check", "--envfile", envFile).require(t, 0)
	require.Contains(t, out.stdout, "opens; the encryption key is the store's")
	require.NotContains(t, out.stdout, someKey)

	require.NoError(t, os.WriteFile(envFile, []byte("KEY "+someKey+"\n"), 0o600))
	bad := operate(t, g, "check", "--envfile", envFile).require(t, 1)
	require.Contains(t, bad.stderr, "line 1 is not NAME=value")
	require.NotContains(t, bad.stderr, someKey)
}
