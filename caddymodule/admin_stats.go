package caddymodule

import (
	"context"
	"net/http"
	"time"

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
	for _, s := range samples(g.metrics.api.calls) {
		view.APICalls[s.labels["result"]] += s.value
	}
	return writeJSON(w, http.StatusOK, view)
}
