// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
)

const (
	// provider is the value of gen_ai.provider.name.
	provider = "llamacpp"
	// lastSend is how long Shutdown waits for points that are being sent.
	lastSend = 2 * time.Second
	// silence is the time without any record after which that is logged.
	silence = 30 * time.Second
)

// metricsConnector counts requests and sends their metrics from time to time.
type metricsConnector struct {
	*follower
	set     connector.Settings
	next    consumer.Metrics
	scope   pcommon.InstrumentationScope
	quit    chan struct{}
	stop    context.CancelFunc // also cancels the points that are being sent
	done    sync.WaitGroup
	refused bool // the last points were
	started time.Time
	silent  bool // the line that no record has arrived was logged
}

func newMetricsConnector(cfg *Config, set connector.Settings, next consumer.Metrics) (*metricsConnector, error) {
	fresh := func() *statistics {
		return newStatistics(pcommon.NewTimestampFromTime(time.Now()), cfg.Histogram.Exponential.Get())
	}
	f, err := newFollower(cfg, set, "metrics", fresh)
	if err != nil {
		return nil, err
	}
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	return &metricsConnector{follower: f, set: set, next: next, scope: scope}, nil
}

// Start implements component.Component.
func (c *metricsConnector) Start(ctx context.Context, host component.Host) error {
	if err := c.follower.Start(ctx, host); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.Background())
	quit := make(chan struct{})
	c.stop, c.quit, c.started = stop, quit, time.Now()
	c.done.Go(func() {
		tick := time.NewTicker(c.cfg.MetricsFlushInterval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				c.flush(run)
			}
		}
	})
	return nil
}

// Shutdown implements component.Component. The logs have ended by then.
func (c *metricsConnector) Shutdown(ctx context.Context) error {
	if c.stop == nil {
		return nil
	}
	// Points that are being sent get there first: abandoned, they could still
	// arrive, after the last ones.
	close(c.quit)
	patience := time.AfterFunc(lastSend, c.stop)
	c.done.Wait()
	patience.Stop()
	c.stop()
	c.stop = nil
	c.flush(ctx)
	return c.follower.Shutdown(ctx)
}

// ConsumeLogs implements consumer.Logs.
func (c *metricsConnector) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read(ld, time.Now(), func(s *source) {
		known := c.measured(ctx, s)
		for _, r := range s.ended {
			found, measured := known[r]
			measured = measured && found.Counted
			var e *histogram.Exemplar
			if c.cfg.Exemplars.Enabled {
				e = &histogram.Exemplar{At: r.Process.Wall.At(r.Ended), Attributes: []histogram.Attribute{
					{Key: attributeSlot, Value: int64(r.Slot)}, {Key: attributeTask, Value: int64(r.Task)},
				}}
				if measured && traced(found) {
					e.Trace, e.Span = found.Trace, found.Span
				} else {
					id := newSpanIDs(s, r)
					e.Trace, e.Span = id.trace, id.request
				}
			}
			st := s.instance(r.Process).statistics
			st.ended(r, e, measured)
			if measured {
				wait, ok := waited(r, found)
				st.waited(wait, ok, e)
			}
		}
	})
	c.store(ctx)
	return nil
}

func (c *metricsConnector) flush(ctx context.Context) {
	now := time.Now()
	c.mu.Lock()
	c.listen(now)
	c.expire(now)
	md := c.emit(now)
	c.mu.Unlock()
	if md.MetricCount() == 0 {
		return
	}
	err := c.next.ConsumeMetrics(ctx, md)
	if errors.Is(err, context.Canceled) {
		return
	}
	if err != nil && !c.refused {
		c.log.Warn("metrics were refused: the next points, which are cumulative, make up for them", zap.Error(err))
	}
	c.refused = err != nil
}

// listen logs, once, that nothing has arrived since the start. file_log says
// nothing of a file that is not there.
func (c *metricsConnector) listen(now time.Time) {
	if c.heard || c.silent || now.Sub(c.started) < silence {
		return
	}
	c.silent = true
	c.log.Info("no line of a log has arrived yet; an idle server writes none. If this one works, check that what the pipeline's receiver reads exists, e.g. the file under file_log::include, and that llama-server writes there",
		zap.Duration("waited", now.Sub(c.started)))
}

func (c *metricsConnector) emit(now time.Time) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for _, s := range c.sources {
		for _, i := range s.instances {
			c.emitInstance(s, i, pcommon.NewTimestampFromTime(now)).ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
		}
	}
	return md
}

func (c *metricsConnector) emitInstance(s *source, i *instance, now pcommon.Timestamp) pmetric.Metrics {
	st := i.statistics
	if i.builder == nil {
		i.builder = metadata.NewMetricsBuilder(
			metadata.MetricsBuilderConfig{Metrics: c.cfg.Metrics.MetricsConfig, ResourceAttributes: c.cfg.ResourceAttributes},
			c.set, metadata.WithStartTime(st.Start),
		)
	}
	mb := i.builder
	// A router serves nothing itself: its children do.
	serves := i.model != "" || len(s.instances) == 1 || st.Requests != [requests.Outcomes]int64{}
	if serves {
		c.emitCounts(mb, st, now)
	}
	for area, bySeverity := range st.Records {
		for severity, n := range bySeverity {
			mb.RecordLlamacppLogRecordsDataPoint(now, n, area, metadata.MapAttributeLlamacppLogSeverity[severity])
		}
	}
	res := c.resourceOf(s, i)
	md := mb.Emit(metadata.WithResource(res))
	to := undeclared.MetricsOf(md, res, c.scope)
	name := c.modelName(s, i)
	for _, d := range distributions {
		series := st.Histograms[d.name]
		if !serves || len(series) == 0 || !d.enabled(&c.cfg.Metrics) {
			continue
		}
		m := to.AppendEmpty()
		m.SetName(d.name)
		m.SetDescription(d.description)
		m.SetUnit(d.unit)
		for attribute, one := range series {
			a := one.Emit(m, st.Start, now)
			c.describe(a, name)
			switch {
			case attribute == "":
			case d == requestTokens:
				a.PutStr(string(conventions.GenAITokenTypeKey), attribute)
			default:
				a.PutStr(string(conventions.ErrorTypeKey), attribute)
			}
		}
	}
	return md
}

func (*metricsConnector) emitCounts(mb *metadata.MetricsBuilder, st *statistics, now pcommon.Timestamp) {
	for outcome, n := range st.Requests {
		mb.RecordLlamacppRequestsDataPoint(now, n, metadata.MapAttributeLlamacppRequestOutcome[requests.Outcome(outcome).String()])
	}
	mb.RecordLlamacppRequestsTruncatedDataPoint(now, st.Truncated)
	mb.RecordLlamacppContextShiftsDataPoint(now, st.Shifts)
	if st.Loaded {
		mb.RecordLlamacppModelLoadDurationDataPoint(now, st.Load)
	}
}

// describe adds the attributes that the conventions want on each point.
func (c *metricsConnector) describe(a pcommon.Map, model string) {
	a.PutStr(string(conventions.GenAIOperationNameKey), c.cfg.Operation)
	a.PutStr(string(conventions.GenAIProviderNameKey), provider)
	if model != "" {
		a.PutStr(string(conventions.GenAIRequestModelKey), model)
	}
}
