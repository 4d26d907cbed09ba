package caddymodule

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/session"
)

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
