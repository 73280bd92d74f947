package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"sort"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// bounds are those of the GenAI conventions for durations, in seconds.
var bounds = []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}

// histogram counts durations in seconds.
type histogram struct {
	name, description string
	buckets           [15]uint64 // one more than bounds
	count             uint64
	sum, lowest, most float64
}

func (h *histogram) record(seconds float64) {
	if h.count == 0 || seconds < h.lowest {
		h.lowest = seconds
	}
	h.most = max(h.most, seconds)
	h.buckets[sort.SearchFloat64s(bounds, seconds)]++
	h.count++
	h.sum += seconds
}

// emit adds the histogram; mdatagen cannot declare one.
func (h *histogram) emit(start, now pcommon.Timestamp, to pmetric.MetricSlice) {
	m := to.AppendEmpty()
	m.SetName(h.name)
	m.SetDescription(h.description)
	m.SetUnit("s")
	e := m.SetEmptyHistogram()
	e.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := e.DataPoints().AppendEmpty()
	d.SetStartTimestamp(start)
	d.SetTimestamp(now)
	d.SetCount(h.count)
	d.SetSum(h.sum)
	if h.count > 0 {
		d.SetMin(h.lowest)
		d.SetMax(h.most)
	}
	d.ExplicitBounds().FromRaw(bounds)
	d.BucketCounts().FromRaw(h.buckets[:])
}
