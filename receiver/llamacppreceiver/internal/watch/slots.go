// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// SlotsReading is one answer of /slots.
type SlotsReading struct {
	Slots        []llamaserver.Slot
	Began, Ended time.Time

	dials uint64
}

// SlotsView is what one look found out about the slots of the server, or of one
// model of a router.
type SlotsView struct {
	Model string // "" for the server itself
	Props *llamaserver.Props
	// Snapshot is the last answer of /metrics; nil when there has been none.
	Snapshot *Snapshot
	// NoMetrics tells that /metrics is switched off.
	NoMetrics bool
	// Reading is nil when /slots was not asked, or did not answer in time.
	Reading *SlotsReading
	Err     error
}

// LookAtSlots asks for the slots of a server that is up and awake: while
// /metrics shows activity or, if always, in any case. It returns within
// patience. interval is the time between two such looks; /metrics may be two of
// them old, and is read here when no scraper has read it since.
//
// A reading of /slots belongs to the same process as the view's snapshot.
func (s *Server) LookAtSlots(ctx context.Context, always bool, interval, patience time.Duration) []SlotsView {
	now := time.Now()
	deadline := now.Add(patience)
	s.refresh(ctx, now, interval, patience)

	var views []SlotsView
	for _, t := range s.up() {
		views = append(views, t.lookAtSlots(ctx, always, deadline))
	}
	if s.life.Err() != nil {
		return nil // what failed now did so because of End
	}
	return views
}

// refresh looks at the server when nobody else does.
func (s *Server) refresh(ctx context.Context, now time.Time, interval, patience time.Duration) {
	const slack = 5 // a fifth of the interval: the other scraper's clock is no better than ours
	s.mu.Lock()
	fresh := now.Sub(s.looked) < 2*interval+interval/slack
	s.mu.Unlock()
	if fresh || !s.looking.TryLock() {
		return
	}
	defer s.looking.Unlock()
	s.look(ctx, patience/2)
}

// up returns what can be asked for its slots.
func (s *Server) up() []*target {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != OK && s.state != Sleeping:
		return nil
	case !s.router:
		return []*target{s.self}
	}
	ts := make([]*target, 0, len(s.children))
	for _, t := range s.children {
		ts = append(ts, t)
	}
	return ts
}

func (t *target) lookAtSlots(ctx context.Context, always bool, deadline time.Time) SlotsView {
	t.mu.Lock()
	v := SlotsView{Model: t.model, Props: t.propsValue, Snapshot: t.snapshot, NoMetrics: t.off}
	awake := t.state == OK
	t.mu.Unlock()
	active := always || v.Snapshot != nil && v.Snapshot.Active
	if !awake || !active {
		return v
	}

	r, answered := t.slots.ask(ctx, deadline)
	if !answered {
		return v
	}
	if llamaserver.ReasonOf(r.err) == llamaserver.NotLoaded {
		return v
	}
	if r.err != nil {
		v.Err = r.err
		if t.missed(r.err) {
			t.server.note(t.endpoint("/slots"), r.err)
		}
		return v
	}
	t.missed(nil)
	t.server.note(t.endpoint("/slots"), nil)
	v.Reading = r.value
	t.confirm(ctx, deadline, &v)
	return v
}

// confirm brings the view's snapshot up to date and drops a reading that is not
// known to be of the snapshot's process. It is known when the connection that
// it came over is no younger than the snapshot before it, as a connection does
// not outlive the process behind it. Otherwise /metrics, read once more, has to
// name the same process.
func (t *target) confirm(ctx context.Context, deadline time.Time, v *SlotsView) {
	before, last := v.Snapshot, t.last()
	if last == nil {
		return // nothing to belong to
	}
	if before != nil && v.Reading.dials != before.dials {
		r, ok := t.metrics.since(ctx, v.Reading.Ended, deadline)
		if !ok || r.err != nil {
			v.Reading = nil
			return
		}
		last = r.value
	}
	v.Snapshot = last
	if before == nil || before.Process != last.Process {
		v.Reading = nil
	}
}

// missed tells whether a failure is one of /slots: when no answer comes, the
// server may have gone, which the next look at it says.
func (t *target) missed(err error) bool {
	const patience = 3 // reads
	t.mu.Lock()
	defer t.mu.Unlock()
	switch llamaserver.ReasonOf(err) {
	case llamaserver.NoAnswer, llamaserver.Late:
		t.misses++
		return t.misses >= patience
	}
	t.misses = 0
	return true
}
