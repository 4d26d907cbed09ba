package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), path))
	require.NoError(t, err)
	return string(text)
}

// A document is one of the project's Markdown files, as far as tests look.
type document struct {
	path   string // from the root of the checkout
	blocks []codeBlock
	prose  string // without the blocks
}

// A codeBlock is fenced. The words after ``` are its language and, for a
// Caddyfile, where it belongs; see wholeCaddyfile.
type codeBlock struct {
	language, place, text string
	line                  int
}

var (
	fence   = regexp.MustCompile("(?ms)^```(\\S*) ?(.*?)\n(.*?)^```$")
	heading = regexp.MustCompile(`(?m)^(#+) +(.*)$`)
	rowCode = regexp.MustCompile("(?m)^\\| `[^`]+` \\|") // the first cell of a row
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// documents reads the Markdown files that match no or any of the patterns.
func documents(t *testing.T) []document {
	t.Helper()
	var docs []document
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(gatewaytest.Root(), pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			path, err = filepath.Rel(gatewaytest.Root(), path)
			require.NoError(t, err)
			docs = append(docs, readDocument(t, path))
		}
	}
	return docs
}

func readDocument(t *testing.T, path string) document {
	t.Helper()
	text := readFile(t, path)
	d := document{path: path, prose: fence.ReplaceAllString(text, "")}
	require.NotContains(t, d.prose, "```", "%s: a code block has no end", path)
	for _, m := range fence.FindAllStringSubmatchIndex(text, -1) {
		d.blocks = append(d.blocks, codeBlock{
			text[m[2]:m[3]], text[m[4]:m[5]], text[m[6]:m[7]], 1 + strings.Count(text[:m[0]], "\n"),
		})
	}
	return d
}

// chinese returns the path of the Chinese version.
func (d document) chinese() string { return strings.TrimSuffix(d.path, ".md") + ".zh-CN.md" }

func (d document) isChinese() bool { return strings.HasSuffix(d.path, ".zh-CN.md") }

func (d document) links() []string {
	var links []string
	for _, m := range link.FindAllStringSubmatch(d.prose, -1) {
		links = append(links, m[1])
	}
	return links
}

// anchors are the names under which the headings can be linked to, as GitHub
// makes them.
func (d document) anchors() map[string]bool {
	anchors := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(d.prose, -1) {
		anchors[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, m[2])] = true
	}
	return anchors
}

func TestLinksResolve(t *testing.T) {
	for _, d := range documents(t) {
		for i, link := range d.links() {
			path, fragment, _ := strings.Cut(link, "#")
			if strings.Contains(link, ":") {
				continue // a URL
			}
			target := d
			if path != "" {
				path = filepath.Join(filepath.Dir(d.path), path)
				if _, err := os.Stat(filepath.Join(gatewaytest.Root(), path)); err != nil {
					t.Errorf("%s: %s does not exist", d.path, link)
					continue
				}
				target = document{path: path}
				if filepath.Ext(path) == ".md" {
					target = readDocument(t, path)
				}
			}
			if fragment != "" && !target.anchors()[fragment] {
				t.Errorf("%s: %s has no heading for #%s", d.path, target.path, fragment)
			}
			if _, err := os.Stat(filepath.Join(gatewaytest.Root(), target.chinese())); err == nil && d.isChinese() && !target.isChinese() && i > 0 {
				t.Errorf("%s: %s has a Chinese version", d.path, link)
			}
		}
	}
}

// The two versions have the same headings, code and links; a difference means
// that one was changed without the other.
func TestDocumentsSayTheSameInBothLanguages(t *testing.T) {
	for _, d := range documents(t) {
		if d.isChinese() || d.path == "SECURITY.md" { // which has both languages
			continue
		}
		t.Run(d.path, func(t *testing.T) {
			chinese := readDocument(t, d.chinese())
			require.Equal(t, levels(d), levels(chinese), "headings")
			require.Equal(t, rowCode.FindAllString(d.prose, -1), rowCode.FindAllString(chinese.prose, -1), "tables")
			require.Equal(t, plainBlocks(d), plainBlocks(chinese), "code, but for comments")
			require.NotEmpty(t, d.links(), "the first link leads to the other language")
			require.Equal(t, plainLinks(d), plainLinks(chinese), "links")

			// A comma or full stop of another width in a Chinese sentence is the
			// mark of a text that was not read again.
			require.NotRegexp(t, `\p{Han}[,;:?!]|[,;:?!]\p{Han}`, readFile(t, chinese.path))
		})
	}
}

func levels(d document) []string {
	var levels []string
	for _, m := range heading.FindAllStringSubmatch(d.prose, -1) {
		levels = append(levels, m[1])
	}
	return levels
}

var (
	// comment matches what may be in another language. A # or // within a word,
	// as in a URL, begins none.
	comment = regexp.MustCompile(`(?m)(^|\s)(#|//)(\s.*)?$`)
	// quoted matches a string, which may hold words for people.
	quoted = regexp.MustCompile(`'[^'\n]*'|"[^"\n]*"`)
)

func plainBlocks(d document) []string {
	var blocks []string
	for _, b := range d.blocks {
		if b.language == "" {
			b.text = "" // a drawing has words in it
		}
		text := quoted.ReplaceAllStringFunc(comment.ReplaceAllString(b.text, ""), func(s string) string {
			if strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || unicode.Is(unicode.Han, r) }) {
				return `""`
			}
			return s
		})
		lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		blocks = append(blocks, strings.TrimSpace(b.language+" "+b.place+"\n"+strings.Join(lines, "\n")))
	}
	return blocks
}

// plainLinks leaves out what differs: the version of a document that is linked
// to, and the names of headings. The first link leads to the other language.
func plainLinks(d document) []string {
	var links []string
	for _, link := range d.links() {
		path, _, _ := strings.Cut(link, "#")
		links = append(links, strings.ReplaceAll(path, ".zh-CN.md", ".md"))
	}
	return links[1:]
}
