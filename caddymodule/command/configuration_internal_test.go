package command

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp" // the Caddyfile adapter
)

// TestEnvFilesAreReadAsCaddyReadsThem compares with `caddy environ --envfile`.
func TestEnvFilesAreReadAsCaddyReadsThem(t *testing.T) {
	for _, text := range []string{
		"", "# a comment = this", "A=b", "export A=b", `A="b c"`, "A='b'", `A="b`, "A=", "A=b=c==", "A=b # a comment", "A=b#c",
		"A=\"two\nlines\"\nB=c", `A="with \" a quote"`, " A=b ", "A = b", "A b=c", "=b", "A", "A=\tb", "; comment", "A=b\r\nB=c\r\n",
	} {
		mine, err := parseEnvFile([]byte(text))
		theirs, theirErr := environ(t, text)
		require.Equal(t, theirErr == nil, err == nil, "%q: %v, %v", text, err, theirErr)
		for _, name := range []string{"A", "B"} {
			value, set := mine[name]
			require.Equal(t, set, strings.Contains(theirs, "\n"+name+"="), text)
			if set {
				require.Contains(t, theirs, "\n"+name+"="+value+"\n", text)
			}
		}
	}
	_, err := parseEnvFile([]byte("A=b\nSECRET 0123\n"))
	require.EqualError(t, err, "line 2 is not NAME=value", "the line may hold a secret")
}

// environ is what `caddy environ` prints.
func environ(t *testing.T, text string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "env")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	for _, name := range []string{"A", "B"} {
		require.NoError(t, os.Unsetenv(name))
		t.Cleanup(func() { _ = os.Unsetenv(name) })
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	stdout := os.Stdout
	os.Stdout = w
	printed := make(chan string)
	go func() {
		all, _ := io.ReadAll(r)
		printed <- string(all)
	}()
	cmd := &cobra.Command{Use: "environ", SilenceErrors: true, SilenceUsage: true}
	caddycmd.Commands()["environ"].CobraFunc(cmd)
	cmd.SetArgs([]string{"--envfile", file})
	err = cmd.Execute()
	os.Stdout = stdout
	_ = w.Close()
	return <-printed, err
}

func TestConfiguredAdminNeedsNothingElse(t *testing.T) {
	t.Setenv("ADMIN_PORT", "2020")
	for text, want := range map[string]string{
		"{\n\tadmin unix//run/a.sock\n\twxgate {\n\t\tminiprogram {$NOT_SET}\n\t}\n}\n": "unix//run/a.sock",
		"{\n\tadmin {\n\t\tenforce_origin\n\t}\n}\n":                                    "localhost:2019",
		"{\n\tadmin localhost:{$ADMIN_PORT} {\n\t\tenforce_origin\n\t}\n}\n":            "localhost:2020",
		"{\n\tadmin localhost:{env.ADMIN_PORT}\n}\n":                                    "localhost:2020",
		"http://admin.example.com {\n\tadmin off\n}\n":                                  "localhost:2019",
	} {
		file := filepath.Join(t.TempDir(), "Caddyfile")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := configuredAdmin(file, "")
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	file := filepath.Join(t.TempDir(), "caddy.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"admin":{"listen":"localhost:1"},"apps":{"unknown":{}}}`), 0o600))
	got, err := configuredAdmin(file, "")
	require.NoError(t, err)
	require.Equal(t, "localhost:1", got)
	require.NoError(t, os.WriteFile(file, []byte(`{"admin":{"disabled":true}}`), 0o600))
	_, err = configuredAdmin(file, "")
	require.ErrorContains(t, err, "admin off")
}
