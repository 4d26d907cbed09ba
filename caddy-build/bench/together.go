package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// together lets n goroutines repeat a piece of work for a while, and returns
// how long each piece took. The first error ends all.
func together(ctx context.Context, n int, d time.Duration, work func(ctx context.Context) error) (latencies []time.Duration, took time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.NewTimer(d)
	defer end.Stop()
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-end.C:
		case <-ctx.Done():
		}
	}()

	each := make([][]time.Duration, n)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				start := time.Now()
				if err := work(ctx); err != nil {
					cancel(err)
					return
				}
				each[i] = append(each[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	return slices.Concat(each...), time.Since(began), context.Cause(ctx)
}
