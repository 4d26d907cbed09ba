package main_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A storeLeft is what a gateway left of its data, and what it acknowledged.
type storeLeft struct {
	data          string
	live, revoked []string
}

const damageReset = "the session store was damaged"

// leaveStore lets a gateway work, be restarted, and end.
func leaveStore(t *testing.T, end func(*gatewaytest.Gateway)) storeLeft {
	t.Helper()
	g := gatewaytest.New(t)
	left := storeLeft{data: t.TempDir()}
	for round := range 3 {
		g.Run(gatewaytest.Config{})
		for i := range 8 {
			left.live = append(left.live, g.Login(fmt.Sprintf("user-%d-%d", round, i)).Token)
		}
		for range 3 { // also such as the last rounds made
			token := left.live[0]
			require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
			left.live, left.revoked = left.live[1:], append(left.revoked, token)
		}
		if round < 2 {
			g.Stop()
		}
	}
	end(g)
	copyTree(t, filepath.Join(g.Dir, "data"), left.data)
	return left
}

// copyTree copies a directory's content, with the holes of its files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	out, err := exec.Command("cp", "-a", "--sparse=always", from+"/.", to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func sessionsDir(data string) string { return filepath.Join(data, "caddy", "wxgate", "sessions") }

// fileDamages are what may happen to a file with so much content.
var fileDamages = map[string]func(path string, content []byte) error{
	"removed":      func(path string, _ []byte) error { return os.Remove(path) },
	"emptied":      func(path string, _ []byte) error { return os.Truncate(path, 0) },
	"cut":          func(path string, content []byte) error { return os.Truncate(path, int64(len(content)/2)) },
	"cut by a bit": func(path string, content []byte) error { return os.Truncate(path, int64(max(0, len(content)-1))) },
	"flipped": func(path string, content []byte) error {
		changed := bytes.Clone(content)
		for _, at := range []int{len(changed) / 3, len(changed) / 2} {
			if at < len(changed) {
				changed[at] ^= 0x10
			}
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt(changed, 0)
		return err
	},
}

// Whatever happens to a file of the store while the gateway is down: it serves
// again within 20 seconds, at most four starts by its supervisor. No revoked
// session is live, and the log has what was lost.
func TestDamagedStoreServes(t *testing.T) {
	gatewaytest.Needs(t, "time")
	for name, end := range map[string]func(*gatewaytest.Gateway){
		"SIGTERM": (*gatewaytest.Gateway).Stop,
		"SIGKILL": (*gatewaytest.Gateway).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			left := leaveStore(t, end)
			entries, err := os.ReadDir(sessionsDir(left.data))
			require.NoError(t, err)
			require.Greater(t, len(entries), 6)
			for _, e := range entries {
				for what, do := range fileDamages {
					t.Run(e.Name()+" "+what, func(t *testing.T) {
						t.Parallel()
						g := gatewaytest.New(t)
						data := filepath.Join(g.Dir, "data")
						copyTree(t, left.data, data)
						path := filepath.Join(sessionsDir(data), e.Name())
						content, err := os.ReadFile(path)
						require.NoError(t, err)
						require.NoError(t, do(path, bytes.TrimRight(content, "\x00")))
						left.requireServed(t, g)
					})
				}
			}
		})
	}
}

func (left storeLeft) requireServed(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	began := time.Now()
	starts := g.Supervise(gatewaytest.Config{}, 4)
	token := g.Login("somebody").Token
	require.Less(t, time.Since(began), 20*time.Second)
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	for _, token := range left.revoked {
		require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(token)).Status, "a revoked session is live")
	}
	lost := 0
	for _, token := range left.live {
		if g.Get("/", gatewaytest.Token(token)).Status != http.StatusOK {
			lost++
		}
	}
	t.Logf("%d starts, %d of %d sessions lost", starts, lost, len(left.live))
	if lost > 0 {
		require.Contains(t, g.Output(), damageReset)
		aside, err := filepath.Glob(sessionsDir(filepath.Join(g.Dir, "data")) + ".damaged-*")
		require.NoError(t, err)
		require.Len(t, aside, 1, "what was there is kept")
	}
}

// What the operator sees of a damaged store: one error line, a metric, commands
// that report and change nothing, and a gateway that refuses if on_damage is refuse.
func TestDamageIsReported(t *testing.T) {
	left := leaveStore(t, (*gatewaytest.Gateway).Stop)
	g := gatewaytest.New(t)
	data := filepath.Join(g.Dir, "data")
	copyTree(t, left.data, data)
	dir := sessionsDir(data)
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	require.NoError(t, err)
	content, err := os.ReadFile(tables[0])
	require.NoError(t, err)
	require.NoError(t, fileDamages["flipped"](tables[0], content))

	config := g.WriteConfig(gatewaytest.Config{})
	for _, args := range [][]string{
		{"wxgate", "check", "--config", config},
		{"wxgate", "migrate", "--from", "badger:" + dir, "--to", "badger:" + filepath.Join(g.Dir, "other")},
	} {
		out, err := g.Try(args...)
		require.Error(t, err, args)
		require.Contains(t, out, "the session store is damaged", args)
	}

	refusing := gatewaytest.Config{App: "store badger {\non_damage refuse\n}"}
	out, err := g.Try("run", "--config", g.WriteConfig(refusing), "--adapter", "caddyfile")
	require.Error(t, err)
	require.Contains(t, out, "the session store is damaged")
	require.Contains(t, out, dir)
	require.NoDirExists(t, filepath.Join(g.Dir, "other", "x"))
	now, err := os.ReadFile(tables[0])
	require.NoError(t, err)
	require.Equal(t, len(content), len(now), "the commands and the refusal left everything where it was")

	left.requireServed(t, g)
	resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/metrics"))
	require.NoError(t, err)
	require.Contains(t, resp.Body, "\nwxgate_store_resets_total 1\n")
	require.Contains(t, resp.Body, "\nwxgate_store_free_bytes ")
	out, err = g.Reload(gatewaytest.Config{App: "store badger {\non_damage perhaps\n}"})
	require.Error(t, err)
	require.Contains(t, out, "neither reset nor refuse")
}
