// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"
)

const (
	// provider is the value of gen_ai.provider.name.
	provider = "llamacpp"
	// attributeObserver tells these series from those that the log's connector has of
	// requests around the proxy.
	attributeObserver = "llamacpp.observer"
	observer          = "proxy"

	attributeClient = "llamacpp.client.name"
)

// labels tell the series of one metric apart. Those that are empty are left out.
type labels struct {
	operation, model, client, failure string // of a completion
	outcome                           proxy.Outcome
	tokens                            metadata.AttributeGenAiTokenType
	method, route                     string // of an HTTP request
	status                            int
}

// distribution is a metric that is a histogram.
type distribution struct {
	name, description, unit string
	bounds                  []float64
	enabled                 func(*MetricsConfig) bool
}

// The bounds of the conventions, where they have some.
var (
	firstTokenBounds = histogram.FirstTokenBounds()
	perTokenBounds   = histogram.PerTokenBounds()
	httpBounds       = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
)

var (
	requestDuration = &distribution{
		name:        "gen_ai.server.request.duration",
		description: histogram.RequestDuration,
		unit:        "s", bounds: histogram.DurationBounds(),
		enabled: func(c *MetricsConfig) bool { return c.RequestDuration.Enabled },
	}
	timeToFirstToken = &distribution{
		name:        "gen_ai.server.time_to_first_token",
		description: histogram.TimeToFirstToken,
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimeToFirstToken.Enabled },
	}
	timePerOutputToken = &distribution{
		name:        "gen_ai.server.time_per_output_token",
		description: histogram.TimePerOutputToken,
		unit:        "s", bounds: perTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimePerOutputToken.Enabled },
	}
	queueDuration = &distribution{
		name:        "llamacpp.request.queue.duration",
		description: histogram.QueueDuration,
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestQueueDuration.Enabled },
	}
	stallDuration = &distribution{
		name:        "llamacpp.request.stall.duration",
		description: "The longest time between two parts of a streamed answer that have text: how long its reader saw nothing move.",
		unit:        "s", bounds: perTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestStallDuration.Enabled },
	}
	httpDuration = &distribution{
		name:        "http.server.request.duration",
		description: "How long an HTTP request of any kind took, from its arrival at the proxy to the last byte of its answer.",
		unit:        "s", bounds: httpBounds,
		enabled: func(c *MetricsConfig) bool { return c.HTTPRequestDuration.Enabled },
	}
)

// distributions in the order in which they are emitted.
var distributions = [...]*distribution{requestDuration, timeToFirstToken, timePerOutputToken, queueDuration, stallDuration, httpDuration}

// statistics of one server, or of one model of a router, cumulative since start.
type statistics struct {
	start   pcommon.Timestamp
	size    int32 // of exponential histograms; 0 for fixed buckets
	limit   int   // of the series of one metric
	builder *metadata.MetricsBuilder

	requests, tokens, cached, reasoning map[labels]int64
	unread                              int64
	histograms                          map[*distribution]map[labels]*histogram.Series
}

func newStatistics(size int32, limit int) *statistics {
	s := &statistics{
		start: now(), size: size, limit: limit,
		requests: map[labels]int64{}, tokens: map[labels]int64{}, cached: map[labels]int64{}, reasoning: map[labels]int64{},
		histograms: map[*distribution]map[labels]*histogram.Series{},
	}
	for _, d := range distributions {
		s.histograms[d] = map[labels]*histogram.Series{}
	}
	return s
}

// expect makes the series of a model before its first request, since a rate needs a
// point before it.
func (s *statistics) expect(model string) {
	for _, operation := range []string{"chat", "text_completion"} {
		l := labels{operation: operation, model: model}
		s.count(s.requests, l, 0) // completed ones
		s.countTokens(l, 0, 0, 0, 0)
		for _, d := range distributions[:] {
			if d != httpDuration {
				s.series(d, l)
			}
		}
	}
}

// place returns the labels under which a metric counts: there, unless it has too many
// series already.
func place[V any](in map[labels]V, there labels, limit int) labels {
	if _, ok := in[there]; ok || len(in) < limit {
		return there
	}
	if there.model != "" {
		there.model = otherName
	}
	if there.client != "" {
		there.client = otherName
	}
	return there
}

func (s *statistics) series(d *distribution, l labels) *histogram.Series {
	in := s.histograms[d]
	l = place(in, l, s.limit)
	one := in[l]
	if one == nil {
		one = histogram.NewSeries(d.bounds, s.size)
		in[l] = one
	}
	return one
}

func (s *statistics) count(in map[labels]int64, l labels, n int) {
	in[place(in, l, s.limit)] += int64(max(n, 0)) // -1 is unknown
}

func (s *statistics) countTokens(l labels, input, output, cached, reasoning int) {
	s.count(s.cached, l, cached)
	s.count(s.reasoning, l, reasoning)
	l.tokens = metadata.AttributeGenAiTokenTypeInput
	s.count(s.tokens, l, input)
	l.tokens = metadata.AttributeGenAiTokenTypeOutput
	s.count(s.tokens, l, output)
}

// ended counts a request that has ended. e links it to its trace, unless it is nil.
func (s *statistics) ended(m *measured, e *histogram.Exemplar) {
	took := m.Result.End.Sub(m.Arrived)
	s.series(httpDuration, labels{method: method(m.Method), route: m.Route, status: m.Status, failure: m.ErrorType}).Record(took.Seconds(), e)
	if !m.Completion {
		return
	}
	l := labels{operation: operation(m.Endpoint), model: m.model, client: m.client}
	failed := l
	failed.failure = m.ErrorType
	of := failed
	of.outcome = m.Outcome
	s.count(s.requests, of, 1)
	if m.Unread {
		s.unread++
	}
	s.series(requestDuration, failed).Record(took.Seconds(), e)
	r := &m.Result
	s.countTokens(l, r.InputTokens, r.OutputTokens, r.CachedTokens, r.ReasoningTokens)
	if d, ok := m.Waited(); ok {
		s.series(queueDuration, l).Record(d.Seconds(), e)
	}
	if first, ok := m.FirstToken(); ok {
		s.series(timeToFirstToken, l).Record(first.Sub(m.Arrived).Seconds(), e)
	}
	if m.Outcome != proxy.Completed {
		return
	}
	if d, ok := m.TimePerOutputToken(); ok {
		s.series(timePerOutputToken, l).Record(d.Seconds(), e)
	}
	if m.LongestGap > 0 {
		s.series(stallDuration, l).Record(m.LongestGap.Seconds(), e)
	}
}

// method is the value of http.request.method.
func method(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE":
		return m
	}
	return "_OTHER"
}

// record adds the points of the declared metrics to the builder.
func (s *statistics) record(at pcommon.Timestamp) {
	mb := s.builder
	for l, n := range s.requests {
		mb.RecordLlamacppProxyRequestsDataPoint(at, n, l.operation, metadata.MapAttributeLlamacppRequestOutcome[l.outcome.String()], l.options()...)
	}
	for l, n := range s.tokens {
		mb.RecordLlamacppProxyTokensDataPoint(at, n, l.operation, l.tokens, l.options()...)
	}
	for l, n := range s.cached {
		mb.RecordLlamacppProxyTokensCachedDataPoint(at, n, l.operation, l.options()...)
	}
	for l, n := range s.reasoning {
		mb.RecordLlamacppProxyTokensReasoningDataPoint(at, n, l.operation, l.options()...)
	}
	mb.RecordLlamacppProxyAnswersUnreadDataPoint(at, s.unread)
}

func (l labels) options() []metadata.MetricAttributeOption {
	var all []metadata.MetricAttributeOption
	if l.model != "" {
		all = append(all, metadata.WithGenAiRequestModelMetricAttribute(l.model))
	}
	if l.client != "" {
		all = append(all, metadata.WithLlamacppClientNameMetricAttribute(l.client))
	}
	if l.failure != "" {
		all = append(all, metadata.WithErrorTypeMetricAttribute(l.failure))
	}
	return all
}

// emit appends the points of the distributions.
func (s *statistics) emit(to pmetric.MetricSlice, cfg *MetricsConfig, at pcommon.Timestamp) {
	for _, d := range distributions {
		all := s.histograms[d]
		if len(all) == 0 || !d.enabled(cfg) {
			continue
		}
		m := to.AppendEmpty()
		m.SetName(d.name)
		m.SetDescription(d.description)
		m.SetUnit(d.unit)
		for l, one := range all {
			l.describe(one.Emit(m, s.start, at))
		}
	}
}

// describe adds the attributes of a point of a distribution.
func (l labels) describe(a pcommon.Map) {
	put := func(key, value string) {
		if value != "" {
			a.PutStr(key, value)
		}
	}
	put(string(conventions.ErrorTypeKey), l.failure)
	if l.method != "" {
		put(string(conventions.HTTPRequestMethodKey), l.method)
		put(string(conventions.HTTPRouteKey), l.route)
		if l.status > 0 {
			a.PutInt(string(conventions.HTTPResponseStatusCodeKey), int64(l.status))
		}
		return
	}
	put(string(conventions.GenAIOperationNameKey), l.operation)
	put(string(conventions.GenAIProviderNameKey), provider)
	put(string(conventions.GenAIRequestModelKey), l.model)
	put(attributeClient, l.client)
	put(attributeObserver, observer)
}

// exemplarOf links a request's values to its span, if it has one.
func exemplarOf(m *measured) *histogram.Exemplar {
	if !m.sampled || m.span.IsEmpty() {
		return nil
	}
	return &histogram.Exemplar{At: time.Now(), Trace: m.trace, Span: m.span}
}
