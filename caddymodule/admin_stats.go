package caddymodule

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// countTime bounds how long the store may take to count its sessions.
const countTime = 2 * time.Second

func serveStats(g gateway, w http.ResponseWriter, r *http.Request) error {
	view := adminapi.Stats{
		Store:       adminapi.Store{Kind: g.module.CaddyModule().ID.Name(), Name: StoreTitle(g.module), Options: storeOptions(g.module)},
		Build:       Build(),
		KeyID:       g.keyID,
		Logins:      make(map[string]int64),
		Requests:    make(map[string]int64),
		Revocations: make(map[string]int64),
		APICalls:    make(map[string]int64),
	}
	if free, ok := g.sessions.Free(); ok {
		view.Store.Free = &free
	}
	if err := g.sessions.Room(); err != nil {
		view.Store.Full = err.Error()
	}
	ctx, cancel := context.WithTimeout(r.Context(), countTime)
	defer cancel()
	if err := g.sessions.Ping(ctx); err != nil {
		view.Store.Down = err.Error()
	} else if n, ok := g.sessions.Count(ctx); ok {
		view.Sessions = &n
	}
	byApp := make(map[string]map[string]int64)
	for _, mp := range g.MiniPrograms {
		byApp[mp.AppID] = make(map[string]int64)
		view.MiniPrograms = append(view.MiniPrograms, adminapi.MiniProgramStats{AppID: mp.AppID, Logins: byApp[mp.AppID]})
	}
	for _, s := range samples(g.metrics.logins) {
		view.Logins[s.labels["result"]] += s.value
		// A login of no known mini program, or of one that is no longer
		// declared, is in the sum only.
		if logins, declared := byApp[s.labels["appid"]]; declared {
			logins[s.labels["result"]] = s.value
		}
	}
	for _, s := range samples(g.metrics.requests) {
		view.Requests[s.labels["result"]] = s.value
	}
	for _, s := range samples(g.metrics.revocations) {
		view.Revocations[s.labels["reason"]] = s.value
	}
	for _, s := range samples(g.metrics.apiCalls) {
		view.APICalls[s.labels["result"]] += s.value
	}
	return writeJSON(w, http.StatusOK, view)
}

// modulePath is this module as a build names it.
const modulePath = "github.com/wxgate/wxgate"

// Build returns the versions that this binary was built from.
func Build() adminapi.Build {
	simple, _ := caddy.Version()
	build := adminapi.Build{Version: "(devel)", Caddy: simple, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		build.Version = versionOf(info)
	}
	return build
}

// versionOf finds this module in a build: it is the main one in a checkout, and a
// dependency in a build of xcaddy.
func versionOf(info *debug.BuildInfo) string {
	version, revision := "", ""
	for _, dep := range append(info.Deps, &info.Main) {
		if dep.Path == modulePath {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			version = dep.Version
		}
	}
	if version != "" && version != "(devel)" {
		return version
	}
	// A directory has no version, but if it is what was built, a commit.
	if info.Main.Path == modulePath {
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				revision = setting.Value[:min(12, len(setting.Value))] + revision
			case setting.Key == "vcs.modified" && setting.Value == "true":
				revision += "+dirty"
			}
		}
	}
	return strings.TrimSpace("(devel) " + revision)
}

// newBuildInfo is a metric whose labels are the versions.
func newBuildInfo() prometheus.Collector {
	build := Build()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "wxgate_build_info", Help: "Always 1; the labels are the versions of wxgate, Caddy and Go.",
		ConstLabels: prometheus.Labels{"version": build.Version, "caddy_version": build.Caddy, "go_version": build.Go},
	}, func() float64 { return 1 })
}
