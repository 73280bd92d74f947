// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/multierr"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// Snapshot is one answer of /metrics, and what it means after those before it.
type Snapshot struct {
	*llamaserver.Metrics
	Began, Ended time.Time // of the read
	// Process counts the processes that were seen behind the address; it
	// changes when the server has been restarted.
	Process int
	// Since is a time at which the process's counters were at zero: when the
	// process before was last read, or a router's model was last seen unloaded.
	// It is zero when nobody saw the process start.
	Since time.Time
	// Active tells whether requests run or wait, or have run since the answer
	// before.
	Active bool
	// Idle tells that neither a request runs nor one waits.
	Idle bool

	dials uint64 // connections opened until the read's end
}

// target is what has a /metrics and a /slots: the server, or one model of a
// router.
type target struct {
	server  *Server
	model   string // "" for the server itself
	metrics call[*Snapshot]
	slots   call[*SlotsReading]
	props   call[*llamaserver.Props]

	mu         sync.Mutex
	state      State
	snapshot   *Snapshot // the last one
	processes  int       // seen so far
	absent     time.Time // when the model was last seen unloaded
	misses     int       // reads of /slots in a row that got no answer
	off        bool      // /metrics is switched off
	propsValue *llamaserver.Props
	propsRead  time.Time
	propsFor   int // the process that they are of
}

func newTarget(s *Server, model string, absent time.Time) *target {
	t := &target{server: s, model: model, absent: absent}
	t.metrics = call[*Snapshot]{server: s, fetch: t.fetchMetrics}
	t.slots = call[*SlotsReading]{server: s, fetch: func(ctx context.Context, r *reading[*SlotsReading]) error {
		slots, err := s.client.Slots(ctx, model)
		r.ended = time.Now()
		r.value = &SlotsReading{Slots: slots, Began: r.began, Ended: r.ended, dials: s.client.Dials()}
		return err
	}}
	t.props = call[*llamaserver.Props]{server: s, fetch: func(ctx context.Context, r *reading[*llamaserver.Props]) (err error) {
		r.value, err = s.client.Props(ctx, model)
		r.ended = time.Now()
		return err
	}}
	return t
}

func (t *target) fetchMetrics(ctx context.Context, r *reading[*Snapshot]) error {
	m, err := t.server.client.Metrics(ctx, t.model)
	r.ended = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.off = llamaserver.ReasonOf(err) == llamaserver.Disabled
	if t.off {
		t.snapshot = nil // of a process that had it switched on
	}
	if err != nil {
		return err
	}
	s := &Snapshot{Metrics: m, Began: r.began, Ended: r.ended, dials: t.server.client.Dials()}
	processing, known := m.Value("requests_processing")
	deferred, _ := m.Value("requests_deferred")
	s.Idle = known && processing == 0 && deferred == 0
	s.Active = known && !s.Idle
	switch before := t.snapshot; {
	case before == nil:
		t.processes++
		s.Since = t.absent
	case before.Metrics.Process != m.Process || wentBack(before.Metrics, m):
		t.processes++
		s.Since = before.Ended
		s.Active = true
	default:
		s.Since = before.Since
		s.Active = s.Active || moved(before.Metrics, m)
	}
	s.Process = t.processes
	t.snapshot = s
	r.value = s
	return nil
}

// wentBack tells whether a counter is lower than before, which it can only be
// in another process.
func wentBack(before, now *llamaserver.Metrics) bool {
	for name, f := range now.Families {
		// Older builds call this average a counter.
		if f.GetType() != dto.MetricType_COUNTER || name == llamaserver.MetricPrefix+"n_busy_slots_per_decode" {
			continue
		}
		b := before.Families[name]
		if len(f.GetMetric()) != 1 || len(b.GetMetric()) != 1 {
			continue
		}
		if f.GetMetric()[0].GetCounter().GetValue() < b.GetMetric()[0].GetCounter().GetValue() {
			return true
		}
	}
	return false
}

// moved tells whether requests have been worked on in between.
func moved(before, now *llamaserver.Metrics) bool {
	for _, name := range [...]string{"n_decode_total", "tokens_predicted_total", "prompt_tokens_total"} {
		a, _ := before.Value(name)
		b, _ := now.Value(name)
		if a != b {
			return true
		}
	}
	return false
}

func (t *target) last() *Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshot
}

func (t *target) active() bool {
	s := t.last()
	return s != nil && s.Active
}

func (t *target) settle(state State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = state
}

func (t *target) lastProps() *llamaserver.Props {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.propsValue
}

func (t *target) propsDue(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	age := now.Sub(t.propsRead)
	switch {
	case t.propsValue == nil, t.state != OK, t.snapshot != nil && t.snapshot.Process != t.propsFor:
		return true
	case t.snapshot != nil && t.snapshot.Active, !t.propsValue.CanSleep:
		return age >= propsAge
	}
	return age >= idlePropsAge
}

// readProps reads /props into the view, which keeps the old ones if that fails.
func (t *target) readProps(ctx context.Context, deadline time.Time, v *View) {
	r, done := t.props.ask(ctx, deadline)
	v.Responses = append(v.Responses, Response{"/props", r.took()})
	if !done {
		return
	}
	t.server.note(t.endpoint("/props"), r.err)
	if r.err != nil {
		v.Err = multierr.Append(v.Err, r.err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.propsValue, t.propsRead = r.value, r.ended
	if t.snapshot != nil {
		t.propsFor = t.snapshot.Process
	}
	v.Props = r.value
}

// look asks one model of a router; false means that it has gone meanwhile.
func (t *target) look(ctx context.Context, now, deadline time.Time) (View, bool) {
	t.mu.Lock()
	v := View{Model: t.model, State: t.state, Props: t.propsValue}
	t.mu.Unlock()
	if v.State == Loading {
		return v, true
	}
	router := t.server.self.lastProps()
	if v.State != Sleeping || router == nil || !router.MetricsWake() {
		r, done := t.metrics.ask(ctx, deadline)
		v.Responses = append(v.Responses, Response{"/metrics", r.took()})
		switch {
		case !done:
		case r.err == nil:
			v.Snapshot = r.value
		case llamaserver.ReasonOf(r.err) == llamaserver.NotLoaded:
			return v, false
		case llamaserver.ReasonOf(r.err) == llamaserver.Loading:
			v.State = Loading
			t.settle(Loading)
			return v, true
		default:
			v.Err = r.err
		}
		if done {
			t.server.note(t.endpoint("/metrics"), r.err)
		}
	}
	if v.Props == nil || t.propsDue(now) && v.State == OK {
		t.readProps(ctx, deadline, &v)
	}
	return v, true
}

func (t *target) endpoint(path string) string {
	if t.model == "" {
		return path
	}
	return path + " of " + t.model
}
