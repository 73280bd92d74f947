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
	// Process numbers the processes that were seen behind the address, those of
	// a router's models included. It changes when the server has been restarted.
	Process int
	// Since is a time at which the process's counters were at zero: when the
	// process before was last read, or a router's model was last seen unloaded.
	// It is zero when nobody saw the process start.
	Since time.Time
	// Active reports whether requests run or wait, or have run since the answer
	// before.
	Active bool
	// Idle reports whether neither a request runs nor one waits.
	Idle bool

	dials uint64 // connections opened until the read's end
}

// instance is what has a /metrics and a /slots: the server, or one model of a
// router.
type instance struct {
	model   string // "" for the server itself
	conn    *connection
	news    *news
	metrics call[*llamaserver.Metrics]
	slots   call[[]llamaserver.Slot]
	props   call[*llamaserver.Props]

	mu         sync.Mutex
	view       View      // what the last refresh found out
	snapshot   *Snapshot // the last one
	absent     time.Time // when the model was last seen unloaded
	off        bool      // /metrics is switched off
	misses     int       // reads of /slots in a row that got no answer
	propsValue *llamaserver.Props
	propsRead  time.Time
	propsFor   int // the process that they are of
}

func newInstance(conn *connection, news *news, model string, absent time.Time) *instance {
	in := &instance{model: model, conn: conn, news: news, absent: absent, view: View{Model: model}}
	in.metrics = call[*llamaserver.Metrics]{conn: conn, take: in.takeMetrics, fetch: func(ctx context.Context) (*llamaserver.Metrics, error) {
		return conn.client.Metrics(ctx, model)
	}}
	in.slots = call[[]llamaserver.Slot]{conn: conn, fetch: func(ctx context.Context) ([]llamaserver.Slot, error) {
		return conn.client.Slots(ctx, model)
	}}
	in.props = call[*llamaserver.Props]{conn: conn, take: in.takeProps, fetch: func(ctx context.Context) (*llamaserver.Props, error) {
		return conn.client.Props(ctx, model)
	}}
	return in
}

// takeMetrics makes the next snapshot of an answer.
func (in *instance) takeMetrics(r *reading[*llamaserver.Metrics]) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.off = llamaserver.ReasonOf(r.err) == llamaserver.Disabled
	if in.off {
		in.snapshot = nil // of a process that had it switched on
	}
	if r.err != nil {
		return
	}
	m := r.value
	s := &Snapshot{Metrics: m, Began: r.began, Ended: r.ended, dials: r.dials}
	processing, known := m.Value("requests_processing")
	deferred, _ := m.Value("requests_deferred")
	s.Idle = known && processing == 0 && deferred == 0
	s.Active = known && !s.Idle
	switch before := in.snapshot; {
	case before == nil:
		s.Process = in.conn.nextProcess()
		s.Since = in.absent
	case before.Metrics.Process != m.Process || wentBack(before.Metrics, m):
		s.Process = in.conn.nextProcess()
		s.Since = before.Ended
		s.Active = true
	default:
		s.Process = before.Process
		s.Since = before.Since
		s.Active = s.Active || moved(before.Metrics, m)
	}
	in.snapshot = s
}

// wentBack reports whether a counter is lower than before, which it can only be
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

// moved reports whether requests have been worked on in between.
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

func (in *instance) takeProps(r *reading[*llamaserver.Props]) {
	if r.err != nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.propsValue, in.propsRead = r.value, r.ended
	if in.snapshot != nil {
		in.propsFor = in.snapshot.Process
	}
}

const (
	// propsAge is how often /props is asked of a server in use: what it says
	// changes with a restart, which is noticed otherwise.
	propsAge = time.Minute
	// idlePropsAge is how often it is asked of one that may fall asleep.
	idlePropsAge = 5 * time.Second
)

func (in *instance) propsDue() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	age := time.Since(in.propsRead)
	switch {
	case in.propsValue == nil, in.view.State != OK, in.snapshot != nil && in.snapshot.Process != in.propsFor:
		return true
	case in.snapshot != nil && in.snapshot.Active, !in.propsValue.CanSleep:
		return age >= propsAge
	}
	return age >= idlePropsAge
}

// readProps reads /props into the view, which keeps the old ones if that fails.
func (in *instance) readProps(ctx context.Context, until time.Time, v *View) {
	r, answered := in.props.ask(ctx, until)
	v.responded("/props", r.took())
	if !answered {
		return
	}
	in.news.endpoint(in.endpoint("/props"), r.err)
	if r.err != nil {
		v.Err = multierr.Append(v.Err, r.err)
		return
	}
	v.Props = r.value
}

// refresh asks one model of a router, and reports whether it is still loaded.
// metricsWake says that /metrics would wake it if it sleeps.
func (in *instance) refresh(ctx context.Context, until time.Time, metricsWake bool) (there bool) {
	v := in.begin()
	defer func() { in.show(v) }()
	if v.State == Loading {
		return true
	}
	if v.State != Sleeping || !metricsWake {
		r, answered := in.metrics.ask(ctx, until)
		v.responded("/metrics", r.took())
		switch {
		case !answered:
		case r.err == nil:
			v.Snapshot = in.last()
		case llamaserver.ReasonOf(r.err) == llamaserver.NotLoaded:
			return false
		case llamaserver.ReasonOf(r.err) == llamaserver.Loading:
			v.State = Loading
			return true
		default:
			v.Err = r.err
		}
		if answered {
			in.news.endpoint(in.endpoint("/metrics"), r.err)
		}
	}
	if v.Props == nil || v.State == OK && in.propsDue() {
		in.readProps(ctx, until, &v)
	}
	return true
}

// begin returns the view of a refresh that has not asked anything yet.
func (in *instance) begin() View {
	in.mu.Lock()
	defer in.mu.Unlock()
	return View{Model: in.model, State: in.view.State, Props: in.propsValue}
}

// show ends a refresh, whose view is what looks see from now on.
func (in *instance) show(v View) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.view = v
}

func (in *instance) lastView() View {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.view
}

// settle takes in the state that the router's list gives.
func (in *instance) settle(state State) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.view.State = state
}

func (in *instance) last() *Snapshot {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.snapshot
}

func (in *instance) lastProps() *llamaserver.Props {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.propsValue
}

func (in *instance) active() bool {
	s := in.last()
	return s != nil && s.Active
}

// endpoint names an endpoint in the log.
func (in *instance) endpoint(path string) string {
	if in.model == "" {
		return path
	}
	return path + " of " + in.model
}

// forget drops what news has of the instance's endpoints.
func (in *instance) forget() {
	for _, path := range [...]string{"/metrics", "/props", "/slots"} {
		in.news.forget(in.endpoint(path))
	}
}
