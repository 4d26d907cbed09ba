package main_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// openAPI is the part of docs/openapi.json that the tests hold the gateway to.
type openAPI struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Headers map[string]any
			Content map[string]struct {
				Schema struct {
					AllOf []struct {
						Properties struct{ Error struct{ Enum []string } }
					}
				}
			}
		}
	}
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]struct{ Pattern string }
		}
	}
}

// TestOpenAPIDescribesTheGateway sends what brings each error about, and looks
// it up; errors that the document lists and that were not seen fail the test.
func TestOpenAPIDescribesTheGateway(t *testing.T) {
	var api openAPI
	require.NoError(t, json.Unmarshal([]byte(readFile(t, "docs/openapi.json")), &api))
	g := gatewaytest.Start(t, gatewaytest.Config{App: "exchange_timeout 1s\nlogin_rate 40 1h"})

	seen := make(map[string]bool)
	check := func(path, method string, resp gatewaytest.Response) {
		t.Helper()
		documented, found := api.Paths[path][method].Responses[strconv.Itoa(resp.Status)]
		require.True(t, found, "%s %s answered %d: %s", method, path, resp.Status, resp.Body)
		if name := resp.ErrorName(); name != "" {
			require.Contains(t, documented.Content["application/json"].Schema.AllOf[1].Properties.Error.Enum, name)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
			_, retry := documented.Headers["Retry-After"]
			require.Equal(t, retry, resp.Header.Get("Retry-After") != "", "Retry-After of %s", name)
			seen[path+" "+name] = true
		}
	}
	post := func(body string, lines ...string) {
		t.Helper()
		check("/login", "post", g.Post("/login", body, lines...))
	}
	fresh := func() string { return `{"code":"` + g.WeChat.IssueCode(gatewaytest.AppID, "alice") + `"}` }
	errcode := func(code int64) {
		t.Helper()
		g.WeChat.Script(fakewechat.Script{Errcode: &code, Calls: 2})
		post(fresh())
		g.WeChat.Reset()
	}

	logged := g.Post("/login", fresh())
	check("/login", "post", logged)
	var session map[string]any
	require.NoError(t, json.Unmarshal([]byte(logged.Body), &session))
	require.Len(t, session, len(api.Components.Schemas["Session"].Required))
	token := session["3rd_session"].(string)
	require.Regexp(t, regexp.MustCompile(api.Components.Schemas["Session"].Properties["3rd_session"].Pattern), token)

	post("{")
	post(`{"code":"made-up"}`)
	code := fresh()
	post(code)
	post(code) // used
	errcode(40226)
	check("/login", "post", g.Get("/login"))
	post(`{"code":"` + strings.Repeat("x", 5<<10) + `"}`)
	check("/login", "post", g.Raw("POST /login HTTP/1.1\nHost: "+g.Addr+"\nContent-Type: text/plain\nContent-Length: 1\nConnection: close\n\nx"))
	post(fresh(), "Early-Data: 1")
	errcode(40013)
	html := "<html>"
	g.WeChat.Script(fakewechat.Script{Body: &html})
	post(fresh())
	g.WeChat.Reset()
	errcode(-1)

	check("/logout", "post", g.Post("/logout", ""))
	check("/logout", "post", g.Post("/logout", "", gatewaytest.Token(strings.Repeat("x", 43))))
	check("/logout", "post", g.Get("/logout"))
	check("/logout", "post", g.Post("/logout", "", gatewaytest.Token(token), "Early-Data: 1"))
	check("/{path}", "get", g.Get("/orders"))
	check("/{path}", "get", g.Get("/orders", gatewaytest.Token(strings.Repeat("x", 43))))
	check("/{path}", "get", g.Raw("TRACE / HTTP/1.1\nHost: "+g.Addr+"\nConnection: close\n\n"))
	resp := g.Post("/logout", "", gatewaytest.Token(token))
	require.Equal(t, http.StatusNoContent, resp.Status)
	check("/logout", "post", resp)
	for range 60 {
		resp := g.Post("/login", fresh())
		check("/login", "post", resp)
		if resp.ErrorName() == "rate_limited" {
			break
		}
	}

	// These need an outage, which other tests make: TestWeChatTimeout…, TestStore….
	elsewhere := map[string]bool{
		"/login wechat_timeout": true, "/login store_unavailable": true, "/logout store_unavailable": true, "/{path} store_unavailable": true,
	}
	for path, methods := range api.Paths {
		for _, method := range methods {
			for _, response := range method.Responses {
				for _, content := range response.Content {
					if len(content.Schema.AllOf) == 2 {
						for _, name := range content.Schema.AllOf[1].Properties.Error.Enum {
							require.True(t, seen[path+" "+name] || elsewhere[path+" "+name], "%s %s was not seen", path, name)
						}
					}
				}
			}
		}
	}
}
