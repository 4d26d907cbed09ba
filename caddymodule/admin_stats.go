package caddymodule

import (
	"context"
	"net/http"
	"time"
)

// statsView is the gateway at a glance. The counters begin with the process and
// go on through reloads.
type statsView struct {
	Store        storeView          `json:"store"`
	Sessions     *int64             `json:"sessions,omitempty"` // estimated; absent if the store cannot say
	Logins       map[string]int64   `json:"logins"`             // by result, all mini programs together
	MiniPrograms []miniProgramStats `json:"mini_programs"`
	Requests     map[string]int64   `json:"requests"`    // by result
	Revocations  map[string]int64   `json:"revocations"` // by reason
}

// storeView is the session store as the admin API shows it.
type storeView struct {
	Kind    string  `json:"kind"`              // the name of its module
	Name    string  `json:"name"`              // such as its directory
	Options string  `json:"options,omitempty"` // that need a restart to change
	Free    *uint64 `json:"free_bytes,omitempty"`

	// Why there is no room for new logins; empty if there is.
	Full string `json:"full,omitempty"`
}

type miniProgramStats struct {
	AppID  string           `json:"appid"`
	Logins map[string]int64 `json:"logins"` // by result
}

// countTime bounds how long the store may take to count its sessions.
const countTime = 2 * time.Second

func serveStats(g gateway, w http.ResponseWriter, r *http.Request) error {
	view := statsView{
		Store:       storeView{Kind: g.module.CaddyModule().ID.Name(), Name: storeTitle(g.module), Options: g.module.StoreOptions()},
		Logins:      make(map[string]int64),
		Requests:    make(map[string]int64),
		Revocations: make(map[string]int64),
	}
	if free, ok := g.sessions.Free(); ok {
		view.Store.Free = &free
	}
	if err := g.sessions.Room(); err != nil {
		view.Store.Full = err.Error()
	}
	ctx, cancel := context.WithTimeout(r.Context(), countTime)
	defer cancel()
	if n, ok := g.sessions.Count(ctx); ok {
		view.Sessions = &n
	}
	byApp := make(map[string]map[string]int64)
	for _, mp := range g.MiniPrograms {
		byApp[mp.AppID] = make(map[string]int64)
		view.MiniPrograms = append(view.MiniPrograms, miniProgramStats{mp.AppID, byApp[mp.AppID]})
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
	return writeJSON(w, http.StatusOK, view)
}
