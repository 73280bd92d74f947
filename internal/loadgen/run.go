// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package loadgen runs a load test against one server and says how it went.
//
// An open loop sends each request when it is due, however the server fares, and
// counts latency from then: a server that stalls cannot hide the stall by keeping
// the generator waiting. A closed loop has a number of users, each of whom waits
// for an answer before the next request. What is sent, and when, comes from the
// packages workload and arrival; one request is sent and measured by completion.
//
// The package knows no collector, and keeps no text of prompts or answers.
package loadgen // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Config says how a run is paced and when it ends.
type Config struct {
	// Arrivals are the times after the start at which requests are due, in order:
	// an open loop. Where it is nil, Users make a closed loop.
	Arrivals iter.Seq[time.Duration]
	// Dial, if not nil, has the arrivals instead, and their rate can be changed
	// during the run. Such a run lasts for all of Duration, however low the rate.
	Dial *arrival.Dial
	// Users is the number of users of a closed loop, Think how long each waits
	// after an answer before the next request is due.
	Users int
	Think time.Duration

	// Duration ends the run: what is due then or later is not sent. 0 is without
	// end, where Requests says one.
	Duration time.Duration
	// Requests ends the run after so many were due; 0 is any number.
	Requests uint64
	// WarmUp and Tail are cut from the start and the end of Duration: requests
	// that are due there are sent, but not in the report's figures.
	WarmUp, Tail time.Duration

	// MaxInFlight is how many requests of an open loop may be under way at once.
	// An arrival beyond waits for its place for MaxWait, then it is dropped.
	MaxInFlight int
	MaxWait     time.Duration
	// Drain is how long the run waits for answers after the last request was
	// due. What has not ended then is cancelled.
	Drain time.Duration
	// MaxErrors is the share of errors among the last 100 requests, of at least
	// 20, above which the run stops itself; 1 is never.
	MaxErrors float64

	// Objective is what a request has to meet to count as goodput; nil is none.
	Objective Objective
	// Record, if not nil, is told of each request as it ends or is dropped, by one
	// goroutine at a time. The result must not be kept.
	Record func(Sample)
	// Sleep waits until a time and returns at once when ctx ends; nil is a timer.
	Sleep func(ctx context.Context, until time.Time)
}

// Sample is one request of a run.
type Sample struct {
	// N is the request's number in the workload.
	N uint64
	// Due is counted from the start of the run.
	Due time.Duration
	// Measured reports whether it was due between warm-up and tail.
	Measured bool
	// Good reports whether it met the objective.
	Good   bool
	Result *completion.Result
}

// Validate says what cannot be run.
func (c *Config) Validate() error {
	switch {
	case !c.open() && c.Users < 1:
		return fmt.Errorf("%d users: want 1 or more, or a rate", c.Users)
	case c.Duration < 0 || c.WarmUp < 0 || c.Tail < 0 || c.Think < 0 || c.MaxWait < 0 || c.Drain < 0:
		return errors.New("a time is negative: want 0 or more")
	case c.Duration == 0 && c.Requests == 0:
		return errors.New("the run has no end: want a duration or a number of requests")
	case c.Duration == 0 && c.Tail > 0:
		return errors.New("a tail cannot be cut from a run without a duration: give it one")
	case c.Duration > 0 && c.WarmUp+c.Tail >= c.Duration:
		return fmt.Errorf("warm-up of %s and tail of %s leave nothing of %s: want a longer duration", c.WarmUp, c.Tail, c.Duration)
	case c.open() && c.MaxInFlight < 1:
		return fmt.Errorf("%d requests in flight: want 1 or more", c.MaxInFlight)
	case !(c.MaxErrors >= 0 && c.MaxErrors <= 1):
		return fmt.Errorf("share of errors of %g: want 0 to 1", c.MaxErrors)
	}
	return nil
}

// open reports whether the run is an open loop.
func (c *Config) open() bool { return c.Arrivals != nil || c.Dial != nil }

// measured reports whether what is due then is in the figures.
func (c *Config) measured(due time.Duration) bool {
	return due >= c.WarmUp && (c.Duration == 0 || due < c.Duration-c.Tail)
}

// A Sender sends one request and measures it, as completion.Client does.
type Sender interface {
	Do(ctx context.Context, r *completion.Request, due time.Time) completion.Result
}

// Requests has the requests of a run, as workload.Workload does.
type Requests interface {
	Request(n uint64) *completion.Request
}

// ErrTooManyErrors is the cause of a run that stopped itself.
var ErrTooManyErrors = errors.New("stopped: too many requests failed")

// Run is a load test under way.
type Run struct {
	config   Config
	sender   Sender
	requests Requests
	start    time.Time
	record   *recorder
	places   chan struct{} // one taken by each request in flight
	inFlight atomic.Int64
	next     atomic.Uint64 // number of the next request
	sending  sync.WaitGroup
	done     chan struct{}
	cause    error
}

// Start begins a run. It goes on until its configured end, until ctx ends, or
// until too many requests fail.
func Start(ctx context.Context, c Config, s Sender, q Requests) (*Run, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.Dial != nil {
		c.Arrivals = c.Dial.Times()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r := &Run{
		config: c, sender: s, requests: q, start: time.Now(), done: make(chan struct{}),
		places: make(chan struct{}, max(c.MaxInFlight, c.Users)),
	}
	r.record = newRecorder(&r.config, func() { cancel(ErrTooManyErrors) })
	go func() {
		defer close(r.done)
		defer cancel(nil)
		r.run(ctx)
		if ctx.Err() != nil {
			r.cause = context.Cause(ctx)
		}
	}()
	return r, nil
}

// Wait waits for the end of the run. The error is why it ended early: that of
// the context's cause, or ErrTooManyErrors. The results are complete all the
// same.
func (r *Run) Wait() (*Results, error) {
	<-r.done
	return r.record.results(), r.cause
}

// Done is closed at the end of the run.
func (r *Run) Done() <-chan struct{} { return r.done }

// Progress is how the run stands.
func (r *Run) Progress() Progress { return r.record.progress() }

// Elapsed is the time since the start.
func (r *Run) Elapsed() time.Duration { return time.Since(r.start) }

// ErrNoRate is returned for a run whose arrivals do not come from a Dial.
var ErrNoRate = errors.New("the run has no rate that could be changed: it is a closed loop, or follows a fixed schedule")

// Turn changes the rate of a run from now on.
func (r *Run) Turn(to arrival.Curve) error {
	if r.config.Dial == nil {
		return ErrNoRate
	}
	return r.config.Dial.Turn(r.Elapsed(), to)
}

// Rate is the rate at which requests are due now, in requests a second; false
// for a run that has none of its own.
func (r *Run) Rate() (float64, bool) {
	if r.config.Dial == nil {
		return 0, false
	}
	return r.config.Dial.Rate(r.Elapsed()), true
}

// InFlight is the number of requests that have been sent and not ended.
func (r *Run) InFlight() int { return int(r.inFlight.Load()) }

func (r *Run) run(ctx context.Context) {
	// Requests in flight outlive the time to send, but not for ever.
	sendCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.config.Arrivals != nil {
		r.open(ctx, sendCtx)
	} else {
		r.closed(ctx, sendCtx)
	}
	drained := time.AfterFunc(r.config.Drain, cancel)
	defer drained.Stop()
	r.sending.Wait()
}

// open sends each request when it is due, on an absolute schedule: a late one
// does not move those after it.
func (r *Run) open(ctx, sendCtx context.Context) {
	for due := range r.config.Arrivals {
		if r.config.Dial != nil {
			due = r.awaitDial(ctx)
		}
		if r.ended(due) {
			return
		}
		at := r.start.Add(due)
		r.config.Sleep(ctx, at)
		if ctx.Err() != nil {
			return
		}
		n := r.next.Add(1) - 1
		select {
		case r.places <- struct{}{}:
			r.sending.Go(func() { r.send(sendCtx, n, at) })
		default:
			if r.config.MaxWait == 0 {
				r.drop(n, at)
				continue
			}
			r.sending.Go(func() { r.waitAndSend(sendCtx, n, at) })
		}
	}
}

// never is later than any end.
const never = time.Duration(math.MaxInt64)

// awaitDial waits until the dial's next arrival is due, which a turn of the dial
// may change, and returns when that was. It waits no longer than for the end of
// the run.
func (r *Run) awaitDial(ctx context.Context) time.Duration {
	for {
		due, ok, turned := r.config.Dial.Next()
		if !ok {
			due = never
		}
		until := due
		if r.config.Duration > 0 {
			until = min(due, r.config.Duration)
		}
		if time.Since(r.start) >= until {
			return due
		}
		waiting, stop := context.WithCancel(ctx)
		detach := context.AfterFunc(turned, stop)
		r.config.Sleep(waiting, r.start.Add(until))
		detach()
		stop()
		if turned.Err() == nil || ctx.Err() != nil {
			return due
		}
	}
}

func (r *Run) ended(due time.Duration) bool {
	return r.config.Duration > 0 && due >= r.config.Duration || r.config.Requests > 0 && r.next.Load() >= r.config.Requests
}

func (r *Run) waitAndSend(ctx context.Context, n uint64, due time.Time) {
	enough := time.NewTimer(time.Until(due.Add(r.config.MaxWait)))
	defer enough.Stop()
	select {
	case r.places <- struct{}{}:
		r.send(ctx, n, due)
	case <-enough.C:
		r.drop(n, due)
	case <-ctx.Done():
		r.drop(n, due)
	}
}

// send needs a place, and gives it back.
func (r *Run) send(ctx context.Context, n uint64, due time.Time) completion.Result {
	r.inFlight.Add(1)
	result := r.sender.Do(ctx, r.requests.Request(n), due)
	r.inFlight.Add(-1)
	<-r.places
	r.record.add(Sample{N: n, Due: due.Sub(r.start), Result: &result})
	return result
}

func (r *Run) drop(n uint64, due time.Time) {
	r.record.add(Sample{N: n, Due: due.Sub(r.start), Result: &completion.Result{
		Due: due, Outcome: completion.Dropped,
		InputTokens: -1, CachedTokens: -1, OutputTokens: -1, ReasoningTokens: -1,
	}})
}

// afterError is the shortest pause of a user after an error: one who is refused
// at once would otherwise try thousands of times a second.
const afterError = 100 * time.Millisecond

// closed has each user send, wait for the answer, think, and send again. It
// returns when no more is to be sent.
func (r *Run) closed(ctx, sendCtx context.Context) {
	last := make(chan struct{})
	user := func() {
		due := r.start
		for !r.ended(due.Sub(r.start)) {
			sleep(ctx, due)
			if ctx.Err() != nil {
				return
			}
			n := r.next.Add(1) - 1
			if r.config.Requests > 0 && n >= r.config.Requests {
				return
			}
			if n+1 == r.config.Requests {
				close(last)
			}
			r.places <- struct{}{}
			result := r.send(sendCtx, n, due)
			think := r.config.Think
			if result.Outcome == completion.Failed {
				think = max(think, afterError, result.RetryAfter)
			}
			due = time.Now().Add(think)
		}
	}
	for range r.config.Users {
		r.sending.Go(user)
	}
	var end <-chan time.Time
	if r.config.Duration > 0 {
		end = time.After(r.config.Duration)
	}
	select {
	case <-end:
	case <-last:
	case <-ctx.Done():
	}
}

// sleep is the Config's default Sleep.
func sleep(ctx context.Context, until time.Time) {
	d := time.Until(until)
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
