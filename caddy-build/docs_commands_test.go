package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// systemCommands are those of the reader's system, which a test must not run.
var systemCommands = []string{
	"cd", "chmod", "cp", "curl", "docker", "export", "go", "install", "journalctl", "mv", "npm", "openssl", "systemctl", "useradd",
}

func TestEveryShellCommandInTheDocumentsIsGood(t *testing.T) {
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.language != "sh" || d.isChinese() {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", d.path, b.line), func(t *testing.T) {
				shellcheck(t, b.text)
				for line := range strings.SplitSeq(strings.ReplaceAll(b.text, "\\\n", " "), "\n") {
					checkCommand(t, strings.Fields(line))
				}
			})
		}
	}
}

// shellcheck finds what a shell would not read as it is meant.
func shellcheck(t *testing.T, script string) {
	t.Helper()
	// A block is a part of a session: variables come from elsewhere, and who
	// types it sees when cd fails.
	cmd := gatewaytest.Command(t, "shellcheck", "--shell=sh", "--exclude=SC2154,SC2164,SC2034", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

func checkCommand(t *testing.T, words []string) {
	t.Helper()
	if len(words) > 3 && words[0] == "sudo" {
		require.Equal(t, []string{"-u", "wxgate"}, words[1:3])
		words = words[3:]
	}
	if len(words) == 0 || words[0] == "#" {
		return
	}
	switch command := words[0]; command {
	case "caddy":
		checkFlags(t, words[1:])
	case "make":
		for _, target := range words[1:] {
			cmd := gatewaytest.Command(t, "make", "--dry-run", "--directory", gatewaytest.Root(), target)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		}
	case "xcaddy":
		checkXcaddy(t, words[1:])
	default:
		require.Contains(t, systemCommands, command, "a test must know what this is")
	}
	if words[0] == "go" && slices.Contains(words, "./caddy-build") {
		require.Equal(t, []string{"go", "run", "./caddy-build"}, words[:3])
		checkFlags(t, words[3:])
	}
	for _, word := range words {
		if strings.HasPrefix(word, "docs/") || word == "Caddyfile.example" {
			_, err := os.Stat(filepath.Join(gatewaytest.Root(), word))
			require.NoError(t, err)
		}
	}
}

// checkFlags asks the binary whether it has the command and its flags.
func checkFlags(t *testing.T, words []string) {
	t.Helper()
	var command []string
	for len(words) > 0 && regexp.MustCompile(`^[a-z-]+$`).MatchString(words[0]) && !strings.HasPrefix(words[0], "-") && len(command) < 2 {
		command, words = append(command, words[0]), words[1:]
		if command[0] != "wxgate" {
			break
		}
	}
	out, err := exec.Command(gatewaytest.Binary(t), append(command, "--help")...).CombinedOutput()
	require.NoError(t, err, string(out))
	// An unknown command has the help of its parent.
	require.Regexp(t, `(?m)^  caddy `+strings.Join(command, " ")+`( |$)`, string(out))
	for _, word := range words {
		if strings.HasPrefix(word, "-") && word != "-" {
			require.Regexp(t, `(?m)^ .*(^|[ ,])`+word+`[ ,]`, string(out), "%s has no %s", command, word)
		}
	}
}

// checkXcaddy compares the version of Caddy with the one that is tested here,
// and the module's path with go.mod.
func checkXcaddy(t *testing.T, words []string) {
	t.Helper()
	mod, err := os.ReadFile(filepath.Join(gatewaytest.Root(), "go.mod"))
	require.NoError(t, err)
	module := regexp.MustCompile(`(?m)^module (\S+)`).FindStringSubmatch(string(mod))[1]
	caddy := regexp.MustCompile(`(?m)caddyserver/caddy/v2 (\S+)`).FindStringSubmatch(string(mod))[1]
	require.Equal(t, []string{"build", caddy, "--with"}, words[:3])
	require.Contains(t, []string{module, module + "=."}, words[3])
}

// Each command of the gateway is in the manual.
func TestEveryCommandIsExplained(t *testing.T) {
	out, err := exec.Command(gatewaytest.Binary(t), "wxgate", "--help").CombinedOutput()
	require.NoError(t, err)
	_, list, _ := strings.Cut(string(out), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var manual strings.Builder
	for _, path := range []string{"README.md", "docs/operations.md"} {
		text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), path))
		require.NoError(t, err)
		manual.Write(text)
	}
	for line := range strings.SplitSeq(list, "\n") {
		require.Contains(t, manual.String(), "wxgate "+strings.Fields(line)[0])
	}
}
