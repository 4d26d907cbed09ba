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

// bilingual are the documents that must be there in both languages.
var bilingual = []string{
	"README.md", "docs/configuration.md", "docs/architecture.md", "docs/operations.md", "docs/troubleshooting.md",
	"docs/security.md", "docs/performance.md", "docs/upstream.md", "docs/miniprogram/README.md",
}

func TestDocumentsSayTheSameInBothLanguages(t *testing.T) {
	for _, path := range bilingual {
		t.Run(path, func(t *testing.T) {
			english := doc(t, path)
			chinese := doc(t, english.chinese())
			require.Equal(t, levels(english), levels(chinese), "headings")
			require.Equal(t, plainBlocks(english), plainBlocks(chinese), "code, but for comments")
			require.Equal(t, tableShape(english), tableShape(chinese), "tables")
			require.Equal(t, plainLinks(english), plainLinks(chinese), "links")
		})
	}
}

func levels(d *document) []int {
	var levels []int
	for _, h := range d.headings {
		levels = append(levels, h.level)
	}
	return levels
}

// comment matches what may be written in another language. A # or // within a
// word, as in a URL, begins none.
var comment = regexp.MustCompile(`(^|\s)(#|//)(\s.*)?$`)

// quoted matches a string, which may hold words for people.
var quoted = regexp.MustCompile(`'[^']*'|"[^"]*"`)

func withoutWords(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r == ' ' || unicode.Is(unicode.Han, r) }) {
		return `""`
	}
	return text
}

func plainBlocks(d *document) []string {
	var blocks []string
	for _, b := range d.blocks {
		var text strings.Builder
		for line := range strings.SplitSeq(b.text, "\n") {
			line = quoted.ReplaceAllStringFunc(comment.ReplaceAllString(line, ""), withoutWords)
			if line = strings.TrimRight(line, " \t"); line != "" {
				text.WriteString(line + "\n")
			}
		}
		// A drawing has words in it.
		if b.language == "" {
			text.Reset()
		}
		blocks = append(blocks, b.language+" "+b.place+"\n"+text.String())
	}
	return blocks
}

// tableShape has the columns of each row, and the first one where it is code.
func tableShape(d *document) []string {
	var shape []string
	for _, row := range d.rows {
		first := row.cells[0]
		if !regexp.MustCompile("^`[^`]+`$").MatchString(first) {
			first = ""
		}
		shape = append(shape, first+strings.Repeat("|", len(row.cells)))
	}
	return shape
}

// plainLinks leaves out what differs between the languages: which version of a
// document is linked to, and the names of headings.
func plainLinks(d *document) []string {
	var links []string
	for _, link := range d.links {
		path, _, _ := strings.Cut(link, "#")
		links = append(links, strings.ReplaceAll(path, ".zh-CN.md", ".md"))
	}
	// The first link of a document leads to the other language.
	return links[1:]
}

func TestLinksResolve(t *testing.T) {
	for _, d := range documents(t) {
		t.Run(d.path, func(t *testing.T) {
			for _, link := range d.links {
				if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
					continue
				}
				path, fragment, _ := strings.Cut(link, "#")
				target := d
				if path != "" {
					full := filepath.Join(gatewaytest.Root(), filepath.Dir(d.path), path)
					if _, err := os.Stat(full); err != nil {
						t.Errorf("%s: nothing is at %s", d.path, link)
						continue
					}
					if filepath.Ext(full) != ".md" {
						continue
					}
					target = readDocument(t, full)
				}
				if fragment != "" && !target.anchors()[fragment] {
					t.Errorf("%s: %s has no heading for #%s", d.path, target.path, fragment)
				}
				if path != "" && d.isChinese() && !target.isChinese() && hasChinese(target) && link != d.links[0] {
					t.Errorf("%s: %s is there in Chinese, too", d.path, link)
				}
			}
		})
	}
}

func hasChinese(d *document) bool {
	_, err := os.Stat(filepath.Join(gatewaytest.Root(), d.chinese()))
	return err == nil
}

// A Chinese sentence has Chinese punctuation: commas and full stops of another
// width are the mark of a text that nobody has read.
func TestChinesePunctuation(t *testing.T) {
	wrong := regexp.MustCompile(`\p{Han}[,;:?!]|[,;:?!]\p{Han}`)
	for _, path := range bilingual {
		d := doc(t, doc(t, path).chinese())
		text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), d.path))
		require.NoError(t, err)
		for i, line := range strings.Split(string(text), "\n") {
			if found := wrong.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", d.path, i+1, found)
			}
		}
	}
}
