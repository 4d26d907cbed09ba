package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A document is one of the project's Markdown files, as far as tests look.
type document struct {
	path     string // from the root of the checkout
	headings []heading
	blocks   []codeBlock
	links    []string
	rows     []tableRow
}

type heading struct {
	level int
	text  string
}

// A codeBlock is fenced. The words after ``` say what it is: for Caddyfiles
// also where it belongs, see wholeCaddyfile.
type codeBlock struct {
	language string
	place    string
	text     string
	line     int
}

// A tableRow is one row of a table, its head included, below a heading.
type tableRow struct {
	heading string
	cells   []string
}

// documents reads all Markdown files of the project.
func documents(t *testing.T) []*document {
	t.Helper()
	var docs []*document
	root := gatewaytest.Root()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || strings.HasPrefix(entry.Name(), ".") && path != root):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			docs = append(docs, readDocument(t, path))
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, docs)
	return docs
}

// doc reads one, by its path from the root of the checkout.
func doc(t *testing.T, path string) *document {
	t.Helper()
	return readDocument(t, filepath.Join(gatewaytest.Root(), path))
}

var linkPattern = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func readDocument(t *testing.T, path string) *document {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	relative, err := filepath.Rel(gatewaytest.Root(), path)
	require.NoError(t, err)
	d := &document{path: relative}
	var block *codeBlock
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case block != nil && strings.TrimSpace(line) == "```":
			d.blocks = append(d.blocks, *block)
			block = nil
		case block != nil:
			block.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			language, place, _ := strings.Cut(strings.TrimPrefix(line, "```"), " ")
			block = &codeBlock{language: language, place: place, line: i + 1}
		case strings.HasPrefix(line, "#"):
			text := strings.TrimLeft(line, "#")
			d.headings = append(d.headings, heading{len(line) - len(text), strings.TrimSpace(text)})
		default:
			d.readLine(line)
		}
	}
	require.Nil(t, block, "%s: a code block has no end", relative)
	return d
}

func (d *document) readLine(line string) {
	for _, match := range linkPattern.FindAllStringSubmatch(line, -1) {
		d.links = append(d.links, match[1])
	}
	if !strings.HasPrefix(line, "|") {
		return
	}
	row := tableRow{cells: strings.Split(strings.Trim(line, "|"), "|")}
	if len(d.headings) > 0 {
		row.heading = d.headings[len(d.headings)-1].text
	}
	for i, cell := range row.cells {
		row.cells[i] = strings.TrimSpace(cell)
	}
	d.rows = append(d.rows, row)
}

// under returns the rows of the tables below a heading, without their heads.
func (d *document) under(t *testing.T, heading string) [][]string {
	t.Helper()
	var below [][]string
	for _, row := range d.rows {
		if row.heading == heading {
			below = append(below, row.cells)
		}
	}
	require.Greater(t, len(below), 2, "%s has no table below %q", d.path, heading)
	return below[2:]
}

// code returns the first text between backticks of a cell.
func code(cell string) string {
	_, rest, _ := strings.Cut(cell, "`")
	text, _, _ := strings.Cut(rest, "`")
	return text
}

// anchors are the names under which the headings can be linked to.
func (d *document) anchors() map[string]bool {
	anchors := make(map[string]bool)
	for _, h := range d.headings {
		anchors[anchor(h.text)] = true
	}
	return anchors
}

// anchor makes a heading's anchor as GitHub does.
func anchor(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, text)
}

// chinese returns the path of the Chinese version.
func (d *document) chinese() string { return strings.TrimSuffix(d.path, ".md") + ".zh-CN.md" }

func (d *document) isChinese() bool { return strings.HasSuffix(d.path, ".zh-CN.md") }
