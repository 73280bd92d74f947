// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
)

const (
	// maxInstances bounds the models of a router.
	maxInstances = 256
	// patience is how long the first points wait for a receiver in the same collector
	// to find out what the server is. Else their resource would change a second later,
	// and a join with target_info find two for as long as a backend looks back.
	patience = 5 * time.Second
)

// metricsOutput counts requests and sends their metrics from time to time.
type metricsOutput struct {
	cfg   *Config
	set   receiver.Settings
	next  consumer.Metrics
	scope pcommon.InstrumentationScope

	hub     *hub
	began   time.Time
	quit    chan struct{}
	cancel  context.CancelFunc // also ends the points that are being sent
	done    sync.WaitGroup
	refused bool // the last points were

	mu        sync.Mutex
	instances map[string]*statistics
}

func newMetricsOutput(cfg *Config, set receiver.Settings, next consumer.Metrics) *metricsOutput {
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	return &metricsOutput{cfg: cfg, set: set, next: next, scope: scope, instances: map[string]*statistics{}}
}

func (o *metricsOutput) start(h *hub) {
	o.hub, o.began, o.quit = h, time.Now(), make(chan struct{})
	h.metrics.Store(true)
	o.instance(h.where.Instance)
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.done.Go(func() {
		tick := time.NewTicker(o.cfg.MetricsFlushInterval)
		defer tick.Stop()
		for {
			select {
			case <-o.quit:
				return
			case <-tick.C:
				if h.known() || time.Since(o.began) > patience {
					o.flush(ctx)
				}
			}
		}
	})
}

func (o *metricsOutput) stop(ctx context.Context) {
	close(o.quit)
	late := time.AfterFunc(lastSend, o.cancel)
	o.done.Wait()
	late.Stop()
	o.cancel()
	ctx, cancel := context.WithTimeout(ctx, lastSend)
	defer cancel()
	o.flush(ctx)
}

func (o *metricsOutput) ended(m *measured) {
	var e *histogram.Exemplar
	if o.cfg.Exemplars.Enabled && o.hub.traces.Load() {
		e = exemplarOf(m)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.instance(m.instance).ended(m, e)
}

// instance returns the statistics of an instance. The caller holds mu.
func (o *metricsOutput) instance(id string) *statistics {
	s := o.instances[id]
	if s == nil && len(o.instances) >= maxInstances {
		id = o.hub.where.Instance
		s = o.instances[id]
	}
	if s == nil {
		s = newStatistics(o.cfg.Histogram.size(), o.cfg.AggregationCardinalityLimit)
		o.instances[id] = s
	}
	return s
}

func (o *metricsOutput) flush(ctx context.Context) {
	md := o.emit()
	if md.MetricCount() == 0 {
		return
	}
	err := o.next.ConsumeMetrics(ctx, md)
	if errors.Is(err, context.Canceled) {
		return
	}
	if err != nil && !o.refused {
		o.set.Logger.Warn("metrics were refused: the next points, which are cumulative, make up for them", zap.Error(err))
	}
	o.refused = err != nil
}

func (o *metricsOutput) emit() pmetric.Metrics {
	o.mu.Lock()
	defer o.mu.Unlock()
	md := pmetric.NewMetrics()
	for id, s := range o.instances {
		o.emitInstance(id, s).ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
	}
	return md
}

func (o *metricsOutput) emitInstance(id string, s *statistics) pmetric.Metrics {
	at := now()
	r := o.hub.resourceOf(id, o.cfg.ResourceAttributes)
	if s.builder == nil {
		s.builder = metadata.NewMetricsBuilder(
			metadata.MetricsBuilderConfig{Metrics: o.cfg.Metrics.MetricsConfig, ResourceAttributes: o.cfg.ResourceAttributes},
			o.set, metadata.WithStartTime(s.start))
		if name := serverresource.ModelName(r); name != "" && !o.cfg.Clients.HasValue() {
			s.expect(name)
		}
	}
	s.record(at)
	if id == o.hub.where.Instance {
		s.builder.RecordLlamacppProxyRequestsActiveDataPoint(at, o.hub.waiting.Load(), metadata.AttributeLlamacppProxyPhaseWaiting)
		s.builder.RecordLlamacppProxyRequestsActiveDataPoint(at, o.hub.answering.Load(), metadata.AttributeLlamacppProxyPhaseAnswering)
		s.builder.RecordLlamacppProxySpansDroppedDataPoint(at, o.hub.dropped.Load())
	}
	md := s.builder.Emit(metadata.WithResource(r))
	s.emit(undeclared.MetricsOf(md, r, o.scope), &o.cfg.Metrics, at)
	return md
}
