// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lightstep/go-expohisto/structure"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// server is the name of the server that most tests watch.
const server = "localhost:8080"

// dashboard is the real exporter, with both its pipelines.
type dashboard struct {
	t       *testing.T
	url     string
	metrics exporter.Metrics
	traces  exporter.Traces
	running bool
}

// settings of a dashboard; all are optional.
type settings struct {
	port      int
	version   string
	host      component.Host
	ruleFiles []string
	directory string
}

func startDashboard(t *testing.T, s settings) *dashboard {
	t.Helper()
	if s.port == 0 {
		s.port = freeport.For(t)
	}
	if s.host == nil {
		s.host = componenttest.NewNopHost()
	}
	f := dashboardexporter.NewFactory()
	cfg := f.CreateDefaultConfig().(*dashboardexporter.Config)
	cfg.ServerConfig.NetAddr.Endpoint = fmt.Sprintf("localhost:%d", s.port)
	cfg.Rules.Files = s.ruleFiles
	cfg.Rules.Interval = time.Second
	cfg.StorageDirectory = s.directory
	set := exportertest.NewNopSettings(f.Type())
	if s.version != "" {
		set.BuildInfo.Version = s.version
	}
	d := &dashboard{t: t, url: "http://" + cfg.ServerConfig.NetAddr.Endpoint, running: true}
	var err error
	d.metrics, err = f.CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	d.traces, err = f.CreateTraces(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, d.metrics.Start(t.Context(), s.host))
	require.NoError(t, d.traces.Start(t.Context(), s.host))
	t.Cleanup(d.stop)
	return d
}

func (d *dashboard) stop() {
	if !d.running {
		return
	}
	d.running = false
	assert.NoError(d.t, d.metrics.Shutdown(context.Background()))
	assert.NoError(d.t, d.traces.Shutdown(context.Background()))
}

// kind is what a number means.
type kind int

const (
	gauge kind = iota
	// counter grows by its value in each second.
	counter
	// constant is a counter that stands still.
	constant
	// histogram has a hundred observations in each second, evenly from 0 to its
	// value: the P95 is 95 % of that.
	histogram
)

// metric is one series, under the name that it has in Prometheus. Labels are
// written as name=value.
type metric struct {
	name   string
	kind   kind
	value  float64
	labels []string
}

// source is what a resource reports: the truth that the page has to show.
type source struct {
	service, instance string
	attributes        []string // name=value
	metrics           []metric
	// lively: values go up and down, for pictures.
	lively bool
}

// still is what has no ups and downs.
var still = regexp.MustCompile(`limit|status|slots$|state|throttle$|models|deferred|processing`)

// now is the value of a metric some seconds after the counters began.
func (s source) now(m metric, seconds float64) float64 {
	const pace = 17 // seconds
	phase := seconds/pace + float64(len(m.name)) + float64(len(s.instance)) + m.value
	switch {
	case m.kind == counter && s.lively: // its rate is as its cosine
		return 1000 + m.value*(seconds+0.4*pace*math.Sin(phase))
	case m.kind == counter:
		return 1000 + m.value*seconds
	case m.kind == gauge && s.lively && !still.MatchString(m.name):
		return m.value * (0.85 + 0.15*math.Sin(phase))
	}
	return m.value
}

func put(m pcommon.Map, pairs []string) {
	for _, pair := range pairs {
		k, v, _ := strings.Cut(pair, "=")
		m.PutStr(k, v)
	}
}

// at is a report of all sources; the counters began at an earlier time.
func at(now, began time.Time, sources ...source) pmetric.Metrics {
	md := pmetric.NewMetrics()
	seconds := now.Sub(began).Seconds()
	stamp := pcommon.NewTimestampFromTime(now)
	for _, s := range sources {
		rm := md.ResourceMetrics().AppendEmpty()
		put(rm.Resource().Attributes(), []string{"service.name=" + s.service, "service.instance.id=" + s.instance})
		put(rm.Resource().Attributes(), s.attributes)
		ms := rm.ScopeMetrics().AppendEmpty().Metrics()
		for _, one := range s.metrics {
			m := ms.AppendEmpty()
			m.SetName(one.name)
			var labels pcommon.Map
			switch one.kind {
			case gauge:
				p := m.SetEmptyGauge().DataPoints().AppendEmpty()
				p.SetTimestamp(stamp)
				p.SetDoubleValue(s.now(one, seconds))
				labels = p.Attributes()
			case counter, constant:
				sum := m.SetEmptySum()
				sum.SetIsMonotonic(true)
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				p := sum.DataPoints().AppendEmpty()
				p.SetTimestamp(stamp)
				p.SetDoubleValue(s.now(one, seconds))
				labels = p.Attributes()
			case histogram:
				h := m.SetEmptyExponentialHistogram()
				h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				p := h.DataPoints().AppendEmpty()
				p.SetTimestamp(stamp)
				fill(p, one.value, uint64(seconds))
				labels = p.Attributes()
			}
			put(labels, one.labels)
		}
	}
	return md
}

// fill puts n times the observations of a second into a point.
func fill(p pmetric.ExponentialHistogramDataPoint, most float64, n uint64) {
	h := structure.NewFloat64(structure.NewConfig(structure.WithMaxSize(structure.DefaultMaxSize)))
	for i := range 100 {
		h.Update(most * float64(i+1) / 100)
	}
	p.SetScale(h.Scale())
	p.SetCount(n * h.Count())
	p.SetSum(float64(n) * h.Sum())
	p.Positive().SetOffset(h.Positive().Offset())
	for i := range h.Positive().Len() {
		p.Positive().BucketCounts().Append(n * h.Positive().At(i))
	}
}

// feed reports sources once a second, as a collector does, and has done so for some
// time before it began.
type feed struct {
	d     *dashboard
	began time.Time

	mu      sync.Mutex
	sources []source
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// startFeed begins a feed with a past.
func startFeed(d *dashboard, past time.Duration, sources ...source) *feed {
	d.t.Helper()
	now := time.Now().Truncate(time.Second)
	f := &feed{d: d, began: now.Add(-past - time.Hour), sources: sources}
	for at := now.Add(-past); at.Before(now); at = at.Add(time.Second) {
		f.send(at)
	}
	f.resume()
	d.t.Cleanup(f.stop)
	return f
}

func (f *feed) send(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	assert.NoError(f.d.t, f.d.metrics.ConsumeMetrics(context.Background(), at(now, f.began, f.sources...)))
}

// resume goes on after a stop.
func (f *feed) resume() {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for ctx.Err() == nil {
			f.send(time.Now())
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
}

func (f *feed) stop() {
	f.cancel()
	f.done.Wait()
}

// wait lets so many requests wait from now on, and reports it at once.
func (f *feed) wait(requests float64) {
	f.mu.Lock()
	for _, s := range f.sources {
		for i := range s.metrics {
			if s.metrics[i].name == "llamacpp_requests_deferred" {
				s.metrics[i].value = requests
			}
		}
	}
	f.mu.Unlock()
	f.send(time.Now())
}

// request is a request as the connector llamacpplog makes a trace of it.
type request struct {
	server            string
	slot, task        int64
	start, first, end time.Time
	outcome           string
	prompt, cached    int64
	generated         int64
}

// requests makes the spans of requests.
func requests(list ...request) ptrace.Traces {
	td := ptrace.NewTraces()
	for _, r := range list {
		rs := td.ResourceSpans().AppendEmpty()
		put(rs.Resource().Attributes(), []string{"service.name=llama-server", "service.instance.id=" + r.server})
		spans := rs.ScopeSpans().AppendEmpty().Spans()
		s := spans.AppendEmpty()
		id := pcommon.SpanID{1, byte(r.task >> 8), byte(r.task), byte(r.slot), 1}
		trace := pcommon.TraceID{2, byte(r.task >> 8), byte(r.task), byte(r.slot), 2}
		s.SetSpanID(id)
		s.SetTraceID(trace)
		s.SetName("chat")
		s.SetKind(ptrace.SpanKindServer)
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(r.start))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(r.end))
		a := s.Attributes()
		put(a, []string{"gen_ai.operation.name=chat", "gen_ai.response.model=qwen2.5-3b", "llamacpp.request.outcome=" + r.outcome})
		a.PutInt("llamacpp.slot.id", r.slot)
		a.PutInt("llamacpp.task.id", r.task)
		a.PutInt("gen_ai.usage.input_tokens", r.prompt)
		a.PutInt("gen_ai.usage.cache_read.input_tokens", r.cached)
		a.PutInt("gen_ai.usage.output_tokens", r.generated)
		if r.first.IsZero() {
			continue
		}
		g := spans.AppendEmpty()
		g.SetName("generation")
		g.SetKind(ptrace.SpanKindInternal)
		g.SetTraceID(trace)
		g.SetSpanID(pcommon.SpanID{3, byte(r.task >> 8), byte(r.task), byte(r.slot), 3})
		g.SetParentSpanID(id)
		g.SetStartTimestamp(pcommon.NewTimestampFromTime(r.first))
		g.SetEndTimestamp(pcommon.NewTimestampFromTime(r.end))
	}
	return td
}

// proxiedRequest makes the spans of a request as the receiver llamaproxy and the
// connector llamacpplog make them together: it came at its start, and the server
// began with it later. The log's span comes by itself.
func proxiedRequest(r request, began time.Time, client string) (proxy, log ptrace.Traces) {
	proxy, log = requests(r), requests(r)
	ss := proxy.ResourceSpans().At(0).ScopeSpans().At(0)
	ss.Scope().SetName("github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver")
	own := ss.Spans().At(0)
	own.Attributes().Remove("llamacpp.slot.id")
	own.Attributes().Remove("llamacpp.task.id")
	own.Attributes().PutStr("llamacpp.client.name", client)
	own.Attributes().PutDouble("llamacpp.request.queue.duration", began.Sub(r.start).Seconds())
	slot := log.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	slot.SetName("slot")
	slot.SetKind(ptrace.SpanKindInternal)
	slot.SetParentSpanID(own.SpanID())
	slot.SetSpanID(pcommon.SpanID{4, byte(r.task >> 8), byte(r.task), byte(r.slot), 4})
	slot.SetStartTimestamp(pcommon.NewTimestampFromTime(began))
	log.ResourceSpans().At(0).ScopeSpans().At(0).Spans().RemoveIf(func(s ptrace.Span) bool { return s.Name() == "generation" })
	return proxy, log
}

func portOf(t *testing.T, url string) int {
	t.Helper()
	_, port, ok := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	require.True(t, ok)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return n
}
