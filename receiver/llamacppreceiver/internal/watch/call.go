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

// call reads one endpoint. At most one read of it is under way, however many ask
// for one, so that reads of a server that hangs do not pile up. Who waits for it
// sets a timer only if it does not come at once.
type call[T any] struct {
	conn  *connection
	fetch func(context.Context) (T, error)
	take  func(*reading[T]) // gets each answer before anybody else sees it; may be nil

	slow atomic.Bool // the last answer did not come at once

	mu     sync.Mutex
	latest *reading[T] // under way, or the last one
}

// reading is one read of an endpoint. All but asked is set when done is closed.
type reading[T any] struct {
	asked        time.Time
	began, ended time.Time
	dials        uint64 // connections opened until the end
	value        T
	err          error
	done         chan struct{}
	seen         atomic.Bool // by somebody who waited for it
}

const (
	// missed is how long an answer stays usable that came between two looks.
	missed = time.Second
	// hurry is how long the asker's own goroutine waits for a server that has
	// been answering at once. Waking another goroutine costs as much as all that
	// is done with the answer.
	hurry = 200 * time.Millisecond
)

// ask returns the read that is under way, or one that nobody has waited for
// until its end, or else a new one. It reports whether the answer came in time
// and before the context ended.
func (c *call[T]) ask(ctx context.Context, until time.Time) (r *reading[T], answered bool) {
	r, isNew := c.begin()
	if isNew && (c.slow.Load() || !c.readAtOnce(r, until)) {
		c.conn.wg.Go(func() {
			c.read(r, time.Now().Add(c.conn.timeout))
			c.slow.Store(r.ended.Sub(r.began) > hurry/2)
			c.finish(r)
		})
	}
	answered = r.wait(ctx, until)
	return r, answered
}

func (c *call[T]) begin() (r *reading[T], isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.latest; r != nil && (!r.isDone() || !r.seen.Load() && time.Since(r.ended) < missed) {
		return r, false
	}
	c.latest = &reading[T]{asked: time.Now(), done: make(chan struct{})}
	return c.latest, true
}

// readAtOnce reads in the asker's goroutine, and reports whether the server was
// as quick as before. If not, the read has to be begun again with all the time
// that it needs. The server may have been about to answer, but that is lost only
// once.
func (c *call[T]) readAtOnce(r *reading[T], until time.Time) bool {
	if !c.read(r, earlier(time.Now().Add(hurry), until)) {
		c.slow.Store(true)
		return false
	}
	c.finish(r)
	return true
}

// read fills in the reading, and reports whether it came to an end in time.
func (c *call[T]) read(r *reading[T], until time.Time) bool {
	leave := c.conn.queue()
	defer leave()
	ctx, cancel := context.WithDeadline(c.conn.life, until)
	defer cancel()
	r.began = time.Now()
	r.value, r.err = c.fetch(ctx)
	r.ended, r.dials = time.Now(), c.conn.client.Dials()
	return r.err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded)
}

func (c *call[T]) finish(r *reading[T]) {
	if c.take != nil {
		c.take(r)
	}
	close(r.done)
}

// since returns a read that began at t or later; nil where none came in time.
func (c *call[T]) since(ctx context.Context, t, until time.Time) *reading[T] {
	for {
		r, answered := c.ask(ctx, until)
		if !answered {
			return nil
		}
		if !r.began.Before(t) {
			return r
		}
	}
}

// wait waits for the read's end, and reports whether it came in time and before
// the context's.
func (r *reading[T]) wait(ctx context.Context, until time.Time) bool {
	if !r.isDone() {
		late := time.NewTimer(time.Until(until))
		defer late.Stop()
		select {
		case <-r.done:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	r.seen.Store(true)
	return true
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
