// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/lightstep/go-expohisto/structure"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
)

const (
	// maxExemplars of an exponential histogram; one with fixed buckets keeps one a bucket.
	maxExemplars = 10
	// exemplarLife is how long an exemplar is sent: where Prometheus scrapes what
	// was sent last, it has to find those since its last scrape.
	exemplarLife = time.Minute
)

// distribution is what a histogram is of.
type distribution struct {
	name, description, unit string
	bounds                  []float64
	enabled                 func(*MetricsConfig) bool
}

// The bounds of the GenAI conventions, where they have some.
var (
	durationBounds   = undeclared.DurationBounds[:]
	firstTokenBounds = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	perTokenBounds   = []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}
	tokenBounds      = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
	speedBounds      = []float64{1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 20000, 50000}
	ratioBounds      = []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1}
)

var (
	requestDuration = &distribution{
		name:        "gen_ai.server.request.duration",
		description: "How long a request held its slot: prompt and generation, as the server measured them. The wait for a slot, tokenizing and the network are left out. A request without the server's measurement (error.type is set) counts from its first line in the log to its last.",
		unit:        "s", bounds: durationBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestDuration.Enabled },
	}
	timeToFirstToken = &distribution{
		name:        "gen_ai.server.time_to_first_token",
		description: "Time from the beginning of a request's prompt in its slot to the first token, as the server measured it, of requests that completed. The wait for a slot, tokenizing and the network are left out.",
		unit:        "s", bounds: firstTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimeToFirstToken.Enabled },
	}
	timePerOutputToken = &distribution{
		name:        "gen_ai.server.time_per_output_token",
		description: "Mean time of a request between two tokens after the first, as the server measured it, of requests that completed with at least two.",
		unit:        "s", bounds: perTokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.TimePerOutputToken.Enabled },
	}
	requestTokens = &distribution{
		name:        "llamacpp.request.tokens",
		description: "Tokens of a request that completed: input is its whole prompt, what was in the cache included unless the context was shifted, output the answer.",
		unit:        "{token}", bounds: tokenBounds,
		enabled: func(c *MetricsConfig) bool { return c.RequestTokens.Enabled },
	}
	requestCachedTokens = &distribution{
		name:        "llamacpp.request.cached_tokens",
		description: "Tokens of a request's prompt that were in the cache, of requests that completed and where the log tells.",
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

// histogram counts values of one series.
type histogram struct {
	undeclared.Values
	bounds    []float64 // of fixed buckets
	counts    []uint64
	buckets   *structure.Histogram[float64] // instead of them
	size      int32                         // how many of these there may be
	exemplars map[int]exemplar
}

// exemplar is one request behind a histogram.
type exemplar struct {
	value      float64
	at         time.Time
	trace      pcommon.TraceID
	span       pcommon.SpanID
	slot, task int
}

// newHistogram has fixed buckets, unless exponential says how many others.
func newHistogram(d *distribution, exponential *ExponentialConfig) *histogram {
	h := &histogram{}
	if exponential != nil {
		h.size = exponential.MaxSize
		h.buckets = structure.NewFloat64(structure.NewConfig(structure.WithMaxSize(exponential.MaxSize)))
	} else {
		h.bounds = d.bounds
		h.counts = make([]uint64, len(d.bounds)+1)
	}
	return h
}

func (h *histogram) record(v float64, e *exemplar) {
	h.Add(v)
	place := int(h.Count % maxExemplars)
	if h.buckets != nil {
		h.buckets.Update(v)
	} else {
		place = sort.SearchFloat64s(h.bounds, v)
		h.counts[place]++
	}
	if e != nil {
		if h.exemplars == nil {
			h.exemplars = map[int]exemplar{}
		}
		x := *e
		x.value = v
		h.exemplars[place] = x
	}
}

// emit writes a point.
func (h *histogram) emit(m pmetric.Metric, start, now pcommon.Timestamp, attributes func(pcommon.Map)) {
	if h.buckets == nil {
		if m.Type() == pmetric.MetricTypeEmpty {
			m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		}
		d := m.Histogram().DataPoints().AppendEmpty()
		h.Emit(d, start, now)
		attributes(d.Attributes())
		h.emitExemplars(d.Exemplars(), now.AsTime())
		d.ExplicitBounds().FromRaw(h.bounds)
		d.BucketCounts().FromRaw(h.counts)
		return
	}
	if m.Type() == pmetric.MetricTypeEmpty {
		m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	}
	d := m.ExponentialHistogram().DataPoints().AppendEmpty()
	h.Emit(d, start, now)
	attributes(d.Attributes())
	h.emitExemplars(d.Exemplars(), now.AsTime())
	d.SetScale(h.buckets.Scale())
	d.SetZeroCount(h.buckets.ZeroCount())
	in := h.buckets.Positive()
	d.Positive().SetOffset(in.Offset())
	d.Positive().BucketCounts().EnsureCapacity(int(in.Len()))
	for i := range in.Len() {
		d.Positive().BucketCounts().Append(in.At(i))
	}
}

func (h *histogram) emitExemplars(to pmetric.ExemplarSlice, now time.Time) {
	for _, place := range slices.Sorted(maps.Keys(h.exemplars)) {
		e := h.exemplars[place]
		if now.Sub(e.at) > exemplarLife {
			delete(h.exemplars, place)
			continue
		}
		x := to.AppendEmpty()
		x.SetTimestamp(pcommon.NewTimestampFromTime(e.at))
		x.SetDoubleValue(e.value)
		x.SetTraceID(e.trace)
		x.SetSpanID(e.span)
		x.FilteredAttributes().PutInt(attributeSlot, int64(e.slot))
		x.FilteredAttributes().PutInt(attributeTask, int64(e.task))
	}
}

// stored is the form in which a histogram outlives the collector.
type stored struct {
	undeclared.Values
	Counts []uint64 `json:"counts"`
	// Of exponential buckets, which start at Offset.
	Exponential bool   `json:"exponential,omitempty"`
	Scale       int32  `json:"scale,omitempty"`
	Offset      int32  `json:"offset,omitempty"`
	Zero        uint64 `json:"zero,omitempty"`
	Size        int32  `json:"size,omitempty"` // how many there may be
}

var _ json.Marshaler = (*histogram)(nil)

// MarshalJSON implements json.Marshaler.
func (h *histogram) MarshalJSON() ([]byte, error) {
	s := stored{Values: h.Values, Counts: h.counts}
	if h.buckets != nil {
		in := h.buckets.Positive()
		s.Exponential, s.Scale, s.Offset, s.Zero, s.Size = true, h.buckets.Scale(), in.Offset(), h.buckets.ZeroCount(), h.size
		for i := range in.Len() {
			s.Counts = append(s.Counts, in.At(i))
		}
	}
	return json.Marshal(s)
}

var errOtherBuckets = errors.New("its buckets are others than the configured ones")

// restore takes the stored values into a new histogram.
func (h *histogram) restore(b []byte) error {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s.Exponential != (h.buckets != nil) || s.Size != h.size || !s.Exponential && len(s.Counts) != len(h.counts) {
		return errOtherBuckets
	}
	h.Values = s.Values
	if h.buckets == nil {
		h.counts = s.Counts
		return nil
	}
	h.buckets.UpdateByIncr(0, s.Zero)
	for i, n := range s.Counts {
		// A value within the bucket, on the scale on which it was. The first and
		// the last lie outwards, so that a finer scale, which would be taken for
		// a reset, fits no better than it did.
		within := 0.5
		if i == 0 {
			within = 0.25
		} else if i == len(s.Counts)-1 {
			within = 0.75
		}
		if n > 0 {
			h.buckets.UpdateByIncr(math.Exp2((float64(s.Offset)+float64(i)+within)*math.Exp2(-float64(s.Scale))), n)
		}
	}
	return nil
}
