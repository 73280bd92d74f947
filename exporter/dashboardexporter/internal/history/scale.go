// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"iter"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
)

// coarsened returns the metrics with exponential histograms of at most the finest scale
// of native ones. The conversion does that, too, but that of the version used here puts
// what follows empty buckets one bucket too low. The metrics are not changed: others
// have them as well.
func coarsened(md pmetric.Metrics) pmetric.Metrics {
	fine := false
	for p := range exponential(md) {
		if p.Scale() > histogram.MaxScale {
			fine = true
			break
		}
	}
	if !fine {
		return md
	}
	own := pmetric.NewMetrics()
	md.CopyTo(own)
	for p := range exponential(own) {
		if by := p.Scale() - histogram.MaxScale; by > 0 {
			p.SetScale(histogram.MaxScale)
			merge(p.Positive(), by)
			merge(p.Negative(), by)
		}
	}
	return own
}

// exponential are the points of all exponential histograms.
func exponential(md pmetric.Metrics) iter.Seq[pmetric.ExponentialHistogramDataPoint] {
	return func(yield func(pmetric.ExponentialHistogramDataPoint) bool) {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Type() != pmetric.MetricTypeExponentialHistogram {
						continue
					}
					for _, p := range m.ExponentialHistogram().DataPoints().All() {
						if !yield(p) {
							return
						}
					}
				}
			}
		}
	}
}

func merge(b pmetric.ExponentialHistogramDataPointBuckets, by int32) {
	offset, counts := histogram.Merge(b.Offset(), b.BucketCounts().AsRaw(), by)
	b.SetOffset(offset)
	b.BucketCounts().FromRaw(counts)
}
