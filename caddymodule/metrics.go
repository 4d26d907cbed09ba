package caddymodule

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collected are the gateway's metrics. Caddy has a new registry for each
// configuration; the collectors stay, so that a reload does not reset them.
var collected = newMetrics()

// The results of a request that is not a login or logout.
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
)

// metrics are the collectors. Labels come from closed sets: an openid, a token
// or a path would make one series for each user.
type metrics struct {
	logins        *prometheus.CounterVec
	requests      *prometheus.CounterVec
	exchanges     *prometheus.HistogramVec
	inFlight      prometheus.Gauge
	sessions      prometheus.Gauge
	revocations   *prometheus.CounterVec
	storeDuration *prometheus.HistogramVec
	storeErrors   *prometheus.CounterVec

	// The counters of the hot path, looked up once.
	allowed, public, missing, invalid, unavailable prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_logins_total", Help: "Logins by mini program and result.",
		}, []string{"appid", "result"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_requests_total", Help: "Requests other than logins by result.",
		}, []string{"result"}),
		exchanges: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxgate_exchange_duration_seconds", Help: "Time of one code2Session exchange, waiting and retry included.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"appid"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxgate_exchanges_in_flight", Help: "Exchanges with WeChat that are under way.",
		}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "wxgate_sessions", Help: "Live sessions, estimated.",
		}),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_revocations_total", Help: "Sessions ended before their time, by reason.",
		}, []string{"reason"}),
		storeDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wxgate_store_duration_seconds", Help: "Time of one call to the session store.",
			Buckets: []float64{.00001, .0001, .001, .005, .01, .05, .1, .5, 1},
		}, []string{"op"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wxgate_store_errors_total", Help: "Calls to the session store that failed.",
		}, []string{"op"}),
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
	for _, c := range []prometheus.Collector{
		m.logins, m.requests, m.exchanges, m.inFlight, m.sessions, m.revocations, m.storeDuration, m.storeErrors,
	} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) storeCall(op string, took time.Duration, err error) {
	m.storeDuration.WithLabelValues(op).Observe(took.Seconds())
	if err != nil {
		m.storeErrors.WithLabelValues(op).Inc()
	}
}

func (m *metrics) revoked(reason string, n int) {
	m.revocations.WithLabelValues(reason).Add(float64(n))
}
