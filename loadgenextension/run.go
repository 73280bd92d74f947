// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/telemetry"
)

// state is the stage that a run has reached.
type state string

const (
	starting state = "starting" // prompts are being made
	running  state = "running"
	ended    state = "ended"
)

// run is one load test. It is kept after its end until forget drops it.
type run struct {
	id, profile string
	config      ProfileConfig
	limits      LimitsConfig
	schedule    string
	began       time.Time
	cancel      context.CancelCauseFunc
	done        chan struct{}

	mu     sync.Mutex
	load   *loadgen.Run // nil while starting, or if the run could not start
	end    time.Time
	report *loadgen.Report // nil until the run ends, or if it could not start
	cause  error           // why the run ended early or could not start
}

var (
	errNoProfile  = errors.New("no profile has this name: GET /api/v1/profiles lists them")
	errBusy       = errors.New("a run of this profile is under way: stop it first")
	errNotRunning = errors.New("the run is not under way")
	errStopped    = errors.New("stopped on request")
)

// invalidError marks a request whose values are not allowed.
type invalidError struct{ error }

func (e invalidError) Unwrap() error { return e.error }

// start begins a run of a profile.
func (e *Extension) start(profile string, o Overrides) (*run, error) {
	p, ok := e.cfg.Profiles[profile]
	if !ok {
		return nil, errNoProfile
	}
	p = p.with(o)
	if err := p.validate(e.cfg.Limits); err != nil {
		return nil, invalidError{err}
	}
	var seed uint64
	if p.Seed != nil {
		seed = *p.Seed
	} else {
		seed = mathrand.Uint64() >> 32 //nolint:gosec // It is in the report.
	}
	pace, err := p.pacing(seed, e.cfg.Limits)
	if err != nil {
		return nil, invalidError{err}
	}
	r := &run{id: newID(profile), profile: profile, config: p, limits: e.cfg.Limits, schedule: p.schedule(), began: time.Now(), done: make(chan struct{})}

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ending.Err() != nil {
		return nil, errShutdown
	}
	if slices.ContainsFunc(e.runs, func(r *run) bool { return r.profile == profile && r.state() != ended }) {
		return nil, errBusy
	}
	e.forget()
	e.runs = append(e.runs, r)
	ctx, cancel := context.WithCancelCause(e.ending)
	r.cancel = cancel
	e.running.Go(func() {
		defer cancel(nil)
		defer close(r.done)
		r.finish(e.execute(ctx, r, pace, seed))
		e.logEnd(r)
	})
	e.set.Logger.Info("Load run begins", zap.String("run", r.id), zap.String("schedule", r.schedule))
	return r, nil
}

// forget drops the oldest ended runs to make room for one more.
func (e *Extension) forget() {
	over := -e.cfg.History + 1
	for _, r := range e.runs {
		if r.state() == ended {
			over++
		}
	}
	e.runs = slices.DeleteFunc(e.runs, func(r *run) bool {
		drop := over > 0 && r.state() == ended
		if drop {
			over--
		}
		return drop
	})
}

func newID(profile string) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return profile + "-" + hex.EncodeToString(b[:])
}

// execute performs a run, from making its prompts to writing its report.
func (e *Extension) execute(ctx context.Context, r *run, pace *loadgen.Config, seed uint64) (report *loadgen.Report, cause error) {
	work, prompts, err := r.config.workload(ctx, e.target.tokenizer, seed)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	metering := loadgen.MeterEnergy(ctx, e.gpus)
	defer metering.Discard()
	if metering != nil && metering.Err != nil {
		e.set.Logger.Warn("The report of a load run will have no energy", zap.String("run", r.id), zap.Error(metering.Err))
	}
	before, unavailable := e.countersBefore(ctx, r)
	measured, err := telemetry.NewRun(ctx, &e.pipe, e.telemetrySettings(r, work))
	if err != nil {
		return nil, fmt.Errorf("telemetry of the run: %w", err)
	}
	pace.Record = measured.Count
	about := loadgen.About{
		Version: e.set.BuildInfo.Version, URL: e.target.server.Address(), Started: time.Now(), Schedule: r.schedule,
		Duration: pace.Duration.Seconds(), WarmUp: pace.WarmUp.Seconds(), Tail: pace.Tail.Seconds(), Ended: "done",
	}
	load, err := loadgen.Start(ctx, *pace, measured.Sender(e.target.client), work)
	if err != nil {
		return nil, errors.Join(err, e.flush(measured))
	}
	r.underWay(load)
	results, cause := load.Wait()
	end := time.Now()
	if cause != nil {
		about.Ended = cause.Error()
	}
	report = loadgen.NewReport(pace, results, about, loadgen.Workload{
		Hash: work.Hash(), Endpoint: r.config.API, Model: r.config.Model, Prompts: prompts, Settings: work.Settings(),
	})
	if err := e.flush(measured); err != nil {
		e.set.Logger.Warn("Pipelines did not accept some measurements of a load run", zap.String("run", r.id), zap.Error(err))
	}
	report.NotReconciled = unavailable
	// The run may have been stopped; what follows is given up only at shutdown.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(e.ending, cancel)()
	if before != nil {
		e.reconcile(ctx, report, r, before, results)
	}
	metering.End(ctx, end, report, results)
	return report, cause
}

// flushWithin limits how long pipelines may take to accept the last measurements
// of a run, and countersWithin how long the server may take to return its
// counters.
const (
	flushWithin    = 5 * time.Second
	countersWithin = 5 * time.Second
)

func (e *Extension) flush(measured *telemetry.Run) error {
	ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
	defer cancel()
	return measured.Close(ctx)
}

// countersBefore reads the server's counters. If they are nil, the string is the
// reason why they are unavailable.
func (e *Extension) countersBefore(ctx context.Context, r *run) (*loadgen.Counters, string) {
	if r.config.API == completion.Embeddings.String() {
		return nil, "the server's counters do not cover embeddings"
	}
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	c, err := loadgen.ReadCounters(ctx, e.target.server, r.config.Model)
	if err != nil {
		return nil, err.Error()
	}
	return c, ""
}

// reconcile compares the report with the server's counters, unless the collector
// is shutting down.
func (e *Extension) reconcile(ctx context.Context, report *loadgen.Report, r *run, before *loadgen.Counters, results *loadgen.Results) {
	if e.ending.Err() != nil {
		report.NotReconciled = "the collector was shutting down"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	var err error
	if report.Reconciliation, err = loadgen.AwaitCounters(ctx, e.target.server, r.config.Model, before, results); err != nil {
		report.NotReconciled = err.Error()
	}
}

func (e *Extension) telemetrySettings(r *run, work *workload.Workload) telemetry.Settings {
	return telemetry.Settings{
		RunID: r.id, Profile: r.profile, Version: e.set.BuildInfo.Version, Provider: e.cfg.Provider,
		Endpoint: work.Settings().Endpoint, Model: r.config.Model,
		Address: e.target.Address, Port: e.target.Port,
		Objective: r.config.Objective, Interval: e.cfg.MetricsFlushInterval,
		Buckets:  e.cfg.Histogram.buckets(),
		InFlight: r.inFlight, Rate: r.rate,
		Refused: func(err error) {
			e.set.Logger.Warn("Pipelines refuse metrics of a load run: later ones make up for it", zap.String("run", r.id), zap.Error(err))
		},
	}
}

// logEnd logs a summary of the run, since its report is lost when the collector
// shuts down.
func (e *Extension) logEnd(r *run) {
	report, cause := r.result()
	if report == nil {
		e.set.Logger.Error("Load run could not begin", zap.String("run", r.id), zap.Error(cause))
		return
	}
	c := report.Requests
	e.set.Logger.Info("Load run ended", zap.String("run", r.id), zap.String("ended", report.Run.Ended), zap.String("honesty", report.Generator.Note),
		zap.Int("due", c.Due), zap.Int("ok", c.OK), zap.Int("error", c.Failed), zap.Int("cancelled", c.Cancelled), zap.Int("dropped", c.Dropped),
		zap.Duration("ttft.p50", report.Latency.TTFT.Percentile(50)), zap.Duration("ttft.p99", report.Latency.TTFT.Percentile(99)))
}

// find returns a run by its id.
func (e *Extension) find(id string) (*run, bool) {
	for _, r := range e.list() {
		if r.id == id {
			return r, true
		}
	}
	return nil, false
}

// list returns the runs, oldest first.
func (e *Extension) list() []*run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.runs)
}

func (r *run) underWay(load *loadgen.Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load = load
}

func (r *run) finish(report *loadgen.Report, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end, r.report, r.cause = time.Now(), report, cause
}

func (r *run) state() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stateLocked()
}

func (r *run) stateLocked() state {
	switch {
	case !r.end.IsZero():
		return ended
	case r.load != nil:
		return running
	}
	return starting
}

// result returns the report of a run that has ended, and the reason why it ended
// early or could not begin.
func (r *run) result() (*loadgen.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report, r.cause
}

// stop ends the run, which still reports what it has measured.
func (r *run) stop() error {
	if r.state() == ended {
		return errNotRunning
	}
	r.cancel(errStopped)
	return nil
}

// turn changes the rate of an open loop, in requests per second, within a time that
// may be 0. From then on the rate is constant, whatever schedule the run began with.
func (r *run) turn(rate float64, over time.Duration) error {
	switch {
	case rate > r.limits.Rate:
		return invalidError{fmt.Errorf("rate: %g: want at most %g requests a second, or raise limits::rate", rate, r.limits.Rate)}
	case over < 0 || over > r.limits.Duration:
		return invalidError{fmt.Errorf("over: %s: want 0 to %s, or raise limits::duration", over, r.limits.Duration)}
	}
	to, err := arrival.NewConstant(rate)
	if err != nil {
		return invalidError{err}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stateLocked() != running {
		return errNotRunning
	}
	if now, ok := r.load.Rate(); ok && over > 0 {
		ramp, err := arrival.NewRamp(now, rate, over)
		if err != nil {
			return invalidError{err}
		}
		return r.load.Turn(ramp)
	}
	return r.load.Turn(to)
}

func (r *run) inFlight() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load == nil {
		return 0
	}
	return r.load.InFlight()
}

// rate returns the rate at which requests are due, and false if the run has none.
func (r *run) rate() (float64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stateLocked() != running {
		return 0, false
	}
	return r.load.Rate()
}
