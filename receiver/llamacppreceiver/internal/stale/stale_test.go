// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package stale

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// metrics are a gauge with a point for each state, a sum that can fall and a
// counter, of one resource.
func metrics(resource string, states ...string) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("name", resource)
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName("scope")
	gauge := sm.Metrics().AppendEmpty()
	gauge.SetName("gauge")
	gauge.SetUnit("s")
	points := gauge.SetEmptyGauge().DataPoints()
	for _, s := range states {
		p := points.AppendEmpty()
		p.SetDoubleValue(1.5)
		p.Attributes().PutStr("state", s)
	}
	falling := sm.Metrics().AppendEmpty()
	falling.SetName("falling")
	falling.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	falling.Sum().DataPoints().AppendEmpty().SetIntValue(3)
	counter := sm.Metrics().AppendEmpty()
	counter.SetName("counter")
	counter.SetEmptySum().SetIsMonotonic(true)
	counter.Sum().DataPoints().AppendEmpty().SetIntValue(4)
	histogram := sm.Metrics().AppendEmpty()
	histogram.SetName("histogram")
	histogram.SetEmptyHistogram().DataPoints().AppendEmpty().SetCount(5)
	return md
}

// marked returns the series that were ended.
func marked(t *testing.T, md pmetric.Metrics, at time.Time) (series []string) {
	t.Helper()
	for _, rm := range md.ResourceMetrics().All() {
		name, _ := rm.Resource().Attributes().Get("name")
		sm := rm.ScopeMetrics().At(0)
		assert.Equal(t, "scope", sm.Scope().Name())
		for _, m := range sm.Metrics().All() {
			points := momentary(m)
			require.Equal(t, 1, points.Len(), "the Prometheus exporter passes over the second")
			p := points.At(0)
			assert.True(t, p.Flags().NoRecordedValue())
			assert.Equal(t, pmetric.NumberDataPointValueTypeEmpty, p.ValueType())
			assert.Equal(t, pcommon.NewTimestampFromTime(at.Add(-time.Millisecond)), p.Timestamp())
			state, _ := p.Attributes().Get("state")
			series = append(series, name.Str()+" "+m.Name()+" "+state.Str())
		}
	}
	return series
}

func TestMark_WhatSpokeOfAMomentAndGoesOnNoMore(t *testing.T) {
	at := time.Now()
	for name, tt := range map[string]struct {
		now  pmetric.Metrics
		want []string
	}{
		"nothing goes on":     {pmetric.NewMetrics(), []string{"a gauge x", "a gauge y", "a falling "}},
		"one state goes on":   {metrics("a", "y"), []string{"a gauge x"}},
		"all goes on":         {metrics("a", "x", "y", "z"), nil},
		"of another resource": {metrics("b", "x", "y"), []string{"a gauge x", "a gauge y", "a falling "}},
	} {
		t.Run(name, func(t *testing.T) {
			out := pmetric.NewMetrics()
			Mark(metrics("a", "x", "y"), tt.now, at, out)
			assert.Equal(t, tt.want, marked(t, out, at))
		})
	}
}
