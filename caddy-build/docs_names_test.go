package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	_ "github.com/wxgate/wxgate"
	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// source is the text of the gateway's own packages, without tests and sandbox.
func source(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(filepath.Join(gatewaytest.Root(), "caddymodule"), func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case name == "fakewechat", name == "redistest", name == "sessiontest", name == "testdata":
			return filepath.SkipDir
		case filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go"):
			file, err := os.ReadFile(path)
			text.Write(file)
			return err
		}
		return nil
	})
	require.NoError(t, err)
	return text.String()
}

// manual returns the documents of one language as one text.
func manual(t *testing.T, chinese bool) string {
	t.Helper()
	var text strings.Builder
	for _, d := range documents(t) {
		if d.isChinese() == chinese {
			text.WriteString(readFile(t, d.path))
		}
	}
	return text.String()
}

// optionNames returns the names in JSON of all options of the modules.
func optionNames(t *testing.T) []string {
	t.Helper()
	seen := make(map[reflect.Type]bool)
	var names []string
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || seen[of] {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
				names = append(names, name)
				walk(of.Field(i).Type)
			}
		}
	}
	for _, id := range caddy.Modules() {
		if strings.Contains(id, "wxgate") {
			info, err := caddy.GetModule(id)
			require.NoError(t, err)
			walk(reflect.TypeOf(info.New()))
		}
	}
	return names
}

// optionWord matches a word of the Caddyfile in the parsers.
var optionWord = regexp.MustCompile(`(?m)^\s+"\*?([a-z_]+)": +(?:func|into|also)\(`)

// Every option, error, errcode and metric has a heading, a row of a table or an
// item of a list in the documents of both languages.
func TestEveryNameIsExplained(t *testing.T) {
	code := source(t)
	kinds := map[string][]string{"JSON option": optionNames(t)}
	for kind, pattern := range map[string]string{
		"Caddyfile option": optionWord.String(),
		"error":            `(?:\bname: +|\bKind = )"([a-z_]+)"`,
		"errcode":          `(?m)^\s+(?:errcode\w+ += )?(-?[1-9]\d*)(?: *//|:\s+\{Kind|$)`,
		"metric":           `"(wxgate_[a-z_]+)"`,
	} {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(code, -1) {
			if m[1] != "mock_code" { // of developer tools, never an answer
				kinds[kind] = append(kinds[kind], m[1])
			}
		}
	}
	for kind, names := range kinds {
		require.Greater(t, len(names), 7, kind)
		for _, chinese := range []bool{false, true} {
			text := manual(t, chinese)
			for _, name := range names {
				if !regexp.MustCompile(`(?m)^(#|\||-)(.*[^\w-])?` + name + `([^\w]|$)`).MatchString(text) {
					t.Errorf("%s %q is not in the documents (Chinese: %v)", kind, name, chinese)
				}
			}
		}
	}
}

// What the documents call a metric is one, and a message that they quote from
// the log or from a refused start is in the code.
func TestNamesInDocumentsExist(t *testing.T) {
	code := source(t)
	for _, d := range documents(t) {
		for _, name := range regexp.MustCompile(`\bwxgate_(\w+_(?:total|seconds|bytes|info))`).FindAllString(d.prose, -1) {
			if !strings.Contains(code, `"`+name+`"`) {
				t.Errorf("%s: there is no metric %s", d.path, name)
			}
		}
		for _, title := range []string{"Log messages", "It does not start, or refuses a reload"} {
			_, section, _ := strings.Cut(d.prose, "# "+title+"\n")
			section, _, _ = strings.Cut(section, "\n## ")
			for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
				// Formatting verbs and numbers stand for any word.
				parts := regexp.MustCompile(`%[a-z]|\d+`).Split(m[1], -1)
				for i, part := range parts {
					parts[i] = strings.ReplaceAll(regexp.QuoteMeta(part), `"`, `\\?"`)
				}
				if !regexp.MustCompile(strings.Join(parts, `\S+`)).MatchString(code) {
					t.Errorf("%s: no message is %q", d.path, m[1])
				}
			}
		}
	}
}

// Every option of the Caddyfile has a heading of its own on the configuration
// page, and the table of contents links it, in both languages.
func TestEveryOptionIsLinked(t *testing.T) {
	for _, path := range []string{"docs/configuration.md", "docs/configuration.zh-CN.md"} {
		d := readDocument(t, path)
		contents, _, _ := strings.Cut(d.prose, "\n## ")
		var options []string
		for _, m := range heading.FindAllStringSubmatch(d.prose, -1) {
			if m[1] == "####" {
				options = append(options, strings.Fields(m[2])...)
				require.Contains(t, contents, "["+m[2]+"](#"+strings.ReplaceAll(m[2], " ", "-")+")", path)
			}
		}
		require.Greater(t, len(options), 50, path)
		for _, m := range optionWord.FindAllStringSubmatch(source(t), -1) {
			if m[1] != "session" && m[1] != "store" { // blocks, with a heading above their options
				require.Contains(t, options, m[1], path)
			}
		}
	}
}
