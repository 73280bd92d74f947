// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package otlpsink

import (
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Distribution is what a histogram says, with fixed or exponential buckets.
type Distribution struct {
	Count         uint64
	Sum, Min, Max float64
	// Bounds are between the buckets: Counts[i] values are over Bounds[i-1], if
	// there is such a bound, and up to Bounds[i], if there is one.
	Bounds    []float64
	Counts    []uint64
	Exemplars []Exemplar
}

// Exemplar is one value behind a histogram, and the span that it is of.
type Exemplar struct {
	Value           float64
	Time            time.Time
	TraceID, SpanID string
	Attributes      map[string]string
}

// Quantile gives the bucket that the q-quantile is in, which is as much as a
// backend knows: it lies over low and is high at most.
func (d *Distribution) Quantile(q float64) (low, high float64) {
	rank := uint64(math.Ceil(q * float64(d.Count)))
	var below uint64
	for i, n := range d.Counts {
		if below += n; below < max(rank, 1) {
			continue
		}
		low, high = 0, math.Inf(1)
		if i > 0 {
			low = d.Bounds[i-1]
		}
		if i < len(d.Bounds) {
			high = d.Bounds[i]
		}
		return low, high
	}
	return math.NaN(), math.NaN()
}

func readHistogram(d pmetric.HistogramDataPoint) *Distribution {
	return &Distribution{
		Count: d.Count(), Sum: d.Sum(), Min: d.Min(), Max: d.Max(),
		Bounds: d.ExplicitBounds().AsRaw(), Counts: d.BucketCounts().AsRaw(),
		Exemplars: readExemplars(d.Exemplars()),
	}
}

func readExponential(d pmetric.ExponentialHistogramDataPoint) *Distribution {
	out := &Distribution{
		Count: d.Count(), Sum: d.Sum(), Min: d.Min(), Max: d.Max(),
		Counts:    append([]uint64{d.ZeroCount()}, d.Positive().BucketCounts().AsRaw()...),
		Exemplars: readExemplars(d.Exemplars()),
	}
	for i := range out.Counts {
		exponent := float64(d.Positive().Offset()) + float64(i)
		out.Bounds = append(out.Bounds, math.Exp2(exponent*math.Exp2(-float64(d.Scale()))))
	}
	return out
}

func readExemplars(all pmetric.ExemplarSlice) []Exemplar {
	var out []Exemplar
	for _, e := range all.All() {
		out = append(out, Exemplar{
			Value: e.DoubleValue(), Time: e.Timestamp().AsTime(),
			TraceID: e.TraceID().String(), SpanID: e.SpanID().String(), Attributes: texts(e.FilteredAttributes()),
		})
	}
	return out
}
