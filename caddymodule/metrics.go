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

// The reasons of a revocation.
const (
	reasonLogout = "logout"
	reasonCap    = "max_per_user"
	reasonAdmin  = "admin"
	reasonAll    = "all" // counts revocations, whose sessions are not known
)

// storeOps are the calls that a session.Manager measures; see session.Config.
var storeOps = []string{"get", "update", "sync", "scan", "count", "ping"}

// loginResults are the results of a login of a known mini program: "ok" and the
// names of errors that can come after the mini program is known.
var loginResults = []string{
	resultOK, "invalid_code", "code_used", "user_blocked", "rate_limited", "wechat_rejected_gateway",
	"wechat_bad_reply", "wechat_busy", "wechat_timeout", "store_unavailable", "canceled",
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

var apiResults = []string{
	APIResultOK, APIResultErrcode, APIResultToken, APIResultDenied, APIResultUnauthorized,
	APIResultBusy, APIResultTimeout, APIResultBadReply, APIResultCanceled,
}

// metrics are the collectors. Labels come from closed sets: an openid, a token
// or a path would make one series for each user.
type metrics struct {
	all []prometheus.Collector

	logins, requests, revocations, pushes *prometheus.CounterVec
	exchanges                             *prometheus.HistogramVec
	exchangesInFlight                     prometheus.Gauge
	storeErrors                           *prometheus.CounterVec
	storeResets                           prometheus.Counter

	// WeChat's server API.
	apiCalls, openData, tokenFetches *prometheus.CounterVec
	apiDuration                      *prometheus.HistogramVec
	apiInFlight                      prometheus.Gauge

	// The series of the hot path, looked up once.
	allowed, public, missing, invalid, unavailable prometheus.Counter
	cacheHit, cacheMiss                            prometheus.Counter
	storeDurations                                 map[string]prometheus.Observer // by op
}

func newMetrics() *metrics {
	m := new(metrics)
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return added(m, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	histograms := func(name, help, label string, buckets ...float64) *prometheus.HistogramVec {
		return added(m, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return added(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
	}
	m.logins = counters("wxgate_logins_total", "Logins by mini program and result.", "appid", "result")
	m.requests = counters("wxgate_requests_total", "Requests other than logins, logouts and health checks by result.", "result")
	m.exchanges = histograms("wxgate_exchange_duration_seconds", "Time of one code2Session exchange, waiting and retry included.", "appid",
		.025, .05, .1, .25, .5, 1, 2.5, 5, 10)
	m.exchangesInFlight = gauge("wxgate_exchanges_in_flight", "Exchanges with WeChat that are under way.")
	m.revocations = counters("wxgate_revocations_total", "Sessions revoked, by reason.", "reason")
	m.pushes = counters("wxgate_pushes_total", "Messages pushed by WeChat, by mini program and result.", "appid", "result")
	storeDuration := histograms("wxgate_store_duration_seconds", "Time of one call to the session store.", "op",
		.00001, .0001, .001, .005, .01, .05, .1, .5, 1)
	m.storeErrors = counters("wxgate_store_errors_total", "Calls to the session store that failed.", "op")
	m.storeResets = added(m, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wxgate_store_resets_total", Help: "Damaged session stores that an empty one has replaced.",
	}))
	cache := counters("wxgate_session_cache_total", "Look-ups of sessions that were answered from memory (hit) or asked the store (miss).", "result")
	m.apiCalls = counters("wxgate_api_calls_total", "Calls of WeChat's server API through wxgate_api, by mini program, API and result.", "appid", "api", "result")
	m.apiDuration = histograms("wxgate_api_duration_seconds", "Time of one call of WeChat's server API, waiting and the whole reply included.", "appid",
		.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
	m.apiInFlight = gauge("wxgate_api_in_flight", "Calls of WeChat's server API that are under way or wait.")
	m.openData = counters("wxgate_open_data_total", "Phone numbers by code, by mini program and result.", "appid", "form", "result")
	m.tokenFetches = counters("wxgate_access_token_fetches_total", "Requests for an access_token by mini program, mode and result.", "appid", "mode", "result")

	m.all = append(m.all, newBuildInfo(),
		scraped{prometheus.NewDesc("wxgate_sessions", "Live sessions, estimated.", nil, nil), new(sessionCount).collect},
		scraped{prometheus.NewDesc("wxgate_store_free_bytes", "Free space on the disk of the session store.", nil, nil), collectFreeSpace},
		scraped{prometheus.NewDesc("wxgate_access_token_expires_seconds", "Seconds until the access_token ends; 0 or less if there is none.", []string{"appid"}, nil), collectTokenEnds})

	for _, reason := range []string{reasonLogout, reasonCap, reasonAdmin, reasonAll} {
		m.revocations.WithLabelValues(reason)
	}
	m.storeDurations = make(map[string]prometheus.Observer)
	for _, op := range storeOps {
		m.storeErrors.WithLabelValues(op)
		m.storeDurations[op] = storeDuration.WithLabelValues(op)
	}
	m.cacheHit, m.cacheMiss = cache.WithLabelValues("hit"), cache.WithLabelValues("miss")
	m.allowed = m.requests.WithLabelValues("allowed")
	m.public = m.requests.WithLabelValues("public")
	m.missing = m.requests.WithLabelValues("missing")
	m.invalid = m.requests.WithLabelValues("invalid")
	m.unavailable = m.requests.WithLabelValues("unavailable")
	return m
}

// added adds a collector to those that are registered.
func added[C prometheus.Collector](m *metrics, c C) C {
	m.all = append(m.all, c)
	return c
}

// registerMetrics puts the collectors into the registry of this configuration.
func registerMetrics(registry *prometheus.Registry) (*metrics, error) {
	for _, c := range collected.all {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return nil, err
		}
	}
	return collected, nil
}

// declare makes the series of a mini program before anything happens: a rate
// does not see a counter that begins with its first event.
func (m *metrics) declare(appID string) {
	for _, result := range loginResults {
		m.logins.WithLabelValues(appID, result)
	}
	m.exchanges.WithLabelValues(appID)
	for _, result := range apiResults {
		m.apiCalls.WithLabelValues(appID, "other", result)
	}
	m.apiDuration.WithLabelValues(appID)
	m.openData.WithLabelValues(appID, "phone", resultOK)
	for _, mode := range wechat.TokenModes {
		m.tokenFetches.WithLabelValues(appID, string(mode), resultOK)
	}
}

func (m *metrics) storeCall(op string, took time.Duration, err error) {
	m.storeDurations[op].Observe(took.Seconds())
	if err != nil {
		m.storeErrors.WithLabelValues(op).Inc()
	}
}

func (m *metrics) lookedUp(inMemory bool) {
	if inMemory {
		m.cacheHit.Inc()
	} else {
		m.cacheMiss.Inc()
	}
}

func (m *metrics) revoked(reason string, n int) {
	m.revocations.WithLabelValues(reason).Add(float64(n))
}

// MeasureAPICall begins to measure a call of WeChat's server API. The function
// that it returns ends that: api and result are labels, from closed sets.
func (a *App) MeasureAPICall() (done func(appID, api, result string)) {
	m, start := a.metrics, time.Now()
	m.apiInFlight.Inc()
	return func(appID, api, result string) {
		m.apiInFlight.Dec()
		m.apiCalls.WithLabelValues(appID, api, result).Inc()
		m.apiDuration.WithLabelValues(appID).Observe(time.Since(start).Seconds())
	}
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

// scraped is the collector of a gauge that is read when it is scraped. It keeps
// nothing of a configuration, so that old ones can go.
type scraped struct {
	desc *prometheus.Desc
	read func(set func(value float64, labels ...string))
}

// Describe implements prometheus.Collector.
func (s scraped) Describe(descs chan<- *prometheus.Desc) { descs <- s.desc }

// Collect implements prometheus.Collector.
func (s scraped) Collect(metrics chan<- prometheus.Metric) {
	s.read(func(value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, value, labels...)
	})
}

// runningSessions returns the manager of the running configuration, or nil. It
// does not open a store: a scrape must not wait for that.
func runningSessions() *session.Manager {
	app, err := runningApp()
	if err != nil {
		return nil
	}
	return app.manager.Load()
}

// countEvery is how often the store is asked to count its sessions at most,
// however many scrape: the metrics may be served to the public.
const countEvery = time.Second

// sessionCount is wxgate_sessions. While the store cannot say, there is no such
// series.
type sessionCount struct {
	mu    sync.Mutex
	asked time.Time
	count int64
	known bool
}

func (c *sessionCount) collect(set func(float64, ...string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() || time.Since(c.asked) >= countEvery {
		ctx, cancel := context.WithTimeout(context.Background(), countTime)
		defer cancel()
		c.known = false
		if sessions := runningSessions(); sessions != nil {
			c.count, c.known = sessions.Count(ctx)
		}
		c.asked = time.Now()
	}
	if c.known {
		set(float64(c.count))
	}
}

// collectFreeSpace is wxgate_store_free_bytes. While the store cannot tell,
// there is no such series.
func collectFreeSpace(set func(float64, ...string)) {
	if sessions := runningSessions(); sessions != nil {
		if free, ok := sessions.Free(); ok {
			set(float64(free))
		}
	}
}

// collectTokenEnds is wxgate_access_token_expires_seconds.
func collectTokenEnds(set func(float64, ...string)) {
	if app, err := runningApp(); err == nil {
		for appID, left := range app.api.Tokens().Left() {
			set(left.Seconds(), appID)
		}
	}
}
