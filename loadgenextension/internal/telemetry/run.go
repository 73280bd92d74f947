// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI
	"go.opentelemetry.io/otel/trace"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

// Scope is the instrumentation scope, ServiceName the resource's service.name.
const (
	Scope       = "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"
	ServiceName = "llamaload"
)

// Settings describe one run.
type Settings struct {
	// RunID becomes service.instance.id.
	RunID, Profile string
	// Version is the collector's version.
	Version string
	// Provider becomes gen_ai.provider.name.
	Provider string
	// Endpoint and Model are those that all requests ask for; Model may be "".
	Endpoint completion.Endpoint
	Model    string
	// Address and Port are the server's.
	Address string
	Port    int64
	// Objective is the objective as the user wrote it; "" if there is none.
	Objective string
	// Interval is the time between two points of a series.
	Interval time.Duration
	// Buckets is the kind of histograms of a run that begins before there are
	// consumers, which otherwise decide.
	Buckets Buckets
	// InFlight and Rate are called at each collection. Rate returns false if the
	// run has no rate.
	InFlight func() int
	Rate     func() (float64, bool)
	// Refused is called when the pipelines begin to refuse metrics. They are
	// cumulative, so that later ones make up for those that were refused.
	Refused func(error)
}

// Run measures the requests of one run. Its series and spans have a resource of
// their own.
type Run struct {
	settings Settings
	meters   *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider
	tracer   trace.Tracer
	meter    instruments
	sets     sets

	stop    chan struct{} // closed to end flushing
	flushed chan struct{} // closed when it has ended
}

// NewRun prepares to measure a run. Its exporters send through the pipe until
// Close is called. Each kind of histograms that a consumer wants has a reader, and
// each reader makes measuring dearer.
func NewRun(ctx context.Context, p *Pipe, s Settings) (*Run, error) {
	var exporters []*otlpmetrichttp.Exporter
	abandon := func(err error) error {
		for _, e := range exporters {
			err = errors.Join(err, e.Shutdown(ctx))
		}
		return err
	}
	for _, b := range p.kinds(s.Buckets) {
		metrics, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithHTTPClient(&http.Client{Transport: end{p, b}}), otlpmetrichttp.WithEndpointURL(base+metricsPath),
			otlpmetrichttp.WithCompression(otlpmetrichttp.NoCompression), otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig(retries)),
			otlpmetrichttp.WithAggregationSelector(b.aggregation))
		if err != nil {
			return nil, abandon(err)
		}
		exporters = append(exporters, metrics)
	}
	spans, err := otlptracehttp.New(ctx, otlptracehttp.WithHTTPClient(&http.Client{Transport: end{pipe: p}}), otlptracehttp.WithEndpointURL(base+tracesPath),
		otlptracehttp.WithCompression(otlptracehttp.NoCompression), otlptracehttp.WithRetry(otlptracehttp.RetryConfig(retries)))
	if err != nil {
		return nil, abandon(err)
	}
	res := resource.NewWithAttributes(conventions.SchemaURL,
		conventions.ServiceName(ServiceName), conventions.ServiceInstanceID(s.RunID), conventions.ServiceVersion(s.Version))
	options := []sdkmetric.Option{sdkmetric.WithResource(res)}
	for _, e := range exporters {
		options = append(options, sdkmetric.WithReader(
			sdkmetric.NewPeriodicReader(e, sdkmetric.WithInterval(never), sdkmetric.WithTimeout(exportWithin))))
	}
	r := &Run{
		settings: s,
		stop:     make(chan struct{}),
		flushed:  make(chan struct{}),
		meters:   sdkmetric.NewMeterProvider(options...),
		traces: sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSampler(whenWanted{p}),
			sdktrace.WithBatcher(spans, sdktrace.WithBatchTimeout(s.Interval), sdktrace.WithMaxQueueSize(spanQueue))),
	}
	r.tracer = r.traces.Tracer(Scope, trace.WithInstrumentationVersion(s.Version))
	r.sets.settings = s
	if err := r.meter.init(r.meters.Meter(Scope, metric.WithInstrumentationVersion(s.Version)), r); err != nil {
		close(r.flushed)
		return nil, errors.Join(err, r.Close(ctx))
	}
	go r.flush() //nolint:gosec // It ends with Close, not with ctx.
	return r, nil
}

// aggregation is an sdkmetric.AggregationSelector. Instruments bring the bounds of
// explicit buckets.
func (b Buckets) aggregation(kind sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	if b != Explicit && kind == sdkmetric.InstrumentKindHistogram {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: int32(b), MaxScale: histogram.MaxScale}
	}
	return sdkmetric.DefaultAggregationSelector(kind)
}

// never is the interval of the SDK's reader, whose shutdown would cancel an export
// that is under way and report that as an error. flush calls it instead.
const never = 1000 * time.Hour

// exportWithin limits one export of metrics, retries included.
const exportWithin = 4 * time.Second

// flush exports the metrics at each interval until Close.
func (r *Run) flush() {
	defer close(r.flushed)
	tick := time.NewTicker(r.settings.Interval)
	defer tick.Stop()
	refused := false
	for {
		select {
		case <-tick.C:
		case <-r.stop:
			return
		}
		err := r.meters.ForceFlush(context.Background()) // limited by exportWithin
		if err != nil && !refused {
			r.settings.Refused(err)
		}
		refused = err != nil
	}
}

// retries give a pipeline that refuses data some time to recover, but less than
// the time that is allowed for Close at the end of a run.
var retries = struct {
	Enabled                                      bool
	InitialInterval, MaxInterval, MaxElapsedTime time.Duration
}{true, 100 * time.Millisecond, time.Second, 3 * time.Second}

// spanQueue is how many spans may wait to be exported: those of about one second
// at the highest rate that one core can generate.
const spanQueue = 8192

// Close sends what has not been sent yet. It lets an export that is under way
// finish first, unless ctx ends.
func (r *Run) Close(ctx context.Context) error {
	close(r.stop)
	select {
	case <-r.flushed:
	case <-ctx.Done():
	}
	return errors.Join(r.traces.Shutdown(ctx), r.meters.Shutdown(ctx))
}

// whenWanted samples spans only while a consumer is attached.
type whenWanted struct{ pipe *Pipe }

// ShouldSample implements sdktrace.Sampler.
func (w whenWanted) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if w.pipe.wantsTraces() {
		return sdktrace.AlwaysSample().ShouldSample(p)
	}
	return sdktrace.NeverSample().ShouldSample(p)
}

// Description implements sdktrace.Sampler.
func (whenWanted) Description() string { return "WhenWanted" }

// Prepare begins the span of a request that Do sends, and adds its trace context
// to the headers. Use it as completion.Options.Prepare.
func Prepare(ctx context.Context, h http.Header) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return
	}
	x.ctx, x.span = x.run.tracer.Start(ctx, x.run.spanName(x.run.settings.Model), trace.WithSpanKind(trace.SpanKindClient))
	propagation.TraceContext{}.Inject(x.ctx, propagation.HeaderCarrier(h))
}

type exchangeKey struct{}

// exchange is a request under way.
type exchange struct {
	run  *Run
	ctx  context.Context
	span trace.Span
}

// Sender returns a sender that sends through s and measures each request. s has to
// call Prepare.
func (r *Run) Sender(s loadgen.Sender) loadgen.Sender { return sender{r, s} }

type sender struct {
	run  *Run
	next loadgen.Sender
}

// Do implements loadgen.Sender.
func (s sender) Do(ctx context.Context, q *completion.Request, due time.Time) completion.Result {
	x := &exchange{run: s.run, ctx: ctx, span: trace.SpanFromContext(ctx)}
	result := s.next.Do(context.WithValue(ctx, exchangeKey{}, x), q, due)
	set := s.run.sets.get(&result)
	s.run.meter.record(x.ctx, set, &result)
	if x.span.IsRecording() {
		s.run.describe(x.span, set, q, &result)
	}
	x.span.End(trace.WithTimestamp(result.End))
	return result
}

// Count counts a request that has ended or was dropped. Use it as
// loadgen.Config.Record.
func (r *Run) Count(s loadgen.Sample) {
	ctx := context.Background()
	set := r.sets.get(s.Result)
	r.meter.requests.Add(ctx, 1, set.outcome[s.Result.Outcome]...)
	if r.settings.Objective != "" {
		var good int64 // counted as well: no request that met it is 0 %, not unknown
		if s.Good {
			good = 1
		}
		r.meter.goodput.Add(ctx, good, set.slo...)
	}
}

// spanName returns the operation followed by the model, if known: "chat tiny".
func (r *Run) spanName(model string) string {
	return strings.TrimSuffix(operation(r.settings.Endpoint)+" "+model, " ")
}

// describe adds the details of a request to its span.
func (r *Run) describe(span trace.Span, set *set, q *completion.Request, o *completion.Result) {
	if r.settings.Model == "" {
		span.SetName(r.spanName(o.Model))
	}
	span.SetAttributes(set.attributes...)
	span.SetAttributes(outcomeKey.String(o.Outcome.String()), conventions.GenAIRequestStream(q.Stream), scheduleLagKey.Float64(o.Sent.Sub(o.Due).Seconds()))
	if q.MaxTokens > 0 {
		span.SetAttributes(conventions.GenAIRequestMaxTokens(q.MaxTokens))
	}
	if q.Temperature != nil {
		span.SetAttributes(conventions.GenAIRequestTemperature(*q.Temperature))
	}
	if q.Seed != nil {
		span.SetAttributes(conventions.GenAIRequestSeed(int(*q.Seed)))
	}
	if o.ID != "" {
		span.SetAttributes(conventions.GenAIResponseID(o.ID))
	}
	if o.FinishReason != "" {
		span.SetAttributes(conventions.GenAIResponseFinishReasons(o.FinishReason))
	}
	if o.Status != 0 {
		span.SetAttributes(conventions.HTTPResponseStatusCode(o.Status))
	}
	for _, t := range []struct {
		key attribute.Key
		n   int
	}{
		{conventions.GenAIUsageInputTokensKey, o.InputTokens},
		{conventions.GenAIUsageCacheReadInputTokensKey, o.CachedTokens},
		{conventions.GenAIUsageOutputTokensKey, o.OutputTokens},
		{conventions.GenAIUsageReasoningOutputTokensKey, o.ReasoningTokens},
	} {
		if t.n >= 0 {
			span.SetAttributes(t.key.Int(t.n))
		}
	}
	if t := o.Timings; t != nil {
		span.SetAttributes(serverPromptKey.Float64(t.Prompt.Seconds()), serverPredictionKey.Float64(t.Predicted.Seconds()),
			serverQueueKey.Float64(queue(o).Seconds()),
			timingsKey.String(timings.String(t.PromptTokens, t.Prompt, t.PredictedTokens, t.Predicted)))
	}
	for _, e := range []struct {
		name string
		at   time.Time
	}{{eventFirstChunk, o.FirstChunk}, {eventFirstToken, o.FirstToken}, {eventFirstAnswer, o.FirstAnswer}} {
		if !e.at.IsZero() {
			span.AddEvent(e.name, trace.WithTimestamp(e.at))
		}
	}
	if o.Outcome == completion.Failed {
		// The error's text may repeat part of the prompt; its type does not.
		span.SetStatus(codes.Error, o.ErrorType)
	}
}
