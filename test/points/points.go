// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package points finds metrics and data points in pdata, for tests.
package points

import (
	"iter"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Metrics are all metrics, each with what it was sent with.
func Metrics(md pmetric.Metrics) iter.Seq2[pmetric.ResourceMetrics, pmetric.Metric] {
	return func(yield func(pmetric.ResourceMetrics, pmetric.Metric) bool) {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if !yield(rm, m) {
						return
					}
				}
			}
		}
	}
}

// Metric is the first metric of a name.
func Metric(md pmetric.Metrics, name string) (m pmetric.Metric, ok bool) {
	for _, m := range Metrics(md) {
		if m.Name() == name {
			return m, true
		}
	}
	return pmetric.Metric{}, false
}

// Numbers are the points of a sum or a gauge; a metric of another type has none.
func Numbers(m pmetric.Metric) pmetric.NumberDataPointSlice {
	switch m.Type() {
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints()
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints()
	}
	return pmetric.NewNumberDataPointSlice()
}
