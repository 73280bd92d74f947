// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package undeclared helps with metrics that metadata.yaml cannot declare,
// beside those that it does: histograms, and families that are known only when
// they are seen.
package undeclared // import "github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// DurationBounds are those of the GenAI conventions for durations, in seconds.
var DurationBounds = [...]float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}

// MetricsOf returns the metrics of what a builder emitted for one resource, to
// add to. Where every declared metric is off the builder has emitted nothing,
// and the resource is added.
func MetricsOf(md pmetric.Metrics, resource pcommon.Resource, scope pcommon.InstrumentationScope) pmetric.MetricSlice {
	if md.ResourceMetrics().Len() == 0 {
		rm := md.ResourceMetrics().AppendEmpty()
		resource.CopyTo(rm.Resource())
		scope.CopyTo(rm.ScopeMetrics().AppendEmpty().Scope())
	}
	return md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
}

// Values is what a histogram says of its values besides their buckets.
type Values struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Add takes one value.
func (v *Values) Add(value float64) {
	if v.Count == 0 || value < v.Low {
		v.Low = value
	}
	if v.Count == 0 || value > v.High {
		v.High = value
	}
	v.Count++
	v.Sum += value
}

// Point is a pmetric.HistogramDataPoint or ExponentialHistogramDataPoint.
type Point interface {
	SetStartTimestamp(pcommon.Timestamp)
	SetTimestamp(pcommon.Timestamp)
	SetCount(uint64)
	SetSum(float64)
	SetMin(float64)
	SetMax(float64)
}

// Emit writes them to a point.
func (v *Values) Emit(to Point, start, now pcommon.Timestamp) {
	to.SetStartTimestamp(start)
	to.SetTimestamp(now)
	to.SetCount(v.Count)
	to.SetSum(v.Sum)
	if v.Count > 0 {
		to.SetMin(v.Low)
		to.SetMax(v.High)
	}
}
