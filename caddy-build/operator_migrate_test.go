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

const redisPassword = "r3d1s-s3cr3t"

// TestSessionsLiveOnThroughMigrations takes the sessions of one gateway from
// Badger to Redis and back, by each way there is. Users stay logged in, and
// what was ended stays ended.
func TestSessionsLiveOnThroughMigrations(t *testing.T) {
	redis := redistest.Start(t, "requirepass "+redisPassword)
	g := gatewaytest.New(t)
	onBadger := func(dir string) gatewaytest.Config {
		return gatewaytest.Config{App: "encryption_key {env.WXGATE_KEY}\nstore badger " + dir}
	}
	withRedis := gatewaytest.Config{App: `encryption_key {env.WXGATE_KEY}
		store redis ` + redis.Addr + ` {
			password {env.REDIS_PASSWORD}
		}`}
	env := []string{"WXGATE_KEY=" + someKey, "REDIS_PASSWORD=" + redisPassword}
	run := func(cfg gatewaytest.Config) {
		t.Helper()
		cfg.Env = env
		g.Run(cfg)
	}
	migrate := func(env string, args ...string) outcome {
		t.Helper()
		cmd := g.Command(append([]string{"wxgate", "migrate"}, args...)...)
		cmd.Env = append(cmd.Env, env)
		out := finish(t, cmd)
		require.NotContains(t, out.stdout+out.stderr, redisPassword)
		return out
	}
	first, second := filepath.Join(g.Dir, "first"), filepath.Join(g.Dir, "second")
	url := "redis://" + redis.Addr

	run(onBadger(first))
	alice, bob, ended := g.Login("alice").Token, g.Login("bob").Token, g.Login("mallory").Token
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(ended)).Status)
	alive := func(when string) {
		t.Helper()
		for user, token := range map[string]string{"alice": alice, "bob": bob} {
			require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status, when)
			g.RequireIdentity(t, g.OpenID(user), token)
		}
		require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(ended)).ErrorName(), when)
	}
	alive("at first")

	backup := filepath.Join(g.Dir, "sessions.backup")
	operate(t, g, "backup", "-o", backup, "--address", g.Admin).require(t, 0)
	inUse := migrate("", "--from", "badger:"+first, "--to", "badger:"+second).require(t, 1)
	require.Contains(t, inUse.stderr, "caddy wxgate backup")
	alive("after a migration that was refused")
	g.Stop()

	noPassword := migrate("", "--from", "badger:"+first, "--to", url).require(t, 1)
	require.Contains(t, noPassword.stderr, "NOAUTH")
	done := migrate("WXGATE_TO_PASSWORD="+redisPassword, "--from", "badger:"+first, "--to", url).require(t, 0)
	require.Contains(t, done.stdout, "same encryption_key")
	migrate("WXGATE_TO_PASSWORD="+redisPassword, "--from", "badger:"+first, "--to", url).require(t, 0) // again, as after an interruption
	run(withRedis)
	alive("on Redis")
	g.Stop()

	envFile := filepath.Join(g.Dir, "password")
	require.NoError(t, os.WriteFile(envFile, []byte("WXGATE_FROM_PASSWORD="+redisPassword+"\n"), 0o600))
	migrate("", "--envfile", envFile, "--from", url, "--to", "badger:"+second).require(t, 0)
	run(onBadger(second))
	alive("on Badger again")
	g.Stop()

	t.Run("from a backup into the store of a configuration", func(t *testing.T) {
		redis.Do(t, "-a", redisPassword, "--no-auth-warning", "flushall")
		config := g.WriteConfig(gatewaytest.Config{App: withRedis.App, Env: env})
		migrate("", "--from", "file:"+backup, "--to", "config:"+config).require(t, 0)
		run(withRedis)
		alive("out of the backup")
		g.Stop()
	})
	t.Run("not into a store with other sessions", func(t *testing.T) {
		run(onBadger(filepath.Join(g.Dir, "third")))
		g.Login("carol")
		g.Stop()
		out := migrate("", "--from", "badger:"+second, "--to", "badger:"+filepath.Join(g.Dir, "third")).require(t, 1)
		require.Contains(t, out.stderr, "other sessions; empty it")
	})
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a password on the command line": {[]string{"--from", "redis://:" + redisPassword + "@" + redis.Addr, "--to", "badger:" + first}, 2, "WXGATE_FROM_PASSWORD"},
		"from nothing":                   {[]string{"--from", "badger:" + filepath.Join(g.Dir, "nothing"), "--to", url}, 1, "there is no store: badger "},
		"into itself":                    {[]string{"--from", "badger:" + first, "--to", "badger:" + first + "/"}, 2, "the same store"},
		"into itself, Redis":             {[]string{"--from", url, "--to", url}, 2, "the same store"},
		"into a backup":                  {[]string{"--from", "badger:" + first, "--to", "file:" + backup}, 2, "--to names no store"},
		"of another kind":                {[]string{"--from", "mysql://x", "--to", url}, 2, "--from names no store"},
		"a Redis that is down":           {[]string{"--from", "redis://127.0.0.1:1", "--to", "badger:" + first}, 1, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			out := migrate("", tc.args...).require(t, tc.code)
			require.Contains(t, out.stderr, tc.want)
			require.Equal(t, 1, strings.Count(out.stderr, "Error:"))
		})
	}
	require.NoDirExists(t, filepath.Join(g.Dir, "nothing"), "looking for a store makes none")
}
