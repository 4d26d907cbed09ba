package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

func TestSystemdUnit(t *testing.T) {
	text := readFile(t, "docs/install/wxgate.service")
	require.NotRegexp(t, `(?m)^Exec.*--environ`, text, "it would write the secrets into the journal")
	require.Contains(t, text, "\nStartLimitIntervalSec=0\n", "five starts in ten seconds would be the last")
	// systemd looks whether the programs are there.
	unit := filepath.Join(t.TempDir(), "wxgate.service")
	text = strings.ReplaceAll(text, "/usr/local/bin/caddy", gatewaytest.Binary(t))
	require.NoError(t, os.WriteFile(unit, []byte(text), 0o600))

	out, err := gatewaytest.Command(t, "systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), unit, "it has something to say about the unit")

	out, err = gatewaytest.Command(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
	require.NoError(t, err, "the unit is less closed than 2.0 of 10: %s", out)
}

func TestShellScripts(t *testing.T) {
	for _, script := range []string{
		".ci/run", ".ci/setup", ".ci/fuzz", ".ci/pin", "docs/miniprogram/test/builds.sh",
		"docs/install/package/postinstall.sh", "docs/install/package/preremove.sh",
	} {
		out, err := gatewaytest.Command(t, "shellcheck", "--severity=warning", filepath.Join(gatewaytest.Root(), script)).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}

// The image cannot be built where there is no Docker. What it is made of can be
// looked at; `make lint` has a linter read it, too.
func TestDockerfile(t *testing.T) {
	text := strings.ReplaceAll(readFile(t, "docs/install/Dockerfile"), "\\\n", " ")
	for _, match := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for source := range strings.FieldsSeq(match[1]) {
			_, err := os.Stat(filepath.Join(gatewaytest.Root(), source))
			require.NoError(t, err)
		}
	}
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(readFile(t, "go.mod"))[1]
	require.Contains(t, text, " golang:"+goVersion+"-")
	require.Contains(t, text, " go build -trimpath -ldflags '-s -w' -o /out/usr/bin/caddy ./caddy-build")
	require.Regexp(t, `(?m)^USER [1-9]\d*:[1-9]\d*$`, text, "it must not run as root")
	require.Contains(t, text, `VOLUME ["/data", "/config"]`)
	require.Contains(t, text, `ENTRYPOINT ["/usr/bin/caddy"]`)
	health := regexp.MustCompile(`HEALTHCHECK .*CMD (\[.*\])`).FindStringSubmatch(text)
	require.NotNil(t, health)
	var command []string
	require.NoError(t, json.Unmarshal([]byte(health[1]), &command))
	checkFlags(t, command[1:])
}

// composeFile is what the tests look at of docker-compose.yml.
type composeFile struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
		Secrets     []string          `yaml:"secrets"`
		Volumes     []string          `yaml:"volumes"`
		ReadOnly    bool              `yaml:"read_only"`
		Ports       []string          `yaml:"ports"`
	} `yaml:"services"`
	Secrets map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
	Volumes map[string]any `yaml:"volumes"`
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	var file composeFile
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, "docs/install/docker-compose.yml")), &file))
	return file
}

func TestComposeFileNamesWhatIsThere(t *testing.T) {
	file := readCompose(t)
	require.Len(t, file.Services, 5)
	for name, service := range file.Services {
		require.NotContains(t, service.Image, ":latest")
		for _, secret := range service.Secrets {
			require.NotEmpty(t, file.Secrets[secret].File, "%s: %s", name, secret)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(source, "./") {
				require.FileExists(t, filepath.Join(gatewaytest.Root(), "docs/install", source), name)
			} else {
				require.Contains(t, file.Volumes, source, name)
			}
		}
		for _, word := range service.Command {
			require.NotContains(t, word, "--environ")
		}
		if name != "balancer" {
			require.Empty(t, service.Ports, "only the balancer is reached from outside")
		}
	}
	require.Equal(t, file.Services["gateway1"], file.Services["gateway2"])
	require.True(t, file.Services["gateway1"].ReadOnly)
	// What a Caddyfile reads from the environment or a secret is there.
	for service, path := range map[string]string{"gateway1": "gateway.Caddyfile", "balancer": "balancer.Caddyfile"} {
		text := readFile(t, "docs/install/"+path)
		for _, match := range regexp.MustCompile(`\{\$(\w+)`).FindAllStringSubmatch(text, -1) {
			require.Contains(t, file.Services[service].Environment, match[1])
		}
		for _, match := range regexp.MustCompile(`\{file\./run/secrets/(\w+)\}`).FindAllStringSubmatch(text, -1) {
			require.Contains(t, file.Services[service].Secrets, match[1])
		}
	}
}
