package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"sort"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
)

// histogram counts durations in seconds.
type histogram struct {
	name, description string
	undeclared.Values
	buckets [len(undeclared.DurationBounds) + 1]uint64
}

func (h *histogram) record(seconds float64) {
	h.Add(seconds)
	h.buckets[sort.SearchFloat64s(undeclared.DurationBounds[:], seconds)]++
}

func (h *histogram) emit(start, now pcommon.Timestamp, to pmetric.MetricSlice) {
	m := to.AppendEmpty()
	m.SetName(h.name)
	m.SetDescription(h.description)
	m.SetUnit("s")
	e := m.SetEmptyHistogram()
	e.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := e.DataPoints().AppendEmpty()
	h.Emit(d, start, now)
	d.ExplicitBounds().FromRaw(undeclared.DurationBounds[:])
	d.BucketCounts().FromRaw(h.buckets[:])
}
