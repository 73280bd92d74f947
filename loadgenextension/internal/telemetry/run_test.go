// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// server answers at known times.
type server struct{ header http.Header }

func (s *server) Do(ctx context.Context, _ *completion.Request, due time.Time) completion.Result {
	s.header = http.Header{}
	Prepare(ctx, s.header)
	sent := time.Now()
	at := sent.Add
	return completion.Result{
		Due: due, Sent: sent, FirstChunk: at(20 * ms), FirstToken: at(30 * ms), FirstAnswer: at(50 * ms), LastToken: at(70 * ms), End: at(80 * ms),
		Chunks: 3, Gaps: []time.Duration{20 * ms, 20 * ms}, InputTokens: 10, CachedTokens: 4, OutputTokens: 5, ReasoningTokens: -1,
		Timings: &completion.Timings{PromptTokens: 6, Prompt: 25 * ms, PredictedTokens: 5, Predicted: 40 * ms}, ID: "chatcmpl-7", Model: "tiny", FinishReason: "stop", Status: 200,
	}
}

func settings() Settings {
	return Settings{
		RunID: "steady-1", Profile: "steady", Version: "v1", Provider: "llamacpp", Endpoint: completion.Chat, Model: "asked",
		Address: "127.0.0.1", Port: 8080, Objective: "ttft<1s", Interval: time.Hour,
		InFlight: func() int { return 3 }, Rate: func() (float64, bool) { return 2.5, true },
		Refused: func(err error) { panic(err) },
	}
}

// measure sends one request that was 40 ms late, and counts another that was
// dropped.
func measure(t *testing.T, s Settings) (md pmetric.Metrics, td ptrace.Traces, srv *server) {
	t.Helper()
	var p Pipe
	var metrics consumertest.MetricsSink
	var traces consumertest.TracesSink
	p.AttachMetrics(&metrics, s.Buckets)
	p.AttachTraces(&traces)
	r, err := NewRun(t.Context(), &p, s)
	require.NoError(t, err)
	srv = &server{}
	temperature, seed := 0.5, int64(9)
	result := r.Sender(srv).Do(t.Context(), &completion.Request{MaxTokens: 100, Temperature: &temperature, Seed: &seed, Stream: true}, time.Now().Add(-40*ms))
	r.Count(loadgen.Sample{Good: true, Result: &result})
	r.Count(loadgen.Sample{Result: &completion.Result{Outcome: completion.Dropped}})
	require.NoError(t, r.Close(t.Context()))
	require.Len(t, metrics.AllMetrics(), 1)
	require.Len(t, traces.AllTraces(), 1)
	return metrics.AllMetrics()[0], traces.AllTraces()[0], srv
}

func TestRun_MeasuresARequest(t *testing.T) {
	md, _, _ := measure(t, settings())
	rm := md.ResourceMetrics().At(0)
	resource := rm.Resource().Attributes().AsRaw()
	assert.Equal(t, "llamaload", resource["service.name"])
	assert.Equal(t, "steady-1", resource["service.instance.id"])
	common := map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "llamacpp", "gen_ai.request.model": "asked",
		"server.address": "127.0.0.1", "server.port": int64(8080), "loadgen.profile": "steady",
	}
	with := func(more ...any) map[string]any {
		m := map[string]any{"gen_ai.response.model": "tiny"}
		for k, v := range common {
			m[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			m[more[i].(string)] = more[i+1]
		}
		return m
	}
	dropped := with("loadgen.outcome", "dropped")
	delete(dropped, "gen_ai.response.model")
	missed := with("loadgen.slo", "ttft<1s")
	delete(missed, "gen_ai.response.model")

	type point struct {
		unit       string
		value      float64 // of a histogram its sum
		count      uint64
		attributes map[string]any
	}
	got := map[string][]point{}
	for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
		assert.NotEmpty(t, m.Description(), m.Name())
		add := func(value float64, count uint64, a pcommon.Map) {
			got[m.Name()] = append(got[m.Name()], point{m.Unit(), value, count, a.AsRaw()})
		}
		switch m.Type() {
		case pmetric.MetricTypeHistogram:
			assert.Equal(t, pmetric.AggregationTemporalityCumulative, m.Histogram().AggregationTemporality())
			for _, p := range m.Histogram().DataPoints().All() {
				add(p.Sum(), p.Count(), p.Attributes())
				assert.Equal(t, 1, p.Exemplars().Len()/int(min(p.Count(), 1)), "%s leads to the span", m.Name())
			}
		case pmetric.MetricTypeSum:
			for _, p := range m.Sum().DataPoints().All() {
				add(float64(p.IntValue()), 0, p.Attributes())
			}
		case pmetric.MetricTypeGauge:
			for _, p := range m.Gauge().DataPoints().All() {
				add(p.DoubleValue(), 0, p.Attributes())
			}
		}
	}
	for name, want := range map[string][]point{
		"gen_ai.client.operation.duration":              {{"s", 0.080, 1, with()}},
		"gen_ai.client.operation.time_to_first_chunk":   {{"s", 0.020, 1, with()}},
		"gen_ai.client.operation.time_per_output_chunk": {{"s", 0.040, 2, with()}},
		"gen_ai.client.token.usage":                     {{"{token}", 10, 1, with("gen_ai.token.type", "input")}, {"{token}", 5, 1, with("gen_ai.token.type", "output")}},
		"loadgen.request.duration":                      {{"s", 0.120, 1, with()}},
		"loadgen.request.time_to_first_token":           {{"s", 0.070, 1, with()}},
		"loadgen.request.time_to_first_answer":          {{"s", 0.090, 1, with()}},
		"loadgen.request.time_per_output_token":         {{"s", 0.010, 1, with()}},
		"loadgen.schedule.lag":                          {{"s", 0.040, 1, with()}},
		"loadgen.server.queue.duration":                 {{"s", 0.015, 1, with()}},
		"loadgen.server.prompt.duration":                {{"s", 0.025, 1, with()}},
		"loadgen.server.prediction.duration":            {{"s", 0.040, 1, with()}},
		"loadgen.requests":                              {{"{request}", 1, 0, with("loadgen.outcome", "ok")}, {"{request}", 1, 0, dropped}},
		"loadgen.goodput":                               {{"{request}", 1, 0, with("loadgen.slo", "ttft<1s")}, {"{request}", 0, 0, missed}},
		"loadgen.requests.in_flight":                    {{"{request}", 3, 0, common}},
		"loadgen.rate.target":                           {{"{request}/s", 2.5, 0, common}},
		"loadgen.tokens": {
			{"{token}", 10, 0, with("gen_ai.token.type", "input")},
			{"{token}", 5, 0, with("gen_ai.token.type", "output")},
			{"{token}", 4, 0, with("gen_ai.token.type", "cached")},
		},
	} {
		require.Len(t, got[name], len(want), name)
	next:
		for _, w := range want {
			for _, p := range got[name] {
				if assert.ObjectsAreEqual(w.attributes, p.attributes) {
					assert.InDelta(t, w.value, p.value, 0.005, name)
					assert.Equal(t, w.count, p.count, name)
					assert.Equal(t, w.unit, p.unit, name)
					continue next
				}
			}
			assert.Fail(t, "no such point", "%s %v of %v", name, w.attributes, got[name])
		}
		delete(got, name)
	}
	assert.Empty(t, got, "further metrics")
}

func TestRun_TracesARequest(t *testing.T) {
	md, td, srv := measure(t, settings())
	span := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	assert.Equal(t, "chat asked", span.Name())
	assert.Equal(t, ptrace.SpanKindClient, span.Kind())
	assert.Equal(t, ptrace.StatusCodeUnset, span.Status().Code())
	assert.Equal(t, "00-"+span.TraceID().String()+"-"+span.SpanID().String()+"-01", srv.header.Get("Traceparent"))
	assert.InDelta(t, 80*ms, span.EndTimestamp().AsTime().Sub(span.StartTimestamp().AsTime()), float64(5*ms))
	a := span.Attributes().AsRaw()
	assert.InDelta(t, 0.04, a["loadgen.schedule.lag"], 0.005)
	delete(a, "loadgen.schedule.lag")
	assert.InDelta(t, 0.015, a["loadgen.server.queue.duration"], 1e-9)
	delete(a, "loadgen.server.queue.duration")
	assert.Equal(t, map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "llamacpp", "gen_ai.request.model": "asked", "gen_ai.response.model": "tiny",
		"server.address": "127.0.0.1", "server.port": int64(8080), "loadgen.profile": "steady", "loadgen.outcome": "ok",
		"gen_ai.request.stream": true, "gen_ai.request.max_tokens": int64(100), "gen_ai.request.temperature": 0.5, "gen_ai.request.seed": int64(9),
		"gen_ai.response.id": "chatcmpl-7", "gen_ai.response.finish_reasons": []any{"stop"}, "http.response.status_code": int64(200),
		"gen_ai.usage.input_tokens": int64(10), "gen_ai.usage.cache_read.input_tokens": int64(4), "gen_ai.usage.output_tokens": int64(5),
		"loadgen.server.prompt.duration": 0.025, "loadgen.server.prediction.duration": 0.04,
		"llamacpp.request.timings": "6/25.00ms+5/40.00ms",
	}, a)
	var events []string
	for _, e := range span.Events().All() {
		events = append(events, e.Name())
	}
	assert.Equal(t, []string{"loadgen.first_chunk", "loadgen.first_token", "loadgen.first_answer"}, events)
	assert.InDelta(t, 20*ms, span.Events().At(0).Timestamp().AsTime().Sub(span.StartTimestamp().AsTime()), float64(5*ms))

	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if m.Name() == "loadgen.request.duration" {
			assert.Equal(t, span.TraceID(), m.Histogram().DataPoints().At(0).Exemplars().At(0).TraceID())
		}
	}
}

func TestRun_MakesExponentialHistogramsWhereAsked(t *testing.T) {
	s := settings()
	s.Buckets = 80
	md, _, _ := measure(t, s)
	n := 0
	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		assert.NotEqual(t, pmetric.MetricTypeHistogram, m.Type(), m.Name())
		if m.Type() == pmetric.MetricTypeExponentialHistogram {
			n++
		}
	}
	assert.Equal(t, 12, n)
}

func TestRun_GivesEachConsumerTheHistogramsThatItWants(t *testing.T) {
	var p Pipe
	var explicit, exponential, same, coarse, late consumertest.MetricsSink
	p.AttachMetrics(&explicit, Explicit)
	p.AttachMetrics(&exponential, 160)
	p.AttachMetrics(&same, 160)
	p.AttachMetrics(&coarse, 2)
	r, err := NewRun(t.Context(), &p, settings())
	require.NoError(t, err)
	p.AttachMetrics(&late, 40)
	send := r.Sender(&server{})
	for range 100 {
		send.Do(t.Context(), &completion.Request{}, time.Now())
	}
	require.NoError(t, r.Close(t.Context()))
	assert.Empty(t, late.AllMetrics(), "the run has no such histograms")

	for name, test := range map[string]struct {
		sink *consumertest.MetricsSink
		kind pmetric.MetricType
	}{
		"explicit": {&explicit, pmetric.MetricTypeHistogram}, "exponential": {&exponential, pmetric.MetricTypeExponentialHistogram},
		"the same once more": {&same, pmetric.MetricTypeExponentialHistogram}, "coarse": {&coarse, pmetric.MetricTypeExponentialHistogram},
	} {
		require.Len(t, test.sink.AllMetrics(), 1, name)
		histograms := 0
		metrics := test.sink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
		assert.Equal(t, 15, metrics.Len(), name)
		for _, m := range metrics.All() {
			var count uint64
			switch m.Type() {
			case pmetric.MetricTypeHistogram:
				p := m.Histogram().DataPoints().At(0)
				count = p.Count()
				assert.Greater(t, p.ExplicitBounds().Len(), 5, "%s: %s: the instrument's own", name, m.Name())
			case pmetric.MetricTypeExponentialHistogram:
				p := m.ExponentialHistogram().DataPoints().At(0)
				count = p.Count()
				if name == "coarse" {
					assert.LessOrEqual(t, p.Positive().BucketCounts().Len(), 2, m.Name())
				}
			default:
				continue
			}
			histograms++
			assert.Equal(t, test.kind, m.Type(), "%s: %s", name, m.Name())
			want := uint64(100)
			if m.Name() == "gen_ai.client.operation.time_per_output_chunk" {
				want = 200
			}
			assert.Equal(t, want, count, "%s: %s", name, m.Name())
		}
		assert.Equal(t, 12, histograms, name)
	}
}

// What the page shows of an exponential histogram is within 5 % of the truth, at
// times from a millisecond to minutes.
func TestRun_ExponentialPercentilesAreWithin5Percent(t *testing.T) {
	var p Pipe
	var sink consumertest.MetricsSink
	p.AttachMetrics(&sink, histogram.DefaultSize)
	r, err := NewRun(t.Context(), &p, settings())
	require.NoError(t, err)
	var truth []float64
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		took := time.Duration(math.Exp(random.Float64()*12)) * ms // 1 ms to 160 s
		truth = append(truth, took.Seconds())
		now := time.Now()
		r.Sender((*answered)(&completion.Result{Due: now, Sent: now, End: now.Add(took)})).Do(t.Context(), &completion.Request{}, now)
	}
	require.NoError(t, r.Close(t.Context()))
	slices.Sort(truth)
	for _, m := range sink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if m.Name() != "gen_ai.client.operation.duration" {
			continue
		}
		for _, q := range []float64{0.5, 0.95, 0.99} {
			want := truth[int(q*float64(len(truth)))]
			assert.InEpsilon(t, want, quantile(m.ExponentialHistogram().DataPoints().At(0), q), 0.05, "P%g", 100*q)
		}
		return
	}
	t.Fatal("no durations")
}

// quantile is as Prometheus takes it: within a bucket, values are spread
// exponentially.
func quantile(p pmetric.ExponentialHistogramDataPoint, q float64) float64 {
	rank := q*float64(p.Count()) - float64(p.ZeroCount())
	growth := math.Exp2(math.Exp2(-float64(p.Scale())))
	for i, n := range p.Positive().BucketCounts().All() {
		if rank <= float64(n) {
			return math.Pow(growth, float64(int(p.Positive().Offset())+i)+rank/float64(n))
		}
		rank -= float64(n)
	}
	return math.NaN()
}

func TestRun_BegunBeforeThereAreConsumersMakesTheUsualKind(t *testing.T) {
	var p Pipe
	s := settings()
	s.Buckets = 80
	r, err := NewRun(t.Context(), &p, s)
	require.NoError(t, err)
	var usual consumertest.MetricsSink
	p.AttachMetrics(&usual, 80)
	require.NoError(t, r.Close(t.Context()))
	assert.Len(t, usual.AllMetrics(), 1)
}

func TestRun_RecordsNoSpanThatNobodyConsumes(t *testing.T) {
	var p Pipe
	r, err := NewRun(t.Context(), &p, settings())
	require.NoError(t, err)
	srv := &server{}
	r.Sender(srv).Do(t.Context(), &completion.Request{}, time.Now())
	assert.Regexp(t, "^00-.*-00$", srv.header.Get("Traceparent"), "not sampled")
	require.NoError(t, r.Close(t.Context()), "what nobody consumes is dropped")
}

// Data that a pipeline refuses for a moment is sent again.
func TestPipe_TriesAgainUnlessTheErrorIsPermanent(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want int
	}{"for a moment": {errors.New("full"), 2}, "for good": {consumererror.NewPermanent(errors.New("bad")), 1}} {
		t.Run(name, func(t *testing.T) {
			var p Pipe
			tries := 0
			c, err := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error {
				if tries++; tries == 1 {
					return test.err
				}
				return nil
			})
			require.NoError(t, err)
			detach := p.AttachMetrics(c, Explicit)
			r, err := NewRun(t.Context(), &p, settings())
			require.NoError(t, err)
			err = r.Close(t.Context())
			assert.Equal(t, test.want == 1, err != nil)
			assert.Equal(t, test.want, tries)
			detach()
			assert.NoError(t, p.consumeMetrics(t.Context(), pmetric.NewMetrics(), Explicit))
			assert.Equal(t, test.want, tries, "detached")
		})
	}
}

// The end of a run is no reason to break off what is being exported.
func TestRun_ClosedDuringAnExportLetsItFinish(t *testing.T) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Errorf("the SDK complains: %v", err) }))
	var p Pipe
	var sink consumertest.MetricsSink
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		once.Do(func() { close(entered); <-release })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return sink.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	p.AttachMetrics(slow, Explicit)
	s := settings()
	s.Interval = 10 * ms
	r, err := NewRun(t.Context(), &p, s)
	require.NoError(t, err)
	<-entered
	r.Count(loadgen.Sample{Good: true, Result: &completion.Result{}})
	closed := make(chan error)
	go func() { closed <- r.Close(t.Context()) }()
	time.Sleep(50 * ms) // an interval passes, too
	close(release)
	require.NoError(t, <-closed)

	all := sink.AllMetrics()
	require.GreaterOrEqual(t, len(all), 2, "the export under way and the last one")
	assert.Zero(t, goodRequests(all[0]))
	assert.EqualValues(t, 1, goodRequests(all[len(all)-1]), "what was counted meanwhile")
}

// goodRequests returns the value of loadgen.goodput.
func goodRequests(md pmetric.Metrics) (n int64) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() == "loadgen.goodput" {
					n += m.Sum().DataPoints().At(0).IntValue()
				}
			}
		}
	}
	return n
}

func TestRun_GoodputIsZeroWhereNothingMetTheObjective(t *testing.T) {
	for objective, want := range map[string]int{"": 0, "ttft<1s": 1} {
		var sink consumertest.MetricsSink
		var p Pipe
		p.AttachMetrics(&sink, Explicit)
		s := settings()
		s.Objective = objective
		r, err := NewRun(t.Context(), &p, s)
		require.NoError(t, err)
		r.Count(loadgen.Sample{Result: &completion.Result{}})
		require.NoError(t, r.Close(t.Context()))
		series := 0
		for _, md := range sink.AllMetrics() {
			assert.Zero(t, goodRequests(md))
			if m, ok := points.Metric(md, "loadgen.goodput"); ok {
				series = m.Sum().DataPoints().Len()
			}
		}
		assert.Equal(t, want, series, objective)
	}
}

func TestRun_SaysOnceThatPipelinesRefuse(t *testing.T) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Errorf("the SDK complains: %v", err) }))
	var p Pipe
	var tries atomic.Int32
	c, err := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error {
		if n := tries.Add(1); n < 5 || n >= 10 && n < 15 { // for good, so that none is tried again
			return consumererror.NewPermanent(errors.New("refused"))
		}
		return nil
	})
	require.NoError(t, err)
	p.AttachMetrics(c, Explicit)
	var said atomic.Int32
	s := settings()
	s.Interval = ms
	s.Refused = func(error) { said.Add(1) }
	r, err := NewRun(t.Context(), &p, s)
	require.NoError(t, err)
	for tries.Load() < 18 {
		time.Sleep(ms / 10)
	}
	assert.EqualValues(t, 2, said.Load(), "at each change")
	_ = r.Close(t.Context()) // refused or not
}

func TestPipe_GivesEachConsumerItsOwn(t *testing.T) {
	var p Pipe
	spoils, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		md.ResourceMetrics().RemoveIf(func(pmetric.ResourceMetrics) bool { return true })
		return nil
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	var sink consumertest.MetricsSink
	p.AttachMetrics(spoils, Explicit)
	p.AttachMetrics(&sink, Explicit)
	r, err := NewRun(t.Context(), &p, settings())
	require.NoError(t, err)
	require.NoError(t, r.Close(t.Context()))
	require.Len(t, sink.AllMetrics(), 1)
	assert.NotZero(t, sink.AllMetrics()[0].MetricCount())
}

// The cost of measuring one request with 100 gaps.
func BenchmarkRun_Measure(b *testing.B) {
	var p Pipe
	r, err := NewRun(b.Context(), &p, settings())
	require.NoError(b, err)
	result := (&server{}).Do(b.Context(), nil, time.Now())
	result.Gaps = make([]time.Duration, 100)
	b.ReportAllocs()
	for b.Loop() {
		r.meter.record(b.Context(), r.sets.get(&result), &result)
	}
	require.NoError(b, r.Close(b.Context()))
}
