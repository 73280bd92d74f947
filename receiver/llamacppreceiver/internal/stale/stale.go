// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package stale ends the series of what is no longer known, so that no backend
// goes on showing the last value.
//
// In OTLP a point with the flag NoRecordedValue ends a series, in Prometheus a
// staleness marker does, into which its exporter, remote write and OTLP
// endpoint turn the flag.
package stale // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/stale"

import (
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatautil"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Mark adds to out a point that ends each series that is in before and not in
// now, if it says what is true at a moment, as gauges do and sums that can fall.
// Counters and histograms stay, as what they have counted remains true.
func Mark(before, now pmetric.Metrics, at time.Time, out pmetric.Metrics) {
	// A moment earlier: a series that begins now under another resource can be
	// the same one to a backend that knows only its instance.
	ended := pcommon.NewTimestampFromTime(at.Add(-time.Millisecond))
	going := seriesOf(now)
	for _, rm := range before.ResourceMetrics().All() {
		resource := pdatautil.MapHash(rm.Resource().Attributes())
		for _, sm := range rm.ScopeMetrics().All() {
			markers := pmetric.NewMetricSlice()
			for _, m := range sm.Metrics().All() {
				for _, p := range momentary(m).All() {
					if !going[series{resource, m.Name(), pdatautil.MapHash(p.Attributes())}] {
						// A metric for each point: the Prometheus exporter passes over
						// the rest of a metric after the first point with the flag.
						end(m, p, ended, markers.AppendEmpty())
					}
				}
			}
			if markers.Len() > 0 {
				to := out.ResourceMetrics().AppendEmpty()
				rm.Resource().CopyTo(to.Resource())
				scope := to.ScopeMetrics().AppendEmpty()
				sm.Scope().CopyTo(scope.Scope())
				markers.MoveAndAppendTo(scope.Metrics())
			}
		}
	}
}

// end makes marker a metric with one point, which ends the series of the point p
// of m.
func end(m pmetric.Metric, p pmetric.NumberDataPoint, at pcommon.Timestamp, marker pmetric.Metric) {
	marker.SetName(m.Name())
	marker.SetDescription(m.Description())
	marker.SetUnit(m.Unit())
	var points pmetric.NumberDataPointSlice
	if m.Type() == pmetric.MetricTypeGauge {
		points = marker.SetEmptyGauge().DataPoints()
	} else {
		sum := marker.SetEmptySum()
		sum.SetAggregationTemporality(m.Sum().AggregationTemporality())
		points = sum.DataPoints()
	}
	d := points.AppendEmpty()
	p.Attributes().CopyTo(d.Attributes())
	d.SetTimestamp(at)
	d.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
}

// series tells one series from the others.
type series struct {
	resource   [16]byte
	name       string
	attributes [16]byte
}

func seriesOf(md pmetric.Metrics) map[series]bool {
	all := map[series]bool{}
	for _, rm := range md.ResourceMetrics().All() {
		resource := pdatautil.MapHash(rm.Resource().Attributes())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, p := range momentary(m).All() {
					all[series{resource, m.Name(), pdatautil.MapHash(p.Attributes())}] = true
				}
			}
		}
	}
	return all
}

// momentary returns the points of a metric that says what is true at a moment,
// and none of any other.
func momentary(m pmetric.Metric) pmetric.NumberDataPointSlice {
	switch {
	case m.Type() == pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints()
	case m.Type() == pmetric.MetricTypeSum && !m.Sum().IsMonotonic():
		return m.Sum().DataPoints()
	}
	return pmetric.NewNumberDataPointSlice()
}
