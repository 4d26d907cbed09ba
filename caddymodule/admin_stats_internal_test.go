package caddymodule

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionOfABuild(t *testing.T) {
	module := func(path, version string, replace *debug.Module) *debug.Module {
		return &debug.Module{Path: path, Version: version, Replace: replace}
	}
	const revision = "0123456789abcdef0123456789abcdef01234567"
	for name, tc := range map[string]struct {
		info debug.BuildInfo
		want string
	}{
		"released, by xcaddy": {debug.BuildInfo{Main: *module("caddy", "(devel)", nil), Deps: []*debug.Module{module(modulePath, "v1.2.3", nil)}}, "v1.2.3"},
		"a directory, by xcaddy": {debug.BuildInfo{
			Main: *module("caddy", "(devel)", nil), Deps: []*debug.Module{module(modulePath, "v0.0.0", module("./wxgate", "", nil))},
			Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: revision}}, // of caddy's own directory
		}, "(devel)"},
		"a fork, by xcaddy":        {debug.BuildInfo{Deps: []*debug.Module{module(modulePath, "v1.2.3", module("example.com/fork", "v1.2.4", nil))}}, "v1.2.4"},
		"a checkout, Go's version": {debug.BuildInfo{Main: *module(modulePath, "v1.2.4-0.20261126+dirty", nil)}, "v1.2.4-0.20261126+dirty"},
		"a checkout, a commit": {debug.BuildInfo{Main: *module(modulePath, "(devel)", nil), Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: "true"},
		}}, "(devel) 0123456789ab+dirty"},
		"a checkout without git": {debug.BuildInfo{Main: *module(modulePath, "(devel)", nil)}, "(devel)"},
		"none of it":             {debug.BuildInfo{}, "(devel)"},
	} {
		require.Equal(t, tc.want, versionOf(&tc.info), name)
	}
}
