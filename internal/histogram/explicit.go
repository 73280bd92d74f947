// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package histogram // import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

import (
	"encoding/json"
	"sort"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// DurationBounds returns the bounds of OpenTelemetry's GenAI conventions for the
// duration of a request, in seconds.
func DurationBounds() []float64 {
	return []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
}

// FirstTokenBounds returns the bounds of the GenAI conventions for the time to the
// first token, in seconds, and beyond them: long prompts, and waits for a slot, take
// longer. All components have the same, since their series are added up.
func FirstTokenBounds() []float64 {
	return []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 25, 50, 100}
}

// PerTokenBounds returns the bounds of the GenAI conventions for the time between two
// tokens, in seconds.
func PerTokenBounds() []float64 {
	return []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}
}

// Explicit counts values between fixed bounds.
type Explicit struct {
	values values
	bounds []float64
	counts []uint64
}

// NewExplicit returns an empty histogram. A value belongs to the first bucket
// whose bound is not below it, or to one above all bounds. The bounds ascend and
// are not changed afterwards.
func NewExplicit(bounds []float64) *Explicit {
	return &Explicit{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

// Add counts a value, which must not be NaN. It returns the index of its bucket,
// and so of the exemplar that it replaces: one is kept for each bucket.
func (h *Explicit) Add(value float64) (exemplar int) {
	h.values.add(value)
	i := sort.SearchFloat64s(h.bounds, value)
	h.counts[i]++
	return i
}

// Emit appends a point to a metric that has no points of another kind.
func (h *Explicit) Emit(to pmetric.Metric, start, now pcommon.Timestamp) Point {
	if to.Type() == pmetric.MetricTypeEmpty {
		to.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	}
	p := to.Histogram().DataPoints().AppendEmpty()
	h.values.emit(p, start, now)
	p.ExplicitBounds().FromRaw(h.bounds)
	p.BucketCounts().FromRaw(h.counts)
	return p
}

var (
	_ json.Marshaler   = (*Explicit)(nil)
	_ json.Unmarshaler = (*Explicit)(nil)
)

// MarshalJSON implements json.Marshaler. The bounds are not part of it.
func (h *Explicit) MarshalJSON() ([]byte, error) {
	return json.Marshal(stored{values: h.values, Counts: h.counts})
}

// UnmarshalJSON implements json.Unmarshaler for a histogram from NewExplicit with
// the same bounds.
func (h *Explicit) UnmarshalJSON(b []byte) error {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s.Exponential || len(s.Counts) != len(h.counts) {
		return errOtherBuckets
	}
	h.values, h.counts = s.values, s.Counts
	return nil
}
