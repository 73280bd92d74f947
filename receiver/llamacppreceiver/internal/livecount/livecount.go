// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package livecount joins a counter that moves only when a request ends with
// readings of the requests under way, and so counts live.
//
// # The problem
//
// llama-server adds a request's tokens to tokens_predicted_total when the
// request ends; until then they show only in /slots, which forgets them at that
// very moment. With P the counter, and n(k) what request k has decoded so far,
// the truth at any time is
//
//	D(t) = P(t) + Σ n(k, t) over the requests running at t
//
// but P and n come from two reads at two times, and a request that ends between
// them is in both or in neither.
//
// # The algorithm
//
// A read of P is an anchor. To each anchor belong the requests seen running in
// a read of /slots that began after the anchor's read had ended, each with the
// most that was seen of it, also when it is gone by now. The count is
//
//	V = max over the last anchors of ( P + Σ n(k) over the anchor's requests )
//
// and never less than it was.
//
// # Why it holds
//
// Never ahead: a request that ran after the anchor's read is not in its P, since
// P takes a request in when it ends. So P + Σ n(k) counts no token twice, and
// every token in it has been decoded: V(t) ≤ D(t). This does not depend on
// whether /slots zeroes a request's count at its end or keeps it, because only
// running requests are read, nor on whether a slot is reused at once, because
// every request has a number of its own.
//
// Exact when idle: when a read of P says that no request runs, P is D, and V ≤ D
// from before: V = P.
//
// Not far behind: V lacks the tokens since the last read of /slots, and those of
// requests that are neither in the anchor nor in a read of /slots after it. When
// /slots is read right after the anchor, these are only requests that ended
// between the two reads, or that both began and ended after them; the next
// anchor has both kinds. Several anchors are kept because a request
// that ended right after the newest is still known to the one before. So V
// is at least what D was one interval of /metrics ago, two at worst; the test
// measures this over random schedules.
//
// Printed numbers: from 10^6 on llama-server prints six digits, so P is off by
// up to half of the last digit's step, 5 at 10^6 to 10^7. While requests run V
// takes P one step lower, so that it never stands above the number that the
// server prints when they have ended, whichever way that is rounded. A build
// that prints more digits is recognized by its numbers.
package livecount // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/livecount"

import (
	"math"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// Total is one read of the counter.
type Total struct {
	Value        float64
	Began, Ended time.Time // of the call that read it
	Idle         bool      // whether, by the same read, no request ran or waited
}

// Request is a running request, as one read of /slots shows it.
type Request struct {
	Slot  int
	Task  int64 // its number; no other request of the slot has it
	Count int64 // tokens so far; P grows by their final number when the request ends
}

// anchors is how many reads of P are kept: one more than requests can be
// expected to straddle.
const anchors = 4

// Counter counts live. The zero value is ready for a server process that has
// not been read yet. It is not safe for concurrent use.
type Counter struct {
	anchors [anchors]Total // newest first
	n       int            // anchors in use
	sighted []sighting
	value   int64
	exact   bool // the server prints all digits
}

type sighting struct {
	Request
	last time.Time // when the read that saw it last began
}

// Value is the count: tokens since the server started. While no total has been
// read it counts only what was seen in slots.
func (c *Counter) Value() int64 { return c.value }

// Reset forgets everything, for a server process that has just replaced
// another.
func (c *Counter) Reset() { *c = Counter{sighted: c.sighted[:0]} }

// Total takes in a read of the counter. A read that is not newer than the last
// one is passed over.
func (c *Counter) Total(t Total) {
	if c.n > 0 && !t.Ended.After(c.anchors[0].Ended) {
		return
	}
	if s := llamaserver.RoundingStep(t.Value); s > 0 && math.Mod(t.Value, s) != 0 {
		c.exact = true
	}
	copy(c.anchors[1:], c.anchors[:])
	c.anchors[0] = t
	c.n = min(c.n+1, anchors)

	oldest := c.anchors[c.n-1].Ended
	kept := c.sighted[:0]
	for _, s := range c.sighted {
		if !s.last.Before(oldest) {
			kept = append(kept, s)
		}
	}
	c.sighted = kept
	c.count()
}

// Running takes in a read of /slots that began at the given time: all requests
// that it saw running.
func (c *Counter) Running(began time.Time, requests []Request) {
	for _, r := range requests {
		c.sight(began, r)
	}
	if c.n > 0 {
		c.count()
	}
}

func (c *Counter) sight(began time.Time, r Request) {
	for i := range c.sighted {
		s := &c.sighted[i]
		if s.Slot == r.Slot && s.Task == r.Task {
			if c.n == 0 {
				c.value += max(r.Count-s.Count, 0)
			}
			s.Count = max(s.Count, r.Count)
			s.last = began
			return
		}
	}
	if c.n == 0 {
		c.value += max(r.Count, 0)
		c.forget(r.Slot) // nothing else would
	}
	c.sighted = append(c.sighted, sighting{Request: r, last: began})
}

// forget drops the request that a slot held before.
func (c *Counter) forget(slot int) {
	for i, s := range c.sighted {
		if s.Slot == slot {
			c.sighted = append(c.sighted[:i], c.sighted[i+1:]...)
			return
		}
	}
}

func (c *Counter) count() {
	for i, a := range c.anchors[:c.n] {
		v, running := a.Value, false
		for _, s := range c.sighted {
			if !s.last.Before(a.Ended) {
				v += float64(s.Count)
				running = true
			}
		}
		// Only the newest anchor can say that nothing runs now.
		if i > 0 || !a.Idle || running {
			v -= c.uncertainty(v)
		}
		c.value = max(c.value, int64(v))
	}
}

// uncertainty is how far two printed totals of about v can be off from each
// other.
func (c *Counter) uncertainty(v float64) float64 {
	if c.exact {
		return 0
	}
	return llamaserver.RoundingStep(v)
}
