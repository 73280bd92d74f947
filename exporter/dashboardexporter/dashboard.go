// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/live"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/page"
)

// stopWithin limits how long a shutdown waits for pages that still read.
const stopWithin = 5 * time.Second

// dashboard is what the exporters of one configuration share: the metrics one and
// the traces one start and stop it, whoever is first and last.
type dashboard struct {
	cfg       *Config
	set       exporter.Settings
	telemetry *metadata.TelemetryBuilder
	forget    func() // takes it from its factory

	mu    sync.Mutex
	users int // exporters that have been started

	history *history.History
	recent  *recent.Store
	live    *live.Hub
	page    http.Handler
	server  *http.Server
	serving sync.WaitGroup

	refusals refusals
}

func newDashboard(set exporter.Settings, cfg *Config, forget func()) (*dashboard, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &dashboard{cfg: cfg, set: set, telemetry: telemetry, forget: forget}, nil
}

// Start implements component.Component.
func (d *dashboard) Start(ctx context.Context, host component.Host) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users++; d.users > 1 {
		return nil
	}
	options := history.Options{
		Retention: d.cfg.Retention.Time, MaxBytes: d.cfg.Retention.SizeMiB << 20, MaxSeries: d.cfg.MaxSeries,
		Lookback: d.cfg.Query.LookbackDelta, QueryTimeout: d.cfg.Query.Timeout, MaxSamples: d.cfg.Query.MaxSamples,
		Rules: dashboards.Rules(), RuleFiles: d.cfg.Rules.Files, RuleInterval: d.cfg.Rules.Interval,
		Version: d.set.BuildInfo.Version, Logger: d.set.Logger,
	}
	if d.cfg.StorageDirectory != "" {
		options.Directory = filepath.Join(d.cfg.StorageDirectory, "history")
	}
	var err error
	if d.history, err = history.Open(options); err != nil {
		return err
	}
	limits := recent.DefaultLimits()
	limits.PerServer = d.cfg.Requests
	if d.cfg.StorageDirectory == "" {
		d.recent = recent.New(limits)
	} else if d.recent, err = recent.Open(filepath.Join(d.cfg.StorageDirectory, "requests"), limits, d.set.Logger); err != nil {
		return err
	}
	catalogue, err := dashboards.Load()
	if err != nil {
		return err
	}
	d.live, err = live.New(live.Settings{
		Catalogue: catalogue, Querier: d.history, Requests: d.recent, Rules: firing{d.history}, Logger: d.set.Logger,
		Version: d.set.BuildInfo.Version, Loadgen: findLoad(host) != nil, Streams: d.cfg.MaxViewers,
		Lookback: d.cfg.Query.LookbackDelta,
	})
	if err != nil {
		return err
	}
	if d.page, err = page.Handler(); err != nil {
		return err
	}
	err = errors.Join(
		d.telemetry.RegisterDashboardSeriesCallback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(d.history.Series()))
			return nil
		}),
		d.telemetry.RegisterDashboardViewersCallback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(d.live.Viewers()))
			return nil
		}),
	)
	if err != nil {
		return err
	}
	return d.serve(ctx, host)
}

// firing gives the live page the rules that fire.
type firing struct{ *history.History }

// Active implements live.Rules.
func (f firing) Active() []live.Rule {
	alerts := f.Firing()
	active := make([]live.Rule, len(alerts))
	for i, a := range alerts {
		active[i] = live.Rule(a)
	}
	return active
}

// serve starts the server of the page and the APIs.
func (d *dashboard) serve(ctx context.Context, host component.Host) error {
	s := &d.cfg.ServerConfig
	var err error
	if d.server, err = s.ToServer(ctx, host.GetExtensions(), d.set.TelemetrySettings, d.handler(host)); err != nil {
		return err
	}
	listener, err := s.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen on %s: %w: choose another endpoint", s.NetAddr.Endpoint, err)
	}
	d.set.Logger.Info("Serving the live page", zap.String("url", address(s.TLS.HasValue(), listener.Addr())))
	d.serving.Go(func() {
		if err := d.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
	return nil
}

// Shutdown implements component.Component.
func (d *dashboard) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users > 0 {
		return nil
	}
	defer d.forget()
	d.telemetry.Shutdown()
	var errs []error
	if d.live != nil {
		d.live.Close() // before the server, which waits for the streams
	}
	if d.server != nil {
		ctx, cancel := context.WithTimeout(ctx, stopWithin)
		defer cancel()
		if d.server.Shutdown(ctx) != nil { // a page still reads
			errs = append(errs, d.server.Close())
		}
	}
	d.serving.Wait()
	if d.recent != nil {
		errs = append(errs, d.recent.Close())
	}
	if d.history != nil {
		errs = append(errs, d.history.Close())
	}
	return errors.Join(errs...)
}

// pushMetrics keeps metrics. What cannot be kept is counted and logged, and is no
// error: sending it again would not help.
func (d *dashboard) pushMetrics(ctx context.Context, md pmetric.Metrics) error {
	batch, err := d.history.Append(ctx, md)
	if err != nil {
		return err
	}
	d.live.Arrived(batch.Kept)
	refused := batch.Refused
	for _, reason := range slices.Sorted(maps.Keys(refused.Points)) {
		points := refused.Points[reason]
		d.telemetry.DashboardRefusedPoints.Add(ctx, int64(points), metric.WithAttributes(attribute.String("reason", string(reason))))
		if d.refusals.isNew(reason) {
			d.set.Logger.Warn(reasons[reason], zap.String("example", refused.Examples[reason]),
				zap.String("further ones", "are counted in otelcol_dashboard_refused_points and not logged"))
		}
	}
	return nil
}

// pushTraces keeps the requests among the spans.
func (d *dashboard) pushTraces(_ context.Context, td ptrace.Traces) error {
	if d.recent.Add(td) > 0 {
		d.live.Arrived(nil)
	}
	return nil
}

// reasons explains why points are refused, with what helps.
var reasons = map[history.Reason]string{
	history.SeriesLimit: "The history holds as many series as max_series allows and takes no further ones: raise it, or drop metrics with the processor filter",
	history.OutOfOrder:  "The history does not take points that are more than 5 minutes older than the newest of their series",
	history.Duplicate:   "The history has another value of the same series at the same time: two sources use the same names and attributes, give them different ones",
	history.Delta:       "The history does not take metrics that report the change since the point before: put the processor deltatocumulative in front",
	history.Invalid:     "Prometheus has no form for a metric",
}

// refusals are the reasons that have been logged.
type refusals struct{ logged sync.Map }

func (r *refusals) isNew(reason history.Reason) bool {
	_, known := r.logged.LoadOrStore(reason, true)
	return !known
}
