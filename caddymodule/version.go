package caddymodule

import (
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

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
