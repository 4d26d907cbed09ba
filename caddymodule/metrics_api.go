package caddymodule

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

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
