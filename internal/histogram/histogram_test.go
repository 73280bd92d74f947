// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package histogram

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

func TestExplicit_ABoundBelongsToTheBucketBelowIt(t *testing.T) {
	h := NewExplicit([]float64{1, 2})
	for value, bucket := range map[float64]int{0.5: 0, 1: 0, 1.5: 1, 2: 1, 3: 2} {
		assert.Equal(t, bucket, h.Add(value), value)
	}
	m := pmetric.NewMetric()
	h.Emit(m, 1, 2)
	assert.Equal(t, pmetric.AggregationTemporalityCumulative, m.Histogram().AggregationTemporality())
	p := m.Histogram().DataPoints().At(0)
	assert.Equal(t, []float64{1, 2}, p.ExplicitBounds().AsRaw())
	assert.Equal(t, []uint64{2, 2, 1}, p.BucketCounts().AsRaw())
	assert.EqualValues(t, 1, p.StartTimestamp())
	assert.EqualValues(t, 2, p.Timestamp())
	assert.EqualValues(t, 5, p.Count())
	assert.InDelta(t, 8, p.Sum(), 0)
	assert.InDelta(t, 0.5, p.Min(), 0)
	assert.InDelta(t, 3, p.Max(), 0)
}

func TestExplicit_AnEmptyOneHasNoLeastAndNoGreatest(t *testing.T) {
	m := pmetric.NewMetric()
	NewExplicit(DurationBounds()).Emit(m, 1, 2)
	p := m.Histogram().DataPoints().At(0)
	assert.False(t, p.HasMin())
	assert.False(t, p.HasMax())
	assert.Zero(t, p.Count())
	assert.Equal(t, make([]uint64, len(DurationBounds())+1), p.BucketCounts().AsRaw())
}

func TestExplicit_WhatWasEmittedDoesNotChange(t *testing.T) {
	h := NewExplicit([]float64{1})
	m := pmetric.NewMetric()
	h.Emit(m, 1, 2)
	h.Add(0)
	h.Emit(m, 1, 3)
	assert.Equal(t, []uint64{0, 0}, m.Histogram().DataPoints().At(0).BucketCounts().AsRaw())
	assert.Equal(t, []uint64{1, 0}, m.Histogram().DataPoints().At(1).BucketCounts().AsRaw())
}

func TestExplicit_GoesOnFromWhatWasStored(t *testing.T) {
	h := NewExplicit([]float64{1, 2})
	h.Add(0.5)
	h.Add(5)
	b, err := json.Marshal(h)
	require.NoError(t, err)
	again := NewExplicit([]float64{1, 2})
	require.NoError(t, json.Unmarshal(b, again))
	assert.Equal(t, h, again)
}

func TestHistogram_OtherBucketsAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ from, to any }{
		"fewer bounds":               {NewExplicit([]float64{1}), NewExplicit([]float64{1, 2})},
		"exponential to explicit":    {NewExponential(2), NewExplicit([]float64{1})},
		"explicit to exponential":    {NewExplicit([]float64{1}), NewExponential(2)},
		"another number of buckets":  {NewExponential(160), NewExponential(320)},
		"what is not a histogram":    {[]int{}, NewExplicit([]float64{1})},
		"nor an exponential one":     {[]int{}, NewExponential(2)},
		"nothing, to an explicit":    {struct{}{}, NewExplicit([]float64{1})},
		"nothing, to an exponential": {struct{}{}, NewExponential(2)},
	} {
		b, err := json.Marshal(test.from)
		require.NoError(t, err, name)
		assert.Error(t, json.Unmarshal(b, test.to), name)
	}
}

func TestExponential_ValuesLieInTheirBuckets(t *testing.T) {
	h := NewExponential(160)
	for range 3 {
		h.Add(1.5)
	}
	h.Add(0)
	h.Add(40)
	m := pmetric.NewMetric()
	h.Emit(m, 1, 2)
	assert.Equal(t, pmetric.AggregationTemporalityCumulative, m.ExponentialHistogram().AggregationTemporality())
	p := m.ExponentialHistogram().DataPoints().At(0)
	assert.EqualValues(t, 1, p.ZeroCount())
	assert.EqualValues(t, 5, p.Count())
	assert.InDelta(t, 44.5, p.Sum(), 0)
	assert.InDelta(t, 0, p.Min(), 0)
	assert.InDelta(t, 40, p.Max(), 0)
	counts := p.Positive().BucketCounts()
	assert.EqualValues(t, 3, counts.At(0))
	assert.EqualValues(t, 1, counts.At(counts.Len()-1))
}

// Values that are near each other would have a finer scale than Prometheus has.
func TestExponential_IsNoFinerThanNativeHistograms(t *testing.T) {
	h := NewExponential(160)
	values := []float64{0.0295, 0.02951, 0.030, 0.0301, 0.0301, 0.0313}
	for _, v := range values {
		h.Add(v)
	}
	m := pmetric.NewMetric()
	h.Emit(m, 1, 2)
	p := m.ExponentialHistogram().DataPoints().At(0)
	require.EqualValues(t, 8, p.Scale())
	want := map[int32]uint64{}
	for _, v := range values {
		want[int32(math.Ceil(math.Log2(v)*256))-1]++
	}
	got := map[int32]uint64{}
	for i, n := range p.Positive().BucketCounts().All() {
		if n > 0 {
			got[p.Positive().Offset()+int32(i)] = n
		}
	}
	assert.Equal(t, want, got)
}

func TestExponential_ExemplarsTakeTurns(t *testing.T) {
	h, seen := NewExponential(160), map[int]int{}
	for range 100 {
		seen[h.Add(1)]++
	}
	assert.Len(t, seen, 10)
	for place, n := range seen {
		assert.Equal(t, 10, n, place)
	}
}

func TestExponential_RestoredBucketsAreTheSame(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 5))
		size := int32(2 + random.IntN(20))
		h := NewExponential(size)
		for range random.IntN(300) {
			v := random.ExpFloat64()
			for range random.IntN(8) {
				v *= 7
			}
			if random.IntN(20) == 0 {
				v = 0
			}
			h.Add(v)
		}
		b, err := json.Marshal(h)
		require.NoError(t, err)
		again := NewExponential(size)
		require.NoError(t, json.Unmarshal(b, again))
		want, got := pmetric.NewMetric(), pmetric.NewMetric()
		h.Emit(want, 1, 2)
		again.Emit(got, 1, 2)
		w, g := want.ExponentialHistogram().DataPoints().At(0), got.ExponentialHistogram().DataPoints().At(0)
		what := fmt.Sprint("seed ", seed, " size ", size)
		assert.Equal(t, w.Scale(), g.Scale(), what)
		assert.Equal(t, w.Positive().Offset(), g.Positive().Offset(), what)
		assert.Equal(t, w.Positive().BucketCounts().AsRaw(), g.Positive().BucketCounts().AsRaw(), what)
		assert.Equal(t, w.ZeroCount(), g.ZeroCount(), what)
		assert.Equal(t, w.Count(), g.Count(), what)
		assert.InDelta(t, w.Sum(), g.Sum(), 0, what)
		assert.Equal(t, w.HasMin(), g.HasMin(), what)
	}
}

// kind of a histogram.
type kind interface {
	Add(value float64) int
	Emit(to pmetric.Metric, start, now pcommon.Timestamp) Point
}

var kinds = map[string]func() kind{
	"explicit":    func() kind { return NewExplicit(DurationBounds()) },
	"exponential": func() kind { return NewExponential(160) },
}

// durations in seconds, as those of requests are spread.
func durations() []float64 {
	random, out := rand.New(rand.NewPCG(1, 1)), make([]float64, 1024)
	for i := range out {
		out[i] = math.Exp(random.NormFloat64())
	}
	return out
}

func BenchmarkAdd(b *testing.B) {
	for name, empty := range kinds {
		b.Run(name, func(b *testing.B) {
			h, values := empty(), durations()
			b.ReportAllocs()
			for i := range b.N {
				h.Add(values[i%len(values)])
			}
		})
	}
}

func BenchmarkEmit(b *testing.B) {
	for name, empty := range kinds {
		b.Run(name, func(b *testing.B) {
			h := empty()
			for _, v := range durations() {
				h.Add(v)
			}
			b.ReportAllocs()
			for b.Loop() {
				h.Emit(pmetric.NewMetric(), 1, 2)
			}
		})
	}
}
