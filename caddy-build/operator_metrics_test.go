package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// series are the gateway's series at /metrics, by their text: a name and labels.
type series map[string]float64

var seriesLine = regexp.MustCompile(`^(wxgate_\w+(?:\{.*\})?) (\S+)$`)

func scrape(t *testing.T, g *gatewaytest.Gateway) series {
	t.Helper()
	resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/metrics"))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.Status)
	found := make(series)
	for line := range strings.Lines(resp.Body) {
		if m := seriesLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			found[m[1]], err = strconv.ParseFloat(m[2], 64)
			require.NoError(t, err, line)
		}
	}
	return found
}

var histogramPart = regexp.MustCompile(`_(bucket|sum|count)$`)

// names are the metrics without labels, a histogram under its own name.
func (s series) names() []string {
	names := make(map[string]bool)
	for text := range s {
		name, _, _ := strings.Cut(text, "{")
		names[histogramPart.ReplaceAllString(name, "")] = true
	}
	return slices.Sorted(maps.Keys(names))
}

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// labels are the values that each label has, of all metrics together.
func (s series) labels() map[string][]string {
	values := make(map[string][]string)
	for text := range s {
		for _, m := range label.FindAllStringSubmatch(text, -1) {
			values[m[1]] = append(values[m[1]], m[2])
		}
	}
	return values
}

func TestMetricsCountAndSurviveReload(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "session {\nmax_per_user 2\n}", Site: "public /about"})
	login := func(result string) string {
		return fmt.Sprintf(`wxgate_logins_total{appid="%s",result="%s"}`, gatewaytest.AppID, result)
	}
	begun := scrape(t, g)
	for _, watched := range []string{
		login("ok"), login("wechat_rejected_gateway"), `wxgate_revocations_total{reason="admin"}`,
		`wxgate_store_errors_total{op="update"}`, `wxgate_requests_total{result="unavailable"}`,
	} {
		require.Contains(t, begun, watched, "a series that an alert watches is there before its first event")
	}

	first := g.Login("alice").Token
	g.Login("alice")
	last := g.Login("alice").Token // the first ends: max_per_user
	g.Login("bob")
	require.Equal(t, "invalid_code", g.Post("/login", `{"code":"made-up"}`).ErrorName())
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(last)).Status)
	require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(first)).ErrorName())
	require.Equal(t, "missing_session", g.Get("/").ErrorName())
	require.Equal(t, http.StatusOK, g.Get("/about").Status)
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(last)).Status)
	operate(t, g, "revoke", g.OpenID("bob"), "--address", g.Admin).require(t, 0)

	check := func(when string) {
		t.Helper()
		now := scrape(t, g)
		want := series{
			login("ok"):           4,
			login("invalid_code"): 1,
			`wxgate_requests_total{result="allowed"}`:                                   1,
			`wxgate_requests_total{result="invalid"}`:                                   1,
			`wxgate_requests_total{result="missing"}`:                                   1,
			`wxgate_requests_total{result="public"}`:                                    1,
			`wxgate_requests_total{result="unavailable"}`:                               0,
			`wxgate_revocations_total{reason="max_per_user"}`:                           1,
			`wxgate_revocations_total{reason="logout"}`:                                 1,
			`wxgate_revocations_total{reason="admin"}`:                                  1,
			`wxgate_exchange_duration_seconds_count{appid="` + gatewaytest.AppID + `"}`: 5,
			`wxgate_exchanges_in_flight`:                                                0,
			`wxgate_session_cache_total{result="miss"}`:                                 2,
			`wxgate_session_cache_total{result="hit"}`:                                  2, // of the logout
		}
		for text, n := range want {
			require.Equal(t, n, now[text], "%s %s", text, when)
		}
		require.Positive(t, now[`wxgate_store_duration_seconds_count{op="update"}`], when)
	}
	check("before the reload")
	for range 2 {
		out, err := g.Reload(gatewaytest.Config{App: "session {\nmax_per_user 3\n}", Site: "public /about"})
		require.NoError(t, err, out)
	}
	check("after reloads")
	g.Eventually(func() bool { return scrape(t, g)["wxgate_sessions"] == 1 }, "one session is counted")
	g.Login("carol")
	g.Eventually(func() bool { return scrape(t, g)["wxgate_sessions"] == 2 }, "the running configuration counts the next one")

	for text := range scrape(t, g) {
		for _, openID := range []string{g.OpenID("alice"), g.OpenID("bob"), last, "made-up"} {
			require.NotContains(t, text, openID, "labels come from closed sets")
		}
	}
}

// TestAClientThatLeavesIsNoOutage proves that a user who closes the mini program
// while the store is being asked does not set off the alert for outages.
func TestAClientThatLeavesIsNoOutage(t *testing.T) {
	redis := redistest.Start(t)
	g := gatewaytest.Start(t, gatewaytest.Config{
		Options: "log {\nlevel DEBUG\n}",
		App:     "encryption_key {env.WXGATE_KEY}\nstore redis " + redis.Addr + " {\ntimeout 1m\nclient_cache off\n}",
		Env:     []string{"WXGATE_KEY=" + someKey},
	})
	token := g.Login("alice").Token
	redis.Stop()
	conn, err := net.Dial("tcp", g.Addr)
	require.NoError(t, err)
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n3rd_session: %s\r\n\r\n", g.Addr, token)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	g.Eventually(func() bool {
		return len(parseLog(t, g.Output(), func(l logLine) bool { return l["msg"] == "request rejected" })) > 0
	}, "the gateway gives the request up")
	redis.Continue()
	now := scrape(t, g)
	for text, n := range now {
		if strings.HasPrefix(text, "wxgate_requests_total") {
			require.Zero(t, n, text)
		}
	}
	require.Zero(t, now[`wxgate_store_errors_total{op="get"}`])
}

// expressions are what the dashboard and the rules ask Prometheus.
func expressions(t *testing.T) (dashboard, rules string) {
	t.Helper()
	read := func(file string) []byte {
		text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), "docs", file))
		require.NoError(t, err)
		return text
	}
	var board any
	require.NoError(t, json.Unmarshal(read("grafana-dashboard.json"), &board))
	var asked []string
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case []any:
			for _, element := range v {
				walk(element)
			}
		case map[string]any:
			if expr, ok := v["expr"].(string); ok {
				asked = append(asked, expr)
			}
			if query, ok := v["query"].(string); ok {
				asked = append(asked, query) // of a variable
			}
			for _, element := range v {
				walk(element)
			}
		}
	}
	walk(board)
	return strings.Join(asked, "\n"), string(read("prometheus-rules.yml"))
}

var (
	metricName = regexp.MustCompile(`\bwxgate_\w+`)
	selector   = regexp.MustCompile(`(\w+)=~?"([^"]*)"`)
)

// TestDashboardAndRulesNameWhatTheBinaryExposes compares both ways: they ask for
// no metric and no label that is not there, and leave no metric out.
func TestDashboardAndRulesNameWhatTheBinaryExposes(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	g.Login("alice")
	exposed := scrape(t, g)
	dashboard, rules := expressions(t)
	for where, text := range map[string]string{"the dashboard": dashboard, "the rules": rules} {
		asked := make(map[string]bool)
		for _, name := range metricName.FindAllString(text, -1) {
			if !slices.Contains(exposed.names(), name) {
				require.Regexp(t, histogramPart, name, where)
				name = histogramPart.ReplaceAllString(name, "")
			}
			asked[name] = true
		}
		require.Equal(t, exposed.names(), slices.Sorted(maps.Keys(asked)), where)

		for _, m := range selector.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[2], "$") {
				continue // the reader of the dashboard chooses
			}
			for value := range strings.SplitSeq(m[2], "|") {
				require.Contains(t, exposed.labels()[m[1]], value, "%s asks for %s", where, m[0])
			}
		}
	}
}

// TestPrometheusReadsTheExpressions has Prometheus itself parse the rules and,
// dressed up as rules, what the dashboard asks.
func TestPrometheusReadsTheExpressions(t *testing.T) {
	gatewaytest.Needs(t, "promtool")
	dashboard, _ := expressions(t)
	dressed := "groups:\n- name: dashboard\n  rules:\n"
	for i, expr := range strings.Split(dashboard, "\n") {
		if strings.HasPrefix(expr, "label_values(") || expr == "prometheus" {
			continue // Grafana's own
		}
		expr = strings.NewReplacer("$__rate_interval", "5m").Replace(expr)
		dressed += fmt.Sprintf("  - record: dashboard:%d\n    expr: %q\n", i, expr)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	require.NoError(t, os.WriteFile(file, []byte(dressed), 0o600))
	for _, rules := range []string{file, filepath.Join(gatewaytest.Root(), "docs", "prometheus-rules.yml")} {
		out, err := gatewaytest.Command(t, "promtool", "check", "rules", "--lint-fatal", rules).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// TestAlertsFire lets Prometheus play each trouble that an alert is for, and a
// day on which all is well.
func TestAlertsFire(t *testing.T) {
	gatewaytest.Needs(t, "promtool")
	scenes, err := os.ReadFile(filepath.Join("testdata", "prometheus-rules.test.yml"))
	require.NoError(t, err)
	_, rules := expressions(t)
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		require.Contains(t, string(scenes), `alertname="`+m[1]+`"`, "an alert that no scene sets off")
	}
	path := filepath.Join(gatewaytest.Root(), "docs", "prometheus-rules.yml")
	file := filepath.Join(t.TempDir(), "scenes.yml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(scenes), "RULES", path, 1)), 0o600))
	out, err := gatewaytest.Command(t, "promtool", "test", "rules", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// A request that passes two gates is one request.
func TestRequestThroughTwoGatesCountsOnce(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		Site: "public /a/public",
		Next: "wxgate /a/* {\n\tinject openid X-A\n\tpublic /a/public\n}\nreverse_proxy $UPSTREAM",
	})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/a/x", gatewaytest.Token(token)).Status)
	require.Equal(t, http.StatusOK, g.Get("/a/public").Status)
	require.Equal(t, http.StatusUnauthorized, g.Get("/a/x").Status)
	counted := scrape(t, g)
	for _, result := range []string{"allowed", "public", "missing"} {
		require.EqualValues(t, 1, counted[`wxgate_requests_total{result="`+result+`"}`], result)
	}
}
