// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// call is one endpoint. At most one read of it is under way, however many ask
// for one, so that calls to a server that hangs do not pile up.
type call[T any] struct {
	server *Server
	fetch  func(ctx context.Context, r *reading[T]) error

	slow atomic.Bool // the last answer did not come at once

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

const (
	// missed is how long a read stays of use that ended between two looks.
	missed = time.Second
	// hurry is how long a server that has been answering at once is waited for
	// in the asker's own goroutine. Waking another one costs as much as all that
	// is done with the answer.
	hurry = 200 * time.Millisecond
)

// ask returns the read that is under way, or that ended when nobody waited; a
// new one if there is neither. It tells whether the answer came before the
// deadline.
func (c *call[T]) ask(ctx context.Context, deadline time.Time) (*reading[T], bool) {
	r, isNew := c.begin()
	if !isNew {
		answered := r.wait(ctx, deadline)
		return r, answered
	}
	if !c.slow.Load() {
		at := time.Now().Add(hurry)
		if deadline.Before(at) {
			at = deadline
		}
		if c.read(r, at) {
			r.seen.Store(true)
			close(r.done)
			return r, true
		}
		// Begun again with the time that it needs, in a goroutine of its own. It
		// may have been about to answer, but that happens once.
		c.slow.Store(true)
	}
	c.server.wg.Go(func() {
		c.read(r, time.Now().Add(c.server.timeout))
		c.slow.Store(r.ended.Sub(r.began) > hurry/2)
		close(r.done)
	})
	answered := r.wait(ctx, deadline)
	return r, answered
}

func (c *call[T]) begin() (r *reading[T], isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.under; r != nil && (!r.isDone() || !r.seen.Load() && time.Since(r.ended) < missed) {
		return r, false
	}
	c.under = &reading[T]{asked: time.Now(), done: make(chan struct{})}
	return c.under, true
}

// read fills in the reading; false means that the time was up.
func (c *call[T]) read(r *reading[T], until time.Time) (inTime bool) {
	leave := c.server.queue()
	defer leave()
	ctx, cancel := context.WithDeadline(c.server.life, until)
	defer cancel()
	r.began = time.Now()
	r.err = c.fetch(ctx, r)
	return r.err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// since returns a read that began at t or later.
func (c *call[T]) since(ctx context.Context, t, deadline time.Time) (*reading[T], bool) {
	for {
		r, answered := c.ask(ctx, deadline)
		if !answered {
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
