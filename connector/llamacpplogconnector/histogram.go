// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
)

// exemplarLife is how long an exemplar is sent. Prometheus, which sees only what
// was sent last before its scrape, has to find all those since the scrape
// before.
const exemplarLife = time.Minute

// distribution is a metric that is a histogram.
type distribution struct {
	name, description, unit string
	bounds                  []float64
	enabled                 func(*MetricsConfig) bool
}

// The bounds of the GenAI conventions, where they have some.
var (
	durationBounds   = histogram.DurationBounds()
	firstTokenBounds = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	perTokenBounds   = []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}
	tokenBounds      = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
	speedBounds      = []float64{1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 20000, 50000}
	ratioBounds      = []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1}
)

var (
	requestDuration = &distribution{
		name:        "gen_ai.server.request.duration",
		description: "How long a request held its slot: prompt and generation, as the server measured them. The wait for a slot, tokenizing and the network are left out. A request without the server's measurement (error.type is set) counts from its first line in the log to its last. Requests that a proxy of this collector measured are not in it.",
		unit:        "s", bounds: durationBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestDuration.Enabled },
	}
	timeToFirstToken = &distribution{
		name:        "gen_ai.server.time_to_first_token",
		description: "Time from the beginning of a request's prompt in its slot to the first token, as the server measured it, of requests that completed. The wait for a slot, tokenizing and the network are left out. Requests that a proxy of this collector measured are not in it.",
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimeToFirstToken.Enabled },
	}
	timePerOutputToken = &distribution{
		name:        "gen_ai.server.time_per_output_token",
		description: "Mean time of a request between two tokens after the first, as the server measured it, of requests that completed with at least two. Requests that a proxy of this collector measured are not in it.",
		unit:        "s", bounds: perTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimePerOutputToken.Enabled },
	}
	requestTokens = &distribution{
		name:        "llamacpp.request.tokens",
		description: "Tokens of a request that completed. Input is its whole prompt, with the tokens that came from the cache unless the context was shifted; output is the answer.",
		unit:        "{token}", bounds: tokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestTokens.Enabled },
	}
	requestCachedTokens = &distribution{
		name:        "llamacpp.request.cached_tokens",
		description: "Tokens of a request's prompt that came from the cache, of requests that completed and whose log says it.",
		unit:        "{token}", bounds: tokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestCachedTokens.Enabled },
	}
	requestPromptSpeed = &distribution{
		name:        "llamacpp.request.prompt.speed",
		description: "Tokens of a request's prompt computed per second, without cached ones.",
		unit:        "{token}/s", bounds: speedBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestPromptSpeed.Enabled },
	}
	requestGenerationSpeed = &distribution{
		name:        "llamacpp.request.generation.speed",
		description: "Tokens of a request generated per second after the first, of requests that completed with at least two.",
		unit:        "{token}/s", bounds: speedBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestGenerationSpeed.Enabled },
	}
	requestDraftAcceptance = &distribution{
		name:        "llamacpp.request.draft.acceptance",
		description: "Part of a request's drafted tokens that were accepted, of requests with speculative decoding.",
		unit:        "1", bounds: ratioBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestDraftAcceptance.Enabled },
	}
)

// buckets are a *histogram.Explicit or *histogram.Exponential.
type buckets interface {
	Add(value float64) (exemplar int)
	Emit(to pmetric.Metric, start, now pcommon.Timestamp) histogram.Point
	json.Marshaler
	json.Unmarshaler
}

// series is one series of a distribution.
type series struct {
	buckets
	exemplars map[int]exemplar
}

// exemplar is one request behind a series.
type exemplar struct {
	value      float64
	at         time.Time
	trace      pcommon.TraceID
	span       pcommon.SpanID
	slot, task int
}

// newSeries returns an empty series with the distribution's buckets or, if
// exponential is not nil, with exponential ones.
func newSeries(d *distribution, exponential *ExponentialConfig) *series {
	if exponential != nil {
		return &series{buckets: histogram.NewExponential(exponential.MaxSize)}
	}
	return &series{buckets: histogram.NewExplicit(d.bounds)}
}

// record counts a value. e becomes its exemplar, unless it is nil.
func (s *series) record(value float64, e *exemplar) {
	place := s.Add(value)
	if e == nil {
		return
	}
	if s.exemplars == nil {
		s.exemplars = map[int]exemplar{}
	}
	x := *e
	x.value = value
	s.exemplars[place] = x
}

// emit appends a point and returns its attributes, to be filled.
func (s *series) emit(to pmetric.Metric, start, now pcommon.Timestamp) pcommon.Map {
	p := s.Emit(to, start, now)
	for _, place := range slices.Sorted(maps.Keys(s.exemplars)) {
		e := s.exemplars[place]
		if now.AsTime().Sub(e.at) > exemplarLife {
			delete(s.exemplars, place)
			continue
		}
		x := p.Exemplars().AppendEmpty()
		x.SetTimestamp(pcommon.NewTimestampFromTime(e.at))
		x.SetDoubleValue(e.value)
		x.SetTraceID(e.trace)
		x.SetSpanID(e.span)
		x.FilteredAttributes().PutInt(attributeSlot, int64(e.slot))
		x.FilteredAttributes().PutInt(attributeTask, int64(e.task))
	}
	return p.Attributes()
}
