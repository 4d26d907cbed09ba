package caddymodule

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"strings"
)

const subjectKey = "encryption key"

// fixWritten is what to do about a secret that stands in the configuration.
const fixWritten = "write it as {env.NAME} or {file./path}; {$NAME} is expanded into the configuration and does not help"

// fixUnset is what to do about a placeholder that gives nothing.
const fixUnset = "set it where the gateway is started (with docs/install/wxgate.service: in /etc/wxgate/environment); if it is set there, give this command the same environment with --envfile, or run it as the gateway's user"

// checkSecret looks a secret up, and says whether it is there.
func (d *doctor) checkSecret(subject, what, raw string) (secret string, ok bool) {
	d.checkPlaceholderFiles(subject, raw)
	secret, written, err := resolveSecret(raw)
	if err != nil {
		d.fault(subject, fmt.Sprintf("%s: %v", what, err), fixUnset)
		return "", false
	}
	if written {
		d.warnWritten(subject, what)
	}
	return secret, true
}

func (d *doctor) warnWritten(subject, what string) {
	d.warn(subject, what+" is written out in the configuration: it is visible at /config of the admin endpoint and in autosave.json", fixWritten)
}

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// checkPlaceholderFiles makes sure that only its owner reads a file with a secret.
func (d *doctor) checkPlaceholderFiles(subject, raw string) {
	for _, m := range filePlaceholder.FindAllStringSubmatch(raw, -1) {
		d.checkMode(subject, m[1])
	}
}

// checkMode makes sure that only the owner of a file, and perhaps his group,
// can read it. It says nothing of a file that is not there.
func (d *doctor) checkMode(subject, path string) (ok bool) {
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS == "windows" {
		return true // Windows has no such modes
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		d.fault(subject, fmt.Sprintf("every user of this machine can get at %s (mode %04o)", path, mode), "chmod 600 "+path+", and make sure that it belongs to the gateway's user")
		return false
	}
	return true
}

// checkKeys examines the encryption keys and returns them, newest first, or nil
// if there is not a good one.
func (d *doctor) checkKeys() [][]byte {
	if len(d.app.EncryptionKeys) == 0 {
		return d.checkKeyFile(defaultKeyFile())
	}
	var keys [][]byte
	for i, raw := range d.app.EncryptionKeys {
		what := fmt.Sprintf("key %d", i+1)
		text, ok := d.checkSecret(subjectKey, what, raw)
		if !ok {
			return nil
		}
		key, err := decodeKey(text)
		if err != nil {
			d.fault(subjectKey, what+": "+err.Error(), "make one with `openssl rand -base64 32`; a store that another key has sealed needs that one, too")
			return nil
		}
		keys = append(keys, key)
	}
	d.ok(subjectKey, "%s configured", plural(len(keys), "key"))
	return keys
}

// checkKeyFile examines the key file that the gateway makes by itself.
func (d *doctor) checkKeyFile(path string) [][]byte {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.ok(subjectKey, "%s will be made at the first start", path)
		return nil
	case errors.Is(err, fs.ErrPermission):
		d.warn(subjectKey, fmt.Sprintf("%s cannot be read by this user", path), "run this command as the gateway's user: sudo -u wxgate caddy wxgate check …")
		return nil
	case err != nil:
		d.fault(subjectKey, fmt.Sprintf("reading %s: %v", path, err), "restore the file from your backup")
		return nil
	}
	private := d.checkMode(subjectKey, path)
	key, err := decodeKey(strings.TrimSpace(string(text)))
	if err != nil {
		d.fault(subjectKey, fmt.Sprintf("%s: %v", path, err), "restore the file from your backup")
		return nil
	}
	if private {
		d.ok(subjectKey, "%s, for its owner alone", path)
	}
	return [][]byte{key}
}
