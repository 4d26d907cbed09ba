package badgerstore_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

const ledgerDir = "WXGATE_TEST_LEDGER_DIR"

// A ledger is what a process said before it was killed.
type ledger struct {
	loggedIn map[string]string // token to openid: acknowledged
	revoking map[string]bool   // begun: may be live or dead
	revoked  map[string]bool   // acknowledged
}

// Logins and logouts under load, kill -9, restart, many times: no login that
// was acknowledged is lost, no revocation that was acknowledged is undone.
func TestKillLedger(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	all := newLedger()
	for range rounds {
		all.run(t, dir, func(child *os.Process) error { return child.Kill() })
		all.checkDir(t, dir)
	}
	t.Logf("%d kills: %d logins and %d revocations acknowledged", rounds, len(all.loggedIn), len(all.revoked))
	require.NotEmpty(t, all.revoked)
}

func newLedger() ledger {
	return ledger{loggedIn: map[string]string{}, revoking: map[string]bool{}, revoked: map[string]bool{}}
}

func (l *ledger) checkDir(t *testing.T, dir string) {
	t.Helper()
	s := open(t, dir)
	m := manage(t, s)
	l.check(t, m)
	m.Close()
	require.NoError(t, s.Close())
}

// run starts a process that works on the directory, and ends it after it has
// said some hundred things.
func (l *ledger) run(t *testing.T, dir string, end func(*os.Process) error) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestChildWorks$")
	child.Env = append(os.Environ(), ledgerDir+"="+dir)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := 200 + rand.IntN(1500)
	scanner := bufio.NewScanner(out)
	n := 0
	for ; scanner.Scan(); n++ {
		if n == lines {
			require.NoError(t, end(child.Process))
		}
		l.note(scanner.Text()) // what it said until it died counts too
	}
	require.Error(t, child.Wait(), "the process should have been killed")
	require.GreaterOrEqual(t, n, lines)
}

func (l *ledger) note(line string) {
	word, rest, _ := strings.Cut(line, " ")
	token, openID, _ := strings.Cut(rest, " ")
	switch word {
	case "in":
		l.loggedIn[token] = openID
	case "ending":
		l.revoking[token] = true
	case "ended":
		l.revoked[token] = true
	}
}

func (l *ledger) check(t *testing.T, m *session.Manager) {
	t.Helper()
	for token, openID := range l.loggedIn {
		s, err := m.Lookup(t.Context(), token)
		switch {
		case l.revoked[token]:
			require.ErrorIs(t, err, session.ErrInvalid, "an acknowledged revocation was undone")
		case l.revoking[token] && err != nil:
			require.ErrorIs(t, err, session.ErrInvalid)
		default:
			require.NoError(t, err, "an acknowledged login was lost")
			require.Equal(t, openID, s.OpenID)
		}
	}
}

// TestChildWorks is the process that TestKillLedger kills.
func TestChildWorks(t *testing.T) {
	dir := os.Getenv(ledgerDir)
	if dir == "" {
		return
	}
	m := manage(t, open(t, dir))
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, format+"\n", args...) // unbuffered
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				openID := fmt.Sprint("o", rand.Uint64())
				created, err := m.Create(t.Context(), sessiontest.Login(openID))
				if err != nil {
					panic(err)
				}
				say("in %s %s", created.Token, openID)
				switch rand.IntN(3) {
				case 0:
					say("ending %s", created.Token)
					_, err = m.Revoke(t.Context(), created.Token)
				case 1:
					say("ending %s", created.Token)
					_, err = m.RevokeUser(t.Context(), appID, openID)
				default:
					continue
				}
				if err != nil {
					panic(err)
				}
				say("ended %s", created.Token)
			}
		})
	}
	wg.Wait()
}
