package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

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
