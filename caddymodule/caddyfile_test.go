package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/wxgate/wxgate/caddymodule"
)

var update = flag.Bool("update", false, "write what the fixtures should say")

// fixtureSeparator stands between a Caddyfile and what becomes of it.
const fixtureSeparator = "\n----------\n"

// fixtures runs a test for each file of a folder under testdata.
func fixtures(t *testing.T, folder string, outcome func(t *testing.T, caddyfile []byte) string) {
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.caddyfiletest"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			caddyfile, want, _ := strings.Cut(string(text), fixtureSeparator)
			got := outcome(t, []byte(caddyfile)) + "\n"
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(caddyfile+fixtureSeparator+got), 0o600))
				return
			}
			require.Equal(t, want, got)
		})
	}
}

func adapt(caddyfile []byte) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile"})
	return config, err
}

// validate is what `caddy validate` does with an adapted configuration.
func validate(t *testing.T, config []byte) error {
	var cfg caddy.Config
	require.NoError(t, json.Unmarshal(config, &cfg))
	return caddy.Validate(&cfg)
}

func setEnv(t *testing.T) {
	t.Setenv("WX_SECRET", "0123456789abcdef0123456789abcdef")
	t.Setenv("WX_EMPTY", "")
	t.Setenv("PUSH_TOKEN", "canary0push0token")
	t.Setenv("PUSH_AES_KEY", "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG")
	t.Setenv("REDIS_URL", "rediss://gate:canary@127.0.0.1:6379/2")
	t.Setenv("WXGATE_KEY", "c29tZSBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcyBsb24=")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
}

func TestGoodCaddyfiles(t *testing.T) {
	setEnv(t)
	fixtures(t, "good", func(t *testing.T, caddyfile []byte) string {
		config, err := adapt(caddyfile)
		require.NoError(t, err)
		require.NoError(t, validate(t, config))
		var out bytes.Buffer
		require.NoError(t, json.Indent(&out, config, "", "\t"))
		return out.String()
	})
}

var wayToModule = regexp.MustCompile(`^.*provision (wxgate|http\.handlers\.wxgate): `)

func TestBadCaddyfiles(t *testing.T) {
	setEnv(t)
	fixtures(t, "bad", func(t *testing.T, caddyfile []byte) string {
		config, err := adapt(caddyfile)
		if err == nil {
			err = validate(t, config)
		}
		require.Error(t, err)
		// Caddy provisions apps in no order, so the way to an error differs.
		return wayToModule.ReplaceAllString(err.Error(), "provision $1: ")
	})
}
