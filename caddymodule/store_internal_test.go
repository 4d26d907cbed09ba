package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// mapStore is a store module of somebody else: it has none of the optional
// abilities, neither as a module nor as a store.
type mapStore struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (*mapStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "wxgate.stores.map", New: func() caddy.Module { return &mapStore{values: make(map[string][]byte)} }}
}

func (*mapStore) StoreName() string { return "a map in memory" }

func (m *mapStore) Open(context.Context) (session.Store, error) { return m, nil }

func (*mapStore) Close() error { return nil }

func (m *mapStore) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value, ok := m.values[key]; ok {
		return value, nil
	}
	return nil, session.ErrNotFound
}

func (m *mapStore) Update(_ context.Context, key string, change session.ChangeFunc) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, _, err := change(m.values[key])
	if err != nil {
		return err
	}
	if m.values[key] = value; value == nil {
		delete(m.values, key)
	}
	return nil
}

// TestStoreOfSomebodyElse runs an App on a store that this project does not know.
func TestStoreOfSomebodyElse(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	caddy.RegisterModule(new(mapStore))
	const appID, secret = "wx0123456789abcdef", "0123456789abcdef0123456789abcdef"
	sandbox := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret}})
	t.Cleanup(sandbox.Close)
	wechat := httptest.NewServer(sandbox)
	t.Cleanup(wechat.Close)
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps": map[string]any{"wxgate": map[string]any{
			"miniprogram": []map[string]string{{"appid": appID, "secret": secret}},
			"wechat_api":  wechat.URL,
			"store":       map[string]string{"module": "map"},
		}},
	})
	require.NoError(t, err)

	module, release, err := LoadStore(json.RawMessage(`{"module":"map"}`))
	require.NoError(t, err)
	defer release()
	require.Equal(t, "a map in memory", StoreTitle(module))

	require.NoError(t, caddy.Load(config, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	var stats adminapi.Stats
	require.NoError(t, json.Unmarshal(askAdmin(t, http.StatusOK, "/wxgate/stats"), &stats))
	require.Equal(t, "map", stats.Store.Kind)
	require.Equal(t, "a map in memory", stats.Store.Name)
	require.Nil(t, stats.Sessions, "it cannot count")
	askAdmin(t, http.StatusOK, "/wxgate/ready")
	askAdmin(t, http.StatusNotFound, "/wxgate/users/"+appID+"/oNobody")
	askAdmin(t, http.StatusNotImplemented, "/wxgate/backup")

	// The check of a configuration that does not run opens a store of its own.
	partial := caddy.Config{Logging: new(caddy.Logging)}
	require.NoError(t, caddy.StrictUnmarshalJSON(config, &partial))
	ctx, err := caddy.ProvisionContext(&partial)
	require.NoError(t, err)
	app, err := ctx.App("wxgate")
	require.NoError(t, err)
	for _, running := range []*adminapi.Stats{nil, &stats} {
		for _, finding := range app.(*App).Examine(t.Context(), running) {
			require.Equal(t, StatusOK, finding.Status, finding)
		}
	}
}

// askAdmin returns what an admin route answers.
func askAdmin(t *testing.T, status int, path string) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	err := serveAdmin(w, httptest.NewRequest(http.MethodGet, path, nil))
	got := w.Code
	if err != nil {
		got = err.(caddy.APIError).HTTPStatus //nolint:errorlint // as Caddy does
	}
	require.Equal(t, status, got, "%v %s", err, w.Body)
	return w.Body.Bytes()
}
