// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// call is one endpoint. At most one read of it is under way, however many ask
// for one, so that calls to a server that hangs do not pile up.
type call[T any] struct {
	server *Server
	fetch  func(ctx context.Context, r *reading[T]) error

	mu    sync.Mutex
	under *reading[T] // the read under way, or the last one
}

// reading is one read of an endpoint. All but asked is set when done is closed.
type reading[T any] struct {
	asked        time.Time
	began, ended time.Time
	value        T
	err          error
	done         chan struct{}
	seen         atomic.Bool // by somebody who waited for it
}

// missed is how long a read stays of use that ended between two looks.
const missed = time.Second

// join returns the read that is under way, or that ended when nobody waited;
// a new one if there is neither.
func (c *call[T]) join() *reading[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.under; r != nil && (!r.isDone() || !r.seen.Load() && time.Since(r.ended) < missed) {
		return r
	}
	r := &reading[T]{asked: time.Now(), done: make(chan struct{})}
	c.under = r
	c.server.wg.Go(func() { c.read(r) })
	return r
}

func (c *call[T]) read(r *reading[T]) {
	leave := c.server.queue()
	ctx, cancel := context.WithTimeout(c.server.life, c.server.timeout)
	r.began = time.Now()
	r.err = c.fetch(ctx, r)
	cancel()
	leave()
	close(r.done)
}

// since returns a read that began at t or later.
func (c *call[T]) since(ctx context.Context, t, deadline time.Time) (*reading[T], bool) {
	for {
		r := c.join()
		if !r.wait(ctx, deadline) {
			return nil, false
		}
		if !r.began.Before(t) {
			return r, true
		}
	}
}

// wait waits for the read's end and tells whether it came before the deadline.
func (r *reading[T]) wait(ctx context.Context, deadline time.Time) bool {
	if r.isDone() {
		r.seen.Store(true)
		return true
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-r.done:
		r.seen.Store(true)
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// took is how long the server needed to answer, or has needed so far.
func (r *reading[T]) took() time.Duration {
	if r.isDone() {
		return r.ended.Sub(r.began)
	}
	return time.Since(r.asked)
}

func (r *reading[T]) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// turn is how long a read waits for another to be done with the connection
// before it opens a second one.
const turn = 50 * time.Millisecond

// queue waits for a turn to use the one connection, but not for long, and
// returns the function that gives it back.
func (s *Server) queue() func() {
	leave := func() { <-s.line }
	select {
	case s.line <- struct{}{}:
		return leave
	default:
	}
	t := time.NewTimer(turn)
	defer t.Stop()
	select {
	case s.line <- struct{}{}:
		return leave
	case <-t.C:
	case <-s.life.Done():
	}
	return func() {}
}
