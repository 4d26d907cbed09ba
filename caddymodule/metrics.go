package caddymodule

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// collected are the gateway's metrics. Caddy has a new registry for each
// configuration; the collectors stay, so that a reload does not reset them.
var collected = newMetrics()

// resultOK is the result of what went well.
const resultOK = "ok"

// The results of a request that is not a login, logout or health check.
const (
	resultAllowed     = "allowed"
	resultPublic      = "public"
	resultMissing     = "missing"
	resultInvalid     = "invalid"
	resultUnavailable = "unavailable"
)

// The reasons of a revocation.
const (
	reasonLogout = "logout"
	reasonCap    = "max_per_user"
	reasonAdmin  = "admin"
	reasonAll    = "all" // counts revocations, whose sessions are not known
)

// storeOps are the calls that a session.Manager measures; see session.Config.
var storeOps = []string{"get", "put", "update", "delete", "sync", "scan", "count", "ping"}

// loginResults are the results of a login of a known mini program: "ok" and the
// names of errors that can come after the mini program is known.
var loginResults = []string{
	resultOK, "invalid_code", "code_used", "user_blocked", "rate_limited", "wechat_rejected_gateway",
	"wechat_bad_reply", "wechat_busy", "wechat_timeout", "store_unavailable", "canceled",
}

// metrics are the collectors. Labels come from closed sets: an openid, a token
// or a path would make one series for each user.
type metrics struct {
	logins        *prometheus.CounterVec
	requests      *prometheus.CounterVec
	exchanges     *prometheus.HistogramVec
	inFlight      prometheus.Gauge
	sessions      *liveSessions
	revocations   *prometheus.CounterVec
	pushes        *prometheus.CounterVec
	storeDuration *prometheus.HistogramVec
	storeErrors   *prometheus.CounterVec
	storeFree     *freeSpace
	storeResets   prometheus.Counter
	api           apiMetrics
	build         prometheus.Collector

	// The series of the hot path, looked up once.
	allowed, public, missing, invalid, unavailable prometheus.Counter
	storeDurations                                 map[string]prometheus.Observer // by op
}

func newMetrics() *metrics {
	m := &metrics{
		api: newAPIMetrics(),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_logins_total", Help: "Logins by mini program and result.",
		}, []string{"appid", "result"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_requests_total", Help: "Requests other than logins, logouts and health checks by result.",
		}, []string{"result"}),
		exchanges: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxgate_exchange_duration_seconds", Help: "Time of one code2Session exchange, waiting and retry included.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"appid"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxgate_exchanges_in_flight", Help: "Exchanges with WeChat that are under way.",
		}),
		sessions: newLiveSessions(),
		build:    newBuildInfo(),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_revocations_total", Help: "Sessions revoked, by reason.",
		}, []string{"reason"}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_pushes_total", Help: "Messages pushed by WeChat, by mini program and result.",
		}, []string{"appid", "result"}),
		storeDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxgate_store_duration_seconds", Help: "Time of one call to the session store.",
			Buckets: []float64{.00001, .0001, .001, .005, .01, .05, .1, .5, 1},
		}, []string{"op"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_store_errors_total", Help: "Calls to the session store that failed.",
		}, []string{"op"}),
		storeFree: newFreeSpace(),
		storeResets: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "wxgate_store_resets_total", Help: "Damaged session stores that an empty one has replaced.",
		}),
	}
	for _, reason := range []string{reasonLogout, reasonCap, reasonAdmin, reasonAll} {
		m.revocations.WithLabelValues(reason)
	}
	m.storeDurations = make(map[string]prometheus.Observer)
	for _, op := range storeOps {
		m.storeErrors.WithLabelValues(op)
		m.storeDurations[op] = m.storeDuration.WithLabelValues(op)
	}
	m.allowed = m.requests.WithLabelValues(resultAllowed)
	m.public = m.requests.WithLabelValues(resultPublic)
	m.missing = m.requests.WithLabelValues(resultMissing)
	m.invalid = m.requests.WithLabelValues(resultInvalid)
	m.unavailable = m.requests.WithLabelValues(resultUnavailable)
	return m
}

// registerMetrics puts the collectors into the registry of this configuration.
func registerMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := collected
	for _, c := range append(m.api.collectors(),
		m.logins, m.requests, m.exchanges, m.inFlight, m.sessions, m.revocations, m.pushes, m.storeDuration, m.storeErrors,
		m.storeFree, m.storeResets, m.build,
	) {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return nil, err
		}
	}
	return m, nil
}

// declare makes the series of a mini program before anything happens: a rate
// does not see a counter that begins with its first event.
func (m *metrics) declare(appID string) {
	for _, result := range loginResults {
		m.logins.WithLabelValues(appID, result)
	}
	m.exchanges.WithLabelValues(appID)
	m.api.declare(appID)
}

func (m *metrics) storeCall(op string, took time.Duration, err error) {
	m.storeDurations[op].Observe(took.Seconds())
	if err != nil {
		m.storeErrors.WithLabelValues(op).Inc()
	}
}

func (m *metrics) revoked(reason string, n int) {
	m.revocations.WithLabelValues(reason).Add(float64(n))
}

// A sample is one series of a counter, read.
type sample struct {
	labels map[string]string
	value  int64
}

// samples reads all series of a counter.
func samples(counter *prometheus.CounterVec) []sample {
	registry := prometheus.NewRegistry()
	registry.MustRegister(counter)
	families, err := registry.Gather()
	if err != nil {
		return nil // a CounterVec cannot fail
	}
	var out []sample
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			s := sample{labels: make(map[string]string), value: int64(metric.GetCounter().GetValue())}
			for _, pair := range metric.GetLabel() {
				s.labels[pair.GetName()] = pair.GetValue()
			}
			out = append(out, s)
		}
	}
	return out
}

// countEvery is how often the store is asked to count its sessions at most,
// however many scrape: the metrics may be served to the public.
const countEvery = time.Second

// liveSessions is the collector of wxgate_sessions. It asks the configuration
// that runs when it is scraped and keeps nothing of it, so that old ones can go.
// While the store cannot say, there is no such series.
type liveSessions struct {
	desc *prometheus.Desc

	mu    sync.Mutex
	asked time.Time
	count int64
	known bool
}

func newLiveSessions() *liveSessions {
	return &liveSessions{desc: prometheus.NewDesc("wxgate_sessions", "Live sessions, estimated.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (l *liveSessions) Describe(descs chan<- *prometheus.Desc) { descs <- l.desc }

// Collect implements prometheus.Collector.
func (l *liveSessions) Collect(metrics chan<- prometheus.Metric) {
	if n, ok := l.estimate(); ok {
		metrics <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, float64(n))
	}
}

func (l *liveSessions) estimate() (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.asked.IsZero() && time.Since(l.asked) < countEvery {
		return l.count, l.known
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTime)
	defer cancel()
	l.count, l.known = countRunning(ctx)
	l.asked = time.Now()
	return l.count, l.known
}

// countRunning counts the sessions of the running configuration.
func countRunning(ctx context.Context) (int64, bool) {
	if sessions := runningSessions(); sessions != nil {
		return sessions.Count(ctx)
	}
	return 0, false
}

// runningSessions returns the manager of the running configuration. It does not
// open a store: a scrape must not wait for that.
func runningSessions() *session.Manager {
	app, err := runningApp()
	if err != nil {
		return nil
	}
	return app.manager.Load()
}

// freeSpace is the collector of wxgate_store_free_bytes. While the store cannot
// tell, there is no such series.
type freeSpace struct{ desc *prometheus.Desc }

func newFreeSpace() *freeSpace {
	return &freeSpace{prometheus.NewDesc("wxgate_store_free_bytes", "Free space on the disk of the session store.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (f *freeSpace) Describe(descs chan<- *prometheus.Desc) { descs <- f.desc }

// Collect implements prometheus.Collector.
func (f *freeSpace) Collect(metrics chan<- prometheus.Metric) {
	if sessions := runningSessions(); sessions != nil {
		if free, ok := sessions.Free(); ok {
			metrics <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, float64(free))
		}
	}
}

// The results of a call through wxgate_api.
const (
	APIResultErrcode      = "errcode" // WeChat answered with one
	APIResultToken        = "token"   // WeChat refused every access_token
	APIResultDenied       = "denied"
	APIResultUnauthorized = "unauthorized"
	APIResultBusy         = "busy"
	APIResultTimeout      = "timeout"
	APIResultBadReply     = "bad_reply"
	APIResultCanceled     = "canceled"
	APIResultOK           = resultOK
)

// APIResults are all of them.
var APIResults = []string{
	APIResultOK, APIResultErrcode, APIResultToken, APIResultDenied, APIResultUnauthorized,
	APIResultBusy, APIResultTimeout, APIResultBadReply, APIResultCanceled,
}

// apiMetrics are the collectors of WeChat's server API.
type apiMetrics struct {
	calls        *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	inFlight     prometheus.Gauge
	openData     *prometheus.CounterVec
	tokenFetches *prometheus.CounterVec
	tokenEnds    *tokenEnds
}

func newAPIMetrics() apiMetrics {
	return apiMetrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_api_calls_total", Help: "Calls of WeChat's server API through wxgate_api, by mini program, API and result.",
		}, []string{"appid", "api", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxgate_api_duration_seconds", Help: "Time of one call of WeChat's server API, waiting and the whole reply included.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"appid"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxgate_api_in_flight", Help: "Calls of WeChat's server API that are under way or wait.",
		}),
		openData: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_open_data_total", Help: "Phone numbers by code, by mini program and result.",
		}, []string{"appid", "form", "result"}),
		tokenFetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_access_token_fetches_total", Help: "Requests for an access_token by mini program, mode and result.",
		}, []string{"appid", "mode", "result"}),
		tokenEnds: &tokenEnds{
			desc: prometheus.NewDesc("wxgate_access_token_expires_seconds", "Seconds until the access_token ends; 0 or less if there is none.", []string{"appid"}, nil),
			ends: make(map[string]time.Time),
		},
	}
}

func (m *apiMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.calls, m.duration, m.inFlight, m.openData, m.tokenFetches, m.tokenEnds}
}

func (m *apiMetrics) declare(appID string) {
	for _, result := range APIResults {
		m.calls.WithLabelValues(appID, "other", result)
	}
	m.duration.WithLabelValues(appID)
	m.openData.WithLabelValues(appID, "phone", resultOK)
	m.tokenEnds.set(appID, time.Time{})
	for _, mode := range wechat.TokenModes {
		m.tokenFetches.WithLabelValues(appID, string(mode), resultOK)
	}
}

func (m *metrics) tokenFetched(f wechat.TokenFetch) {
	result := resultOK
	if f.Err == nil {
		m.api.tokenEnds.set(f.AppID, time.Now().Add(f.Lifetime))
	} else {
		result = string(f.Err.Kind)
	}
	m.api.tokenFetches.WithLabelValues(f.AppID, string(f.Mode), result).Inc()
}

// MeasureAPICall begins to measure a call of WeChat's server API. The function
// that it returns ends that: api and result are labels, from closed sets.
func (a *App) MeasureAPICall() (done func(appID, api, result string)) {
	m, start := &a.metrics.api, time.Now()
	m.inFlight.Inc()
	return func(appID, api, result string) {
		m.inFlight.Dec()
		m.calls.WithLabelValues(appID, api, result).Inc()
		m.duration.WithLabelValues(appID).Observe(time.Since(start).Seconds())
	}
}

// tokenEnds is the collector of wxgate_access_token_expires_seconds.
type tokenEnds struct {
	desc *prometheus.Desc
	mu   sync.Mutex
	ends map[string]time.Time // by appid
}

// set notes a token's end. The zero time declares the series, and changes no other.
func (e *tokenEnds) set(appID string, end time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.ends[appID]; !known || !end.IsZero() {
		e.ends[appID] = end
	}
}

// Describe implements prometheus.Collector.
func (e *tokenEnds) Describe(descs chan<- *prometheus.Desc) { descs <- e.desc }

// Collect implements prometheus.Collector.
func (e *tokenEnds) Collect(metrics chan<- prometheus.Metric) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for appID, end := range e.ends {
		left := 0.0
		if !end.IsZero() {
			left = time.Until(end).Seconds()
		}
		metrics <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, left, appID)
	}
}
