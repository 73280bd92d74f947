// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package loadgen runs a load test against one server and reports the results.
//
// An open loop sends each request when it is due, however slow the server is, and
// measures latency from then: a server that stalls cannot hide the stall by keeping
// the load generator waiting. A closed loop has a number of users, each of whom
// waits for an answer before sending the next request. Package workload decides
// what is sent, package arrival decides when, and package completion sends and
// measures one request.
//
// The package does not depend on the collector, and keeps no text of prompts or
// answers, except those of conversations under way.
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

// Config defines how a run is paced and when it ends.
type Config struct {
	// Arrivals are the times after the start at which the requests of an open loop
	// are due, in order. If Arrivals and Dial are nil, the run is a closed loop.
	Arrivals iter.Seq[time.Duration]
	// Dial, if not nil, replaces Arrivals by arrivals whose rate can be changed
	// during the run. Such a run lasts for all of Duration, however low the rate.
	Dial *arrival.Dial
	// Users is the number of users of a closed loop. Think is how long each of them
	// waits after an answer before the next request is due. In either loop, it is
	// also the time between an answer and the next turn of a conversation.
	Users int
	Think time.Duration

	// Duration is how long requests are sent: none that is due later is sent. 0
	// is no limit and requires Requests.
	Duration time.Duration
	// Requests ends the run after this number of requests; 0 is no limit. Of a
	// conversation, only the first request counts.
	Requests uint64
	// WarmUp and Tail are the parts at the start and the end of Duration whose
	// requests are sent, but not included in the report's figures.
	WarmUp, Tail time.Duration

	// MaxInFlight is how many requests of an open loop may be in flight at once. A
	// request that is due beyond that waits for up to MaxWait, then it is dropped.
	MaxInFlight int
	MaxWait     time.Duration
	// Drain is how long the run waits for answers after the last request was due.
	// Requests that have not ended by then are cancelled.
	Drain time.Duration
	// MaxErrors is the share of errors among the last 100 requests above which the
	// run stops itself, once at least 20 have ended. With 1, it never does.
	MaxErrors float64

	// Objective is what a request has to meet to count as goodput; nil if there is
	// none.
	Objective Objective
	// Record, if not nil, is called with each request when it ends or is dropped, by
	// one goroutine at a time. It must not keep the result.
	Record func(Sample)
	// Sleep waits until a time, or until ctx ends; nil uses Go's timers.
	Sleep func(ctx context.Context, until time.Time)
}

// Sample is one request of a run.
type Sample struct {
	// N is the number of the request in the workload, counted from 0. All turns of a
	// conversation have the same N. Turn is the number of the turn, counted from 0.
	N    uint64
	Turn int
	// Due is counted from the start of the run.
	Due time.Duration
	// Measured reports whether it was due between warm-up and tail.
	Measured bool
	// Good reports whether it met the objective.
	Good   bool
	Result *completion.Result
}

// Validate returns an error if the configuration cannot be run.
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

// measured reports whether a request that is due then is included in the figures.
func (c *Config) measured(due time.Duration) bool {
	return due >= c.WarmUp && (c.Duration == 0 || due < c.Duration-c.Tail)
}

// A Sender sends one request and measures it, as completion.Client does.
type Sender interface {
	Do(ctx context.Context, r *completion.Request, due time.Time) completion.Result
}

// Requests provides the requests of a run, as workload.Workload does.
type Requests interface {
	Request(n uint64) *completion.Request
}

// Conversations are Requests that may have a next turn. Requests without that have
// one turn each.
type Conversations interface {
	Requests
	// Next returns the request of a turn of conversation n; turn is 1 or more. q is the
	// request of the turn before, which was answered with the given text. It returns
	// nil if the conversation is over.
	Next(n uint64, turn int, q *completion.Request, answer string) *completion.Request
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
	places   chan struct{} // each request in flight takes one
	inFlight atomic.Int64
	next     atomic.Uint64 // number of the next request
	lastDue  atomic.Int64  // when the last turn of a conversation is due, after start
	sending  sync.WaitGroup
	done     chan struct{}
	cause    error
}

// Start begins a run, which continues until its configured end, until ctx ends, or
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

// Wait waits for the end of the run. If the run ended early, the error is the
// cause: that of the context, or ErrTooManyErrors. The results are valid in either
// case.
func (r *Run) Wait() (*Results, error) {
	<-r.done
	return r.record.results(), r.cause
}

// Done returns a channel that is closed at the end of the run.
func (r *Run) Done() <-chan struct{} { return r.done }

// Progress returns the state of the run.
func (r *Run) Progress() Progress { return r.record.progress() }

// Elapsed returns the time since the start.
func (r *Run) Elapsed() time.Duration { return time.Since(r.start) }

// ErrNoRate is returned for a run whose arrivals do not come from a Dial.
var ErrNoRate = errors.New("the run has no rate that could be changed: it is a closed loop, or follows a fixed schedule")

// Turn replaces the rate of the run from now on. It returns ErrNoRate if the run
// has no Dial.
func (r *Run) Turn(to arrival.Curve) error {
	if r.config.Dial == nil {
		return ErrNoRate
	}
	return r.config.Dial.Turn(r.Elapsed(), to)
}

// Rate returns the rate at which requests are due now, in requests per second, and
// false if the run has no Dial.
func (r *Run) Rate() (float64, bool) {
	if r.config.Dial == nil {
		return 0, false
	}
	return r.config.Dial.Rate(r.Elapsed()), true
}

// InFlight returns the number of requests that were sent and have not ended.
func (r *Run) InFlight() int { return int(r.inFlight.Load()) }

func (r *Run) run(ctx context.Context) {
	// Requests in flight may end after the last one was sent, but only within Drain.
	sendCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.config.Arrivals != nil {
		r.open(ctx, sendCtx)
	} else {
		r.closed(ctx, sendCtx)
	}
	ended := make(chan struct{})
	go func() {
		r.sending.Wait()
		close(ended)
	}()
	r.drain(ended)
	cancel()
	<-ended
}

// drain waits until all requests have ended, or for Drain after the last one was
// due. Conversations under way may put that off.
func (r *Run) drain(ended <-chan struct{}) {
	r.putOff(time.Since(r.start))
	for {
		left := time.Duration(r.lastDue.Load()) + r.config.Drain - time.Since(r.start)
		if left <= 0 {
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(left):
		}
	}
}

// putOff notes that a request is due at a time, and so puts off the end of the run.
func (r *Run) putOff(due time.Duration) {
	for {
		last := r.lastDue.Load()
		if last >= int64(due) || r.lastDue.CompareAndSwap(last, int64(due)) {
			return
		}
	}
}

// open sends each request when it is due. The schedule is absolute: a late request
// does not delay those after it.
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
			r.sending.Go(func() { r.converse(sendCtx, n, at) })
		default:
			if r.config.MaxWait == 0 {
				r.drop(n, 0, at)
				continue
			}
			r.sending.Go(func() {
				if r.awaitPlace(sendCtx, at) {
					r.converse(sendCtx, n, at)
				} else {
					r.drop(n, 0, at)
				}
			})
		}
	}
}

// never is later than any end.
const never = time.Duration(math.MaxInt64)

// awaitDial waits until the dial's next arrival is due and returns its due time,
// which may change while it waits. It does not wait beyond the end of the run.
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

// awaitPlace takes a place for a request that is due. It reports false if none
// becomes free within MaxWait.
func (r *Run) awaitPlace(ctx context.Context, due time.Time) bool {
	select {
	case r.places <- struct{}{}:
		return true
	default:
	}
	enough := time.NewTimer(time.Until(due.Add(r.config.MaxWait)))
	defer enough.Stop()
	select {
	case r.places <- struct{}{}:
		return true
	case <-enough.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// converse sends a request and, if it begins a conversation, those of its further
// turns, each when the user has thought about the last answer. The caller has taken
// a place for the first. It returns the last result.
func (r *Run) converse(ctx context.Context, n uint64, due time.Time) *completion.Result {
	conversations, _ := r.requests.(Conversations)
	q := r.requests.Request(n)
	for turn := 0; ; turn++ {
		result, answer := r.send(ctx, n, turn, q, due)
		if conversations == nil || result.Outcome != completion.OK {
			return result
		}
		if q = conversations.Next(n, turn+1, q, answer); q == nil {
			return result
		}
		due = time.Now().Add(r.config.Think)
		after := due.Sub(r.start)
		if r.config.Duration > 0 && after >= r.config.Duration {
			return result
		}
		r.putOff(after)
		if sleep(ctx, due); ctx.Err() != nil {
			return result
		}
		if !r.awaitPlace(ctx, due) {
			r.drop(n, turn+1, due)
			return result
		}
	}
}

// send sends a request. The caller has taken a place for it, which send gives back.
// The text of the answer is returned apart, so that nobody records it.
func (r *Run) send(ctx context.Context, n uint64, turn int, q *completion.Request, due time.Time) (_ *completion.Result, answer string) {
	r.inFlight.Add(1)
	result := r.sender.Do(ctx, q, due)
	r.inFlight.Add(-1)
	<-r.places
	answer, result.Text = result.Text, ""
	r.record.add(Sample{N: n, Turn: turn, Due: due.Sub(r.start), Result: &result})
	return &result, answer
}

func (r *Run) drop(n uint64, turn int, due time.Time) {
	r.record.add(Sample{N: n, Turn: turn, Due: due.Sub(r.start), Result: &completion.Result{
		Due: due, Outcome: completion.Dropped,
		InputTokens: -1, CachedTokens: -1, OutputTokens: -1, ReasoningTokens: -1,
	}})
}

// afterError is the shortest pause of a user after an error. Without it, a user
// whose requests are refused at once would send thousands per second.
const afterError = 100 * time.Millisecond

// closed runs the users, each of whom sends a request, waits for the answer and
// thinks, again and again. It returns when no more requests are to be sent.
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
			result := r.converse(sendCtx, n, due)
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
