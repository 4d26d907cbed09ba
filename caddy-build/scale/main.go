// Command scale draws how costs grow with sessions and gateways, from the output
// of benchmarks:
//
//	{
//		go test -run '^$' -bench Many -benchtime 1x -timeout 3h ./caddymodule/session/badgerstore ./caddymodule/session/redisstore
//		go test -run '^$' -bench Scale -benchtime 1x ./caddy-build
//	} | go run ./caddy-build/scale > docs/images/scale.svg
package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/wxgate/wxgate/caddy-build/draw"
)

// results are the values of a unit by line and place: "MiB-stored" of "badgerstore"
// at 10000 sessions, or "login-gate-µs" of "redis" at 2 gateways.
type results map[string]map[string]map[float64]float64

// read reads the output of go test. Other lines than results are passed over.
func read(in io.Reader) results {
	all := make(results)
	var pkg string
	for lines := bufio.NewScanner(in); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && fields[0] == "pkg:" {
			pkg = path.Base(fields[1])
		}
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		// BenchmarkMany/sessions=10000-2 or BenchmarkScale/redis/gateways=2-2
		name, count, _ := strings.Cut(fields[0], "=")
		line := pkg
		if parts := strings.Split(name, "/"); len(parts) == 3 {
			line = parts[1]
		}
		var at float64
		_, _ = fmt.Sscan(strings.Split(count, "-")[0], &at)
		for i := 2; i+1 < len(fields); i += 2 {
			var value float64
			_, _ = fmt.Sscan(fields[i], &value)
			unit := fields[i+1]
			if all[unit] == nil {
				all[unit] = make(map[string]map[float64]float64)
			}
			if all[unit][line] == nil {
				all[unit][line] = make(map[float64]float64)
			}
			all[unit][line][at] = value
		}
	}
	return all
}

// A panel is a unit and the lines that are drawn of it.
type panel struct {
	title, unit   string
	first, second string // lines
	base          axis
	logarithmic   bool // also upwards
}

// An axis is logarithmic.
type axis struct {
	from, to    float64
	left, right string
}

var (
	sessions = axis{1e4, 1e7, "10⁴ sessions", "10⁷ sessions"}
	gateways = axis{1, 4, "1 gateway", "4 gateways"}
)

var panels = []panel{
	{"stored, MiB, logarithmic", "MiB-stored", "badgerstore", "redisstore", sessions, true},
	{"live memory of the gateway, MiB", "MiB-live", "badgerstore", "redisstore", sessions, false},
	{"random look-up, median, µs", "µs-look-up-p50", "badgerstore", "redisstore", sessions, false},
	{"logins of 64 clients, per second", "logins/s-of-64", "badgerstore", "redisstore", sessions, false},
	{"login: CPU of the gateways, µs", "login-gate-µs", "badger", "redis", gateways, false},
	{"login: CPU of Redis, µs", "login-redis-µs", "", "redis", gateways, false},
	{"first request: CPU of the gateways, µs", "first-gate-µs", "badger", "redis", gateways, false},
	{"first request: CPU of Redis, µs", "first-redis-µs", "", "redis", gateways, false},
}

func main() {
	all := read(os.Stdin)
	p := draw.New("scale", "green: Badger; blue: Redis, up to 10⁶ sessions", len(panels))
	for _, d := range panels {
		first, second := all[d.unit][d.first], all[d.unit][d.second]
		if len(first)+len(second) == 0 {
			fmt.Fprintln(os.Stderr, "scale: the input has no results of", d.unit)
			os.Exit(1)
		}
		top := slices.Max(slices.Concat(slices.Collect(maps.Values(first)), slices.Collect(maps.Values(second))))
		panel := p.Panel(d.title, "", fmt.Sprintf("%.0f", top), d.base.left, d.base.right)
		panel.Line(draw.First, true, d.points(first, top)...)
		panel.Line(draw.Second, true, d.points(second, top)...)
	}
	_, _ = os.Stdout.Write(p.SVG())
}

// points places the values of a line. The panel shows four decades if it is
// logarithmic upwards.
func (d panel) points(values map[float64]float64, top float64) (points [][2]float64) {
	for _, at := range slices.Sorted(maps.Keys(values)) {
		x, y := math.Log(at/d.base.from)/math.Log(d.base.to/d.base.from), values[at]/top
		if d.logarithmic {
			y = max(0, 1+math.Log10(y)/4)
		}
		points = append(points, [2]float64{x, y})
	}
	return points
}
