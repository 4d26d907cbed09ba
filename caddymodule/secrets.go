package caddymodule

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/internal/files"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

var placeholderPattern = regexp.MustCompile(`\{[^{}]+\}`)

// resolveSecret gives the value behind a placeholder such as {env.X} or
// {file./path}. It never names the value, only the placeholder. written reports whether
// the value stood in the configuration itself.
func resolveSecret(raw string) (value string, written bool, err error) {
	names := placeholderPattern.FindAllString(raw, -1)
	if len(names) == 0 {
		return raw, true, nil
	}
	value, err = caddy.NewReplacer().ReplaceOrErr(raw, true, true)
	if err != nil {
		// Caddy's own error may go on with text around the placeholder.
		return "", false, fmt.Errorf("%s is not set, empty or not readable", strings.Join(names, " "))
	}
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		return "", false, fmt.Errorf("%s is empty", strings.Join(names, " "))
	case isQuoted(value):
		return "", false, fmt.Errorf("%s is in quotes, which would be part of the value: remove them (docker's --env-file keeps quotes)", strings.Join(names, " "))
	}
	return value, false, nil
}

// isQuoted reports whether a value begins and ends with a quotation mark, which no secret does on purpose.
func isQuoted(value string) bool {
	last := value[len(value)-1]
	return len(value) > 1 && value[0] == last && (last == '"' || last == '\'')
}

// checkMiniProgram judges a mini program as it is written. Its errors do not quote what may
// be a secret.
func checkMiniProgram(mp MiniProgram) error {
	switch {
	case !appIDPattern.MatchString(mp.AppID) && appIDPattern.MatchString(mp.Secret):
		return errors.New("appid and secret are swapped: the appid comes first")
	case checkAppID(mp.AppID) != nil:
		return checkAppID(mp.AppID)
	case mp.Secret == "":
		return fmt.Errorf("the secret of %s is empty", mp.AppID)
	case isQuoted(mp.Secret):
		return fmt.Errorf("the secret of %s is in quotes, which would be part of the value: remove them", mp.AppID)
	}
	return nil
}

// checkAppID quotes a wrong appid only if it is short or begins like an ID of WeChat: else it
// may be a secret.
func checkAppID(appID string) error {
	switch {
	case appIDPattern.MatchString(appID):
		return nil
	case len(appID) < 16, strings.HasPrefix(appID, "wx"), strings.HasPrefix(appID, "gh_"):
		return fmt.Errorf("%q is not an appid: an appid is wx and 16 hex digits", appID)
	}
	return errors.New("the value is not an appid: an appid is wx and 16 hex digits")
}

// resolveSecrets gives the mini programs with their secrets in the clear, for
// the WeChat client alone; the configuration keeps the placeholders.
func (a *App) resolveSecrets() ([]wechat.MiniProgram, error) {
	var out []wechat.MiniProgram
	for _, mp := range a.MiniPrograms {
		what := "the app secret of " + mp.AppID
		secret, err := a.ResolveSecret(what, mp.Secret)
		old, oldErr := a.ResolveSecret(what, mp.OldSecret)
		if err := cmp.Or(err, oldErr); err != nil {
			return nil, fmt.Errorf("miniprogram %s: secret: %w", mp.AppID, err)
		}
		out = append(out, wechat.MiniProgram{AppID: mp.AppID, Secret: secret, OldSecret: old})
	}
	return out, nil
}

// ResolveSecret returns the value of a secret of the configuration, which may
// be a placeholder or empty. It warns if the secret, which what names, is
// written out.
func (a *App) ResolveSecret(what, raw string) (string, error) {
	secret, written, err := resolveSecret(raw)
	if err != nil || secret == "" {
		return "", err
	}
	if strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("it holds blanks or characters that are not ASCII")
	}
	if written {
		a.warnWritten(what)
	}
	return secret, nil
}

// checkProxy judges the URL of a proxy, unless it has to be resolved first.
func checkProxy(raw string) error {
	if raw == "" || placeholderPattern.MatchString(raw) {
		return nil
	}
	return wechat.ValidateProxyURL(raw)
}

// resolveProxy gives the URL of the proxy, if there is one. written reports whether
// it has a password that stood in the configuration itself.
func resolveProxy(raw string) (proxy string, written bool, err error) {
	if raw == "" {
		return "", false, nil
	}
	proxy, written, err = resolveSecret(raw)
	if err == nil {
		err = wechat.ValidateProxyURL(proxy)
	}
	if err != nil {
		return "", false, fmt.Errorf("wechat_proxy: %w", err)
	}
	u, err := url.Parse(proxy)
	if err != nil {
		return "", false, errors.New("wechat_proxy: it is not a URL") // which ValidateProxyURL finds
	}
	_, has := u.User.Password()
	return proxy, written && has, nil
}

func (a *App) warnWritten(what string) {
	a.logger.Warn("a secret is written out in the configuration: it is visible in the Caddyfile, at /config of the admin endpoint and in autosave.json; write it as {env.NAME} or {file./path}",
		zap.String("secret", what))
}

// resolveKeys decodes the configured encryption keys, or decides on the key
// file. The file is read or made only when the store opens: validating must
// leave no trace.
func (a *App) resolveKeys() error {
	if len(a.EncryptionKeys) == 0 {
		if _, shared := a.module.(SharedByNodes); shared {
			return errors.New("encryption_key is required with this store, because all nodes share it; make one with `openssl rand -base64 32` and give every node the same: encryption_key {env.WXGATE_KEY}")
		}
		a.keyFile = defaultKeyFile()
		return nil
	}
	for i, raw := range a.EncryptionKeys {
		text, written, err := resolveSecret(raw)
		if err != nil {
			return fmt.Errorf("encryption_key %d: %w", i+1, err)
		}
		key, err := decodeKey(text)
		if err != nil {
			return fmt.Errorf("encryption_key %d: %w", i+1, err)
		}
		if written {
			a.warnWritten(fmt.Sprintf("encryption_key %d", i+1))
		}
		a.keys = append(a.keys, key)
	}
	return a.deriveAssertionKeys(a.keys)
}

func decodeKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(key) != session.KeySize {
		return nil, fmt.Errorf("it must be the base64 text of %d bytes; make one with `openssl rand -base64 32`", session.KeySize)
	}
	return key, nil
}

func defaultKeyFile() string {
	return filepath.Join(caddy.AppDataDir(), "wxgate", "encryption.key")
}

// readOrMakeKeyFile returns the key in the file at path. An absent file is made
// only if fresh: there is no store yet that another key has sealed.
func (a *App) readOrMakeKeyFile(path string, fresh bool) ([]byte, error) {
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		key, err := decodeKey(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("reading encryption key file %s: %w; restore the file from your backup", path, err)
		}
		return key, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading encryption key file: %w", err)
	case !fresh:
		return nil, fmt.Errorf("the encryption key file %s is gone, but the session store exists: restore the file from your backup, or remove the store to end all sessions", path)
	}
	key, err := makeKeyFile(path)
	if err == nil {
		a.logger.Warn("made the encryption key file; back it up: without it no session in the store can be read", zap.String("file", path))
	}
	return key, err
}

// makeKeyFile writes a new key.
func makeKeyFile(path string) ([]byte, error) {
	key := make([]byte, session.KeySize)
	rand.Read(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the encryption key file: %w", err)
	}
	err := files.Write(path, false, func(f *os.File) error {
		_, err := f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making encryption key file %s: %w", path, err)
	}
	return key, nil
}
