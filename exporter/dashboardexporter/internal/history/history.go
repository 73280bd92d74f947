// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package history keeps metrics in an embedded Prometheus: its database, its
// PromQL engine, its rules and its HTTP API, under fixed limits.
package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
)

const (
	// outOfOrder is how much older than the newest point of its series a point may
	// be. Pipelines deliver late after a queue was full.
	outOfOrder = 5 * time.Minute
	// stripes is the size of the tables of series. Prometheus' default is for
	// millions of them.
	stripes = 512
	// maxExemplars is how many links from a latency to a trace are kept.
	maxExemplars = 10_000
	// maxConcurrent is how many queries run at once; others wait.
	maxConcurrent = 20
)

// expected drops what the database warns of at each compaction with points that
// came out of order: it merges such blocks by itself.
type expected struct{ slog.Handler }

// Handle implements slog.Handler.
func (e expected) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "Overlapping blocks found") {
		return nil
	}
	return e.Handler.Handle(ctx, r) //nolint:wrapcheck // it is only passed on
}

// WithAttrs implements slog.Handler.
func (e expected) WithAttrs(attrs []slog.Attr) slog.Handler {
	return expected{e.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (e expected) WithGroup(name string) slog.Handler { return expected{e.Handler.WithGroup(name)} }

// Options are the limits of a history.
type Options struct {
	// Directory is where data is kept, so that it outlives the process; empty for a
	// temporary folder, which Close removes.
	Directory string
	// Retention is how long data is kept, and MaxBytes how much of it is kept on
	// disk; the oldest goes first. 0 bytes is no limit.
	Retention time.Duration
	MaxBytes  int64
	// MaxSeries is how many series are held at once. Points of further ones are
	// refused.
	MaxSeries int
	// Lookback is how long a series is taken to have the value of its last point.
	Lookback time.Duration
	// QueryTimeout and MaxSamples limit a query.
	QueryTimeout time.Duration
	MaxSamples   int
	// Rules is a rule file in the format of Prometheus, RuleFiles names further ones.
	Rules     []byte
	RuleFiles []string
	// RuleInterval is the time between two evaluations of groups that set none.
	RuleInterval time.Duration
	// Version is the collector's version, for the API.
	Version string

	Logger *zap.Logger
}

// History is an embedded Prometheus. It is safe for concurrent use.
type History struct {
	opts      Options
	folder    string
	temporary bool

	registry *prometheus.Registry
	db       *tsdb.DB
	engine   *promql.Engine
	queries  *promql.ActiveQueryTracker
	rules    *rules.Manager
	running  sync.WaitGroup
	cancel   context.CancelFunc
}

// Open opens the history and begins to evaluate its rules.
func Open(opts Options) (_ *History, err error) {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	h := &History{opts: opts, registry: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := h.makeFolder(); err != nil {
		return nil, err
	}
	// What Prometheus reports at info is of interest to nobody here.
	log := slog.New(expected{zapslog.NewHandler(opts.Logger.WithOptions(zap.IncreaseLevel(zapcore.WarnLevel)).Core())})

	db := tsdb.DefaultOptions()
	db.RetentionDuration = opts.Retention.Milliseconds()
	db.MaxBytes = opts.MaxBytes
	db.MaxBlockDuration = max(db.MinBlockDuration, db.RetentionDuration/10)
	db.StripeSize = stripes
	db.WALCompression = compression.Snappy // histograms with many buckets are most of it
	db.OutOfOrderTimeWindow = outOfOrder.Milliseconds()
	db.EnableExemplarStorage = true
	db.MaxExemplars = maxExemplars
	if h.temporary {
		db.WALSegmentSize = -1 // no write-ahead log: nobody reads it
	}
	if h.db, err = tsdb.Open(filepath.Join(h.folder, "tsdb"), log, h.registry, db, nil); err != nil {
		return nil, fmt.Errorf("open the history in %s: %w: if another collector uses the directory, give each its own", h.folder, err)
	}
	if h.queries, err = promql.NewActiveQueryTracker(h.folder, maxConcurrent, log); err != nil {
		return nil, fmt.Errorf("open the history in %s: %w", h.folder, err)
	}
	promQL := NewParser()
	h.engine = promql.NewEngine(promql.EngineOpts{
		Logger: log, Reg: h.registry, Parser: promQL,
		MaxSamples: opts.MaxSamples, Timeout: opts.QueryTimeout, LookbackDelta: opts.Lookback,
		ActiveQueryTracker: h.queries, EnableAtModifier: true, EnableNegativeOffset: true,
	})
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.Background())
	h.rules = rules.NewManager(&rules.ManagerOptions{
		Context: ctx, Logger: log, Registerer: h.registry, Parser: promQL,
		QueryFunc:  rules.EngineQueryFunc(h.engine, h.db),
		Appendable: h.db, Queryable: h.db,
		GroupLoader: loader{builtin: opts.Rules, parser: promQL, log: log},
		// Who is alerted is the business of an Alertmanager, by a Prometheus of its own.
		NotifyFunc:      func(context.Context, string, ...*rules.Alert) {},
		OutageTolerance: time.Hour, ForGracePeriod: time.Minute, ResendDelay: time.Minute,
	})
	files := opts.RuleFiles
	if len(opts.Rules) > 0 {
		files = append([]string{builtin}, files...)
	}
	if err := h.rules.Update(opts.RuleInterval, files, labelsNone, "", nil); err != nil {
		return nil, fmt.Errorf("rule_files: %w", err)
	}
	h.running.Go(h.rules.Run)
	return h, nil
}

func (h *History) makeFolder() (err error) {
	h.folder = h.opts.Directory
	if h.folder != "" {
		if err := os.MkdirAll(h.folder, 0o700); err != nil {
			return fmt.Errorf("storage_directory: %w", err)
		}
		return nil
	}
	if h.folder, err = os.MkdirTemp("", "otelcol-dashboard-"); err != nil {
		return fmt.Errorf("make a temporary folder for the history: %w: set storage_directory", err)
	}
	h.temporary = true
	return nil
}

// Close ends the evaluation of rules and closes the database.
func (h *History) Close() error {
	var errs []error
	if h.cancel != nil {
		h.cancel()
	}
	if h.rules != nil {
		h.rules.Stop()
	}
	h.running.Wait()
	if h.db != nil {
		errs = append(errs, h.db.Close())
	}
	if h.queries != nil {
		errs = append(errs, h.queries.Close())
	}
	if h.temporary {
		errs = append(errs, os.RemoveAll(h.folder))
	}
	return errors.Join(errs...)
}

// Instant evaluates an expression at a time.
func (h *History) Instant(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	return rules.EngineQueryFunc(h.engine, h.db)(ctx, expr, at)
}

// Range evaluates an expression from start to end, both included.
func (h *History) Range(ctx context.Context, expr string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
	q, err := h.engine.NewRangeQuery(ctx, h.db, nil, expr, start, end, step)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	result := q.Exec(ctx)
	if result.Err != nil {
		return nil, result.Err
	}
	m, err := result.Matrix()
	if err != nil {
		return nil, err
	}
	// Close takes the points back for other queries.
	kept := make(promql.Matrix, len(m))
	for i, s := range m {
		s.Floats = append([]promql.FPoint(nil), s.Floats...)
		s.Histograms = nil
		kept[i] = s
	}
	return kept, nil
}

// Engine and Storage are for those who prepare what the engine reads.
func (h *History) Engine() *promql.Engine { return h.engine }

// Storage is described at Engine.
func (h *History) Storage() storage.Queryable { return h.db }

// Series is the number of series held in memory.
func (h *History) Series() uint64 { return h.db.Head().NumSeries() }
