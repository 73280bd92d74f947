// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package live evaluates the catalogue of panels for those who look at it: a
// snapshot of a window, then a frame at each tick, evaluated and encoded once for
// all viewers of the same view.
package live // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/live"

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

// Querier evaluates PromQL. What it returns is the caller's own.
type Querier interface {
	Instant(ctx context.Context, expr string, at time.Time) (promql.Vector, error)
	Range(ctx context.Context, expr string, start, end time.Time, step time.Duration) (promql.Matrix, error)
}

// Source is a Querier that says what it asks. With it, long buckets are summarized
// while their points are read, many times as fast as by functions of PromQL.
type Source interface {
	Querier
	Engine() *promql.Engine
	Storage() storage.Queryable
}

// Requests are those that have ended, of one server or, with an empty name, of all.
// recent.Store is one.
type Requests interface {
	// Since returns the requests that were added after a moment, newest first, and
	// the moment to go on from.
	Since(server string, after recent.Sequence) ([]recent.Request, recent.Sequence)
	// Last returns the n requests that ended last, newest first.
	Last(server string, n int) []recent.Request
}

// Rules has the rules that fire.
type Rules interface {
	Active() []Rule
}

// Rule is a bottleneck or an alert that fires.
type Rule struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// Since is when it began to fire.
	Since time.Time
}

// Settings of a Hub. Requests, Rules and Logger may be nil.
type Settings struct {
	Catalogue *dashboards.Catalogue
	Querier   Querier
	Requests  Requests
	Rules     Rules
	Logger    *zap.Logger
	// Version is that of the build: a page of another version reloads itself.
	Version string
	// Loadgen says that the load generator's API is there.
	Loadgen bool
	// Tick is the time between two frames; 0: one second.
	Tick time.Duration
	// Lookback is how long a series is taken to have the value of its last point; 0:
	// 15 seconds.
	Lookback time.Duration
	// Views and Streams limit what is served at once; 0: 32 and 256.
	Views, Streams int
}

const (
	// evaluations is how many expressions are evaluated at once.
	evaluations = 2
	// snapshots and histories are how many snapshots, of now and of the past, are
	// evaluated at once.
	snapshots = 4
	histories = 2
	// tickWithin and snapshotWithin limit how long an evaluation may take.
	tickWithin     = 10 * time.Second
	snapshotWithin = 30 * time.Second
	// settle is how long after the end of a bucket it is evaluated, so that points
	// of its time that are under way still count.
	settle = 50 * time.Millisecond
	// linger is how long a feed goes on after its last viewer: one that reloads its
	// page or changes its window finds it again.
	linger = 10 * time.Second
)

// Hub serves the views. It implements http.Handler.
type Hub struct {
	settings  Settings
	log       *zap.Logger
	mux       *http.ServeMux
	catalogue document

	engine  *promql.Engine // nil if the Querier is no Source
	storage storage.Queryable

	ctx     context.Context //nolint:containedctx // ends the feeds, which outlive the request that began them
	cancel  context.CancelFunc
	running sync.WaitGroup // feeds and streams

	evaluating chan struct{}
	snapshots  chan struct{}
	history    chan struct{}
	streams    chan struct{}

	mu     sync.Mutex
	closed bool
	feeds  map[viewKey]*feed

	failures failures
	overview overview
	past     past
	columns  []exprPlan // of the table of servers
	// overviewNeeds is what all columns need.
	overviewNeeds needs

	// told: somebody says what arrives.
	told atomic.Bool
}

// New returns a Hub, which serves until Close. It is an error if an expression of
// the catalogue cannot be parsed.
func New(s Settings) (*Hub, error) {
	if s.Catalogue == nil || s.Querier == nil {
		return nil, errors.New("live: a catalogue and a querier are needed")
	}
	if s.Tick <= 0 {
		s.Tick = time.Second
	}
	if s.Lookback <= 0 {
		s.Lookback = 15 * time.Second
	}
	if s.Views <= 0 {
		s.Views = 32
	}
	if s.Streams <= 0 {
		s.Streams = 256
	}
	if s.Logger == nil {
		s.Logger = zap.NewNop()
	}
	if s.Requests == nil {
		s.Requests = nothing{}
	}
	if s.Rules == nil {
		s.Rules = nothing{}
	}
	h := &Hub{
		settings:   s,
		log:        s.Logger,
		evaluating: make(chan struct{}, evaluations),
		snapshots:  make(chan struct{}, snapshots),
		history:    make(chan struct{}, histories),
		streams:    make(chan struct{}, s.Streams),
		feeds:      map[viewKey]*feed{},
	}
	if source, ok := s.Querier.(Source); ok {
		h.engine, h.storage = source.Engine(), source.Storage()
	}
	if _, err := h.compile(view{step: time.Minute}); err != nil {
		return nil, err
	}
	h.columns = overviewPlan(s.Catalogue)
	var exprs []string
	for _, column := range h.columns {
		exprs = append(exprs, column.expr)
	}
	h.overviewNeeds = needsOf(exprs...)
	var err error
	if h.catalogue, err = h.encodeCatalogue(); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.mux = http.NewServeMux()
	h.mux.HandleFunc("GET /live/catalogue", h.getCatalogue)
	h.mux.HandleFunc("GET /live/servers", h.getServers)
	h.mux.HandleFunc("GET /live/snapshot", h.getSnapshot)
	h.mux.HandleFunc("GET /live/stream", h.getStream)
	return h, nil
}

// ServeHTTP serves /live/catalogue, /live/servers, /live/snapshot and /live/stream.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Close tells all viewers that the collector goes, ends their streams and waits
// for them.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.running.Wait()
}

// Arrived says of which metric families points have arrived, by the names that the
// Querier knows, and the time of the oldest in milliseconds. Without families,
// something else is new: a request has ended. What depends on it is evaluated soon.
// As long as no families are told of, the clock alone says when.
func (h *Hub) Arrived(families map[string]int64) {
	if len(families) > 0 {
		h.told.Store(true)
	}
	now := time.Now().UnixMilli()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.feeds {
		f.hear(families, now)
	}
}

// Viewers is the number of pages that are being sent frames.
func (h *Hub) Viewers() int { return len(h.streams) }

// begin counts something that Close waits for, unless the Hub is closed.
func (h *Hub) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.running.Add(1)
	return true
}

// instant and span evaluate an expression.
func (h *Hub) instant(ctx context.Context, expr string, at int64) (promql.Vector, error) {
	return guarded(ctx, h, expr, func() (promql.Vector, error) {
		return h.settings.Querier.Instant(ctx, expr, time.UnixMilli(at))
	})
}

func (h *Hub) span(ctx context.Context, expr string, first, last int64, step time.Duration) (promql.Matrix, error) {
	return guarded(ctx, h, expr, func() (promql.Matrix, error) {
		return h.settings.Querier.Range(ctx, expr, time.UnixMilli(first), time.UnixMilli(last), step)
	})
}

// guarded calls evaluate when there is room: a few expressions are evaluated at
// once. It logs what fails.
func guarded[T any](ctx context.Context, h *Hub, expr string, evaluate func() (T, error)) (result T, err error) {
	if err := h.enter(ctx); err != nil {
		return result, err
	}
	defer h.leave()
	result, err = evaluate()
	if failed, ok := ctx.Value(failedKey{}).(*atomic.Bool); ok && err != nil {
		failed.Store(true)
	}
	h.failures.note(ctx, h.log, expr, err)
	return result, err
}

func (h *Hub) enter(ctx context.Context) error {
	select {
	case h.evaluating <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Hub) leave() { <-h.evaluating }

// failures remembers which expressions fail, so that each is logged now and then.
type failures struct {
	mu     sync.Mutex
	logged map[string]time.Time
}

const (
	// failAgain is how long an expression that fails is not logged again.
	failAgain = 10 * time.Minute
	// maxFailures bounds what is remembered; expressions of many views differ.
	maxFailures = 1000
)

func (f *failures) note(ctx context.Context, log *zap.Logger, expr string, err error) {
	if err == nil || ctx.Err() != nil { // nobody waits for it any more, or too much was asked at once
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if last, ok := f.logged[expr]; ok && now.Sub(last) < failAgain {
		return
	}
	if f.logged == nil || len(f.logged) >= maxFailures {
		f.logged = map[string]time.Time{}
	}
	f.logged[expr] = now
	log.Warn("An expression of the dashboard cannot be evaluated: what it shows stays empty", zap.String("expr", expr), zap.Error(err))
}

// nothing stands for sources that are not there.
type nothing struct{}

func (nothing) Since(_ string, after recent.Sequence) ([]recent.Request, recent.Sequence) {
	return nil, after
}
func (nothing) Last(string, int) []recent.Request { return nil }
func (nothing) Active() []Rule                    { return nil }
