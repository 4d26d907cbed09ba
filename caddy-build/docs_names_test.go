package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// sources parses the gateway's own packages: not its tests, nor what only
// tests and the demo use.
func sources(t *testing.T) []*ast.File {
	t.Helper()
	var files []*ast.File
	helpers := []string{"fakewechat", "redistest", "sessiontest", "testdata"}
	err := filepath.WalkDir(filepath.Join(gatewaytest.Root(), "caddymodule"), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(helpers, entry.Name()):
			return filepath.SkipDir
		case filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") && entry.Name() != "demo.go":
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			files = append(files, file)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func inspect(files []*ast.File, visit func(ast.Node)) {
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool { visit(n); return true })
	}
}

// text is the value of a string literal, or "".
func text(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	value, _ := strconv.Unquote(lit.Value)
	return value
}

// A set of names, to be compared with another.
type set map[string]bool

func (s set) add(name string) {
	if name != "" {
		s[name] = true
	}
}

// requireSame tells which names are in the code alone and which in a document
// alone.
func requireSame(t *testing.T, code, document set, what string) {
	t.Helper()
	require.NotEmpty(t, code, what)
	for name := range code {
		if !document[name] {
			t.Errorf("%s %q is in the code and not in the document", what, name)
		}
	}
	for name := range document {
		if !code[name] {
			t.Errorf("%s %q is in the document and not in the code", what, name)
		}
	}
}

func firstColumn(rows [][]string) set {
	names := make(set)
	for _, row := range rows {
		names.add(code(row[0]))
	}
	return names
}

func TestEveryErrorNameIsExplained(t *testing.T) {
	names := make(set)
	inspect(sources(t), func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if kind, ok := n.Type.(*ast.Ident); !ok || kind.Name != "answer" {
				return
			}
			for _, element := range n.Elts {
				if kv, ok := element.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "name" {
					names.add(text(kv.Value))
				}
			}
		case *ast.ValueSpec:
			if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "Kind" && n.Names[0].Name != "MockCode" {
				names.add(text(n.Values[0]))
			}
		}
	})
	requireSame(t, names, firstColumn(doc(t, "docs/troubleshooting.md").under(t, "Error names")), "error")
}

func TestEveryErrcodeIsExplained(t *testing.T) {
	codes := make(set)
	inspect(sources(t), func(n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "errcode") || len(spec.Values) == 0 {
			return
		}
		switch value := spec.Values[0].(type) {
		case *ast.BasicLit:
			codes.add(value.Value)
		case *ast.UnaryExpr:
			codes.add("-" + value.X.(*ast.BasicLit).Value)
		}
	})
	delete(codes, "0")
	explained := make(set)
	for _, row := range doc(t, "docs/troubleshooting.md").under(t, "WeChat's errcodes") {
		for number := range strings.SplitSeq(row[0], ", ") {
			explained.add(number)
		}
	}
	delete(explained, "any other")
	requireSame(t, codes, explained, "errcode")
}

func TestEveryLogMessageIsExplained(t *testing.T) {
	messages := make(set)
	logs := []string{"Error", "Warn", "Info", "Debug", "Log"}
	inspect(sources(t), func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) < 2 {
				return
			}
			switch name := sel.Sel.Name; {
			case slices.Contains(logs, name):
				messages.add(text(n.Args[0]))
			case name == "Check" || name == "recordAction":
				messages.add(text(n.Args[1]))
			case name == "recordEnd" || name == "tell":
				messages.add(text(n.Args[0]))
			}
		case *ast.ValueSpec: // what is reported by a name
			if strings.HasPrefix(n.Names[0].Name, "event") && n.Names[0].Name != "eventLogin" {
				messages.add(text(n.Values[0]))
			}
		}
	})
	requireSame(t, messages, firstColumn(doc(t, "docs/troubleshooting.md").under(t, "Log messages")), "log message")
}

// What is quoted of start-up errors must be what the code says.
func TestQuotedStartErrorsExist(t *testing.T) {
	var literals []string
	inspect(sources(t), func(n ast.Node) {
		if lit, ok := n.(ast.Expr); ok && text(lit) != "" {
			literals = append(literals, text(lit))
		}
	})
	verb := regexp.MustCompile(`%[a-z]|\d+`)
	for quote := range firstColumn(doc(t, "docs/troubleshooting.md").under(t, "It does not start, or refuses a reload")) {
		plain := verb.ReplaceAllString(quote, "%")
		if !slices.ContainsFunc(literals, func(l string) bool { return strings.Contains(verb.ReplaceAllString(l, "%"), plain) }) {
			t.Errorf("nothing in the code says %q", quote)
		}
	}
}

func TestEveryMetricIsExplained(t *testing.T) {
	metrics := make(set)
	name := regexp.MustCompile(`^wxgate_[a-z_]+$`)
	inspect(sources(t), func(n ast.Node) {
		if lit, ok := n.(ast.Expr); ok && name.MatchString(text(lit)) {
			metrics.add(text(lit))
		}
	})
	requireSame(t, metrics, firstColumn(doc(t, "docs/operations.md").under(t, "Metrics and alerts")), "metric")
}

func TestEveryAdminRouteIsExplained(t *testing.T) {
	routes := make(set)
	wildcard := regexp.MustCompile(`\{[a-z]+\}`)
	inspect(sources(t), func(n ast.Node) {
		lit, ok := n.(*ast.CompositeLit)
		if !ok || len(lit.Elts) != 3 || !strings.HasPrefix(text(lit.Elts[1]), "/wxgate/") {
			return
		}
		method := strings.ToUpper(strings.TrimPrefix(lit.Elts[0].(*ast.SelectorExpr).Sel.Name, "Method"))
		routes.add(method + " " + wildcard.ReplaceAllString(text(lit.Elts[1]), "{}"))
	})
	explained := make(set)
	for route := range firstColumn(doc(t, "docs/operations.md").under(t, "See and steer it")) {
		explained.add(wildcard.ReplaceAllString(route, "{}"))
	}
	requireSame(t, routes, explained, "route")
}

// Below these headings of configuration.md are tables of options.
var optionTables = []string{"Global options", "Sessions", "Store badger", "Store redis", "Site options"}

func optionRows(t *testing.T) [][]string {
	t.Helper()
	configuration := doc(t, "docs/configuration.md")
	var rows [][]string
	for _, heading := range optionTables {
		rows = append(rows, configuration.under(t, heading)...)
	}
	return rows
}

func TestEveryCaddyfileOptionIsExplained(t *testing.T) {
	words := make(set)
	inspect(sources(t), func(n ast.Node) {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return
		}
		kind, named := lit.Type.(*ast.Ident)
		_, mapped := lit.Type.(*ast.MapType)
		if (!named || kind.Name != "options") && !mapped {
			return
		}
		for _, element := range lit.Elts {
			if kv, ok := element.(*ast.KeyValueExpr); ok && reflect.TypeOf(kv.Value) == reflect.TypeFor[*ast.FuncLit]() {
				words.add(strings.TrimPrefix(text(kv.Key), "*"))
			}
		}
	})
	explained := make(set)
	for _, row := range optionRows(t) {
		word, _, _ := strings.Cut(code(row[0]), " ")
		explained.add(word)
	}
	requireSame(t, words, explained, "option")
}

// configurationTypes are the structs that a configuration is made of.
var configurationTypes = []string{
	"App", "MiniProgram", "SessionPolicy", "LoginRate", "Handler", "Inject", "OpenData", "BadgerStore", "RedisStore",
}

// configurationFields calls visit with each field that has a name in JSON.
func configurationFields(t *testing.T, visit func(json string, field *ast.Field)) {
	t.Helper()
	inspect(sources(t), func(n ast.Node) {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || !slices.Contains(configurationTypes, spec.Name.Name) {
			return
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			if field.Tag != nil {
				name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
				visit(name, field)
			}
		}
	})
}

func TestEveryJSONOptionIsExplained(t *testing.T) {
	names := make(set)
	configurationFields(t, func(json string, _ *ast.Field) { names.add(json) })
	delete(names, "-")
	explained := make(set)
	for _, row := range optionRows(t) {
		for i, word := range strings.Split(row[1], "`") {
			if i%2 == 1 && !strings.Contains(word, `"`) {
				explained.add(word)
			}
		}
	}
	delete(explained, "module") // Caddy's own
	requireSame(t, names, explained, "JSON option")
}

// A default that is one word in the code's comment is that word in the
// document.
func TestDefaultsAreThoseOfTheCode(t *testing.T) {
	documented := make(map[string]string)
	for _, row := range optionRows(t) {
		documented[code(row[1])] = strings.Trim(row[2], "`")
	}
	oneWord := regexp.MustCompile(`Default: (\S+)\n?$`)
	compared := 0
	configurationFields(t, func(json string, field *ast.Field) {
		match := oneWord.FindStringSubmatch(field.Doc.Text())
		if match == nil || documented[json] == "" {
			return
		}
		compared++
		require.Equal(t, match[1], documented[json], json)
	})
	require.Greater(t, compared, 15)
}
