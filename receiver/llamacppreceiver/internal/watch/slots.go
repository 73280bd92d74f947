// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// SlotsReading is one answer of /slots.
type SlotsReading struct {
	Slots        []llamaserver.Slot
	Began, Ended time.Time
}

// SlotsView is what one look found out about the slots of the server, or of one
// model of a router.
type SlotsView struct {
	Model string // "" for the server itself
	// Down reports whether the server, or the model, is neither ok nor asleep.
	// It is not asked then, and what its slots held may no longer be true.
	Down  bool
	Props *llamaserver.Props
	// Snapshot is the last answer of /metrics; nil when there has been none.
	Snapshot *Snapshot
	// NoMetrics reports whether /metrics is switched off.
	NoMetrics bool
	// Reading is nil when /slots was not asked, or did not answer in time.
	Reading *SlotsReading
	Err     error
}

// LookAtSlots looks at the slots of the server, or of each model that a router
// has loaded. It reads /slots of what is up and awake while /metrics shows
// activity or, if always is set, at every look. It returns within patience.
// interval is the time between two such looks: an answer of /metrics that is
// older than two intervals is read anew first.
//
// A reading of /slots belongs to the same process as the view's snapshot.
func (s *Server) LookAtSlots(ctx context.Context, always bool, interval, patience time.Duration) []SlotsView {
	until := within(ctx, patience)
	s.refreshUnlessFresh(ctx, interval, within(ctx, patience/2))

	up := s.self.up()
	var views []SlotsView
	for _, in := range s.instances() {
		if up && in.up() {
			views = append(views, in.lookAtSlots(ctx, until, always))
		} else {
			views = append(views, SlotsView{Model: in.model, Down: true})
		}
	}
	if s.conn.life.Err() != nil {
		return nil // what failed now did so because of End
	}
	return views
}

// refreshUnlessFresh refreshes when nobody else does.
func (s *Server) refreshUnlessFresh(ctx context.Context, interval time.Duration, until time.Time) {
	const slack = 5 // a fifth of the interval: the other scraper's clock is no better than ours
	s.mu.Lock()
	fresh := time.Since(s.refreshed) < 2*interval+interval/slack
	s.mu.Unlock()
	if fresh || !s.refreshing.TryLock() {
		return
	}
	defer s.refreshing.Unlock()
	s.refresh(ctx, until)
}

// instances returns what has slots: the server, or the models that a router has
// loaded.
func (s *Server) instances() []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.router {
		return slices.Clone(s.loaded)
	}
	return []*instance{s.self}
}

func (in *instance) up() bool {
	state := in.lastView().State
	return state == OK || state == Sleeping
}

func (in *instance) lookAtSlots(ctx context.Context, until time.Time, always bool) SlotsView {
	in.mu.Lock()
	v := SlotsView{Model: in.model, Props: in.propsValue, Snapshot: in.snapshot, NoMetrics: in.off}
	awake := in.view.State == OK
	in.mu.Unlock()
	active := always || v.Snapshot != nil && v.Snapshot.Active
	if !awake || !active {
		return v
	}
	r, answered := in.slots.ask(ctx, until)
	if !answered || llamaserver.ReasonOf(r.err) == llamaserver.NotLoaded {
		return v
	}
	v.Err = r.err
	if in.count(r.err) {
		in.news.endpoint(in.endpoint("/slots"), r.err)
	}
	if r.err == nil {
		in.join(ctx, until, r, &v)
	}
	return v
}

// count counts the reads of /slots in a row that get no answer, and reports
// whether the outcome is to be logged as one of /slots. The first missing
// answers are not: the server may have gone, which the next refresh finds out.
func (in *instance) count(err error) (isNews bool) {
	const patience = 3 // reads
	in.mu.Lock()
	defer in.mu.Unlock()
	switch llamaserver.ReasonOf(err) {
	case llamaserver.NoAnswer, llamaserver.Late:
		in.misses++
		return in.misses >= patience
	}
	in.misses = 0
	return true
}

// join brings the view's snapshot up to date, and adds the reading if it is
// known to be of the snapshot's process. It is known when no connection was
// opened since the snapshot, as a connection does not outlive the process behind
// it. Otherwise /metrics, read once more, has to name the same process.
func (in *instance) join(ctx context.Context, until time.Time, r *reading[[]llamaserver.Slot], v *SlotsView) {
	before := v.Snapshot
	if before != nil && r.dials != before.dials {
		if m := in.metrics.since(ctx, r.ended, until); m == nil || m.err != nil {
			return
		}
	}
	last := in.last()
	if last != nil {
		v.Snapshot = last
		if before == nil || before.Process != last.Process {
			return
		}
	}
	v.Reading = &SlotsReading{Slots: r.value, Began: r.began, Ended: r.ended}
}
