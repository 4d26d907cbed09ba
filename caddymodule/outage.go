package caddymodule

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// troubleInterval keeps an outage, which every request meets, from flooding the
// log: it is logged at once and then this far apart.
const troubleInterval = 10 * time.Second

// An outage is what an App knows of trouble with its store. From the first
// trouble on, a goroutine tries the store until it works again.
type outage struct {
	log rate.Sometimes

	mu      sync.Mutex
	cause   error // of the last attempt; nil while there is no outage
	closed  bool
	running sync.WaitGroup
}

// reason returns why the store is not tried for a request; nil if it may be.
func (o *outage) reason() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cause
}

// close waits for the goroutine, which the App's context ends.
func (o *outage) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.running.Wait()
}

// storeTrouble logs that the store cannot answer, and watches for its recovery.
func (a *App) storeTrouble(err error) {
	a.outage.log.Do(func() {
		a.logger.Error("session store is not available; requests are answered 503", zap.Error(err))
	})
	o := &a.outage
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.cause != nil {
		return
	}
	o.cause = err
	o.running.Go(a.awaitRecovery)
}

// The pauses between attempts to open or ask a store that was in trouble.
const (
	firstRecoveryPause = 100 * time.Millisecond
	maxRecoveryPause   = time.Second
)

// awaitRecovery opens the store, or asks the one that is open, until it works.
func (a *App) awaitRecovery() {
	begin := time.Now()
	pause := firstRecoveryPause
	for {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-a.ctx.Done():
			timer.Stop()
			return
		}
		err := a.tryStore()
		if a.ctx.Err() != nil {
			return
		}
		a.outage.mu.Lock()
		a.outage.cause = err
		a.outage.mu.Unlock()
		if err == nil {
			a.logger.Info("session store is available again", zap.Duration("after", time.Since(begin)))
			return
		}
		if a.manager.Load() == nil {
			a.outage.log.Do(func() {
				a.logger.Error("session store cannot be opened; requests are answered 503", zap.Error(err))
			})
		}
		pause = min(2*pause, maxRecoveryPause)
	}
}

// tryStore returns nil if sessions can be read and written.
func (a *App) tryStore() error {
	if err := a.openStore(); err != nil {
		return err
	}
	sessions := a.manager.Load()
	if err := sessions.Ping(a.ctx); err != nil {
		return err
	}
	return sessions.Room()
}
