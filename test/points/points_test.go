// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package points

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

func TestMetric_FindsTheMetricAndItsPoints(t *testing.T) {
	md := pmetric.NewMetrics()
	for _, instance := range []string{"a", "b"} {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("service.instance.id", instance)
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		m := metrics.AppendEmpty()
		m.SetName("gauge " + instance)
		m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(1)
		m = metrics.AppendEmpty()
		m.SetName("histogram " + instance)
		m.SetEmptyHistogram().DataPoints().AppendEmpty()
	}

	m, ok := Metric(md, "gauge b")
	require.True(t, ok)
	assert.Equal(t, 1, Numbers(m).Len())
	m, ok = Metric(md, "histogram b")
	require.True(t, ok)
	assert.Zero(t, Numbers(m).Len())
	_, ok = Metric(md, "gauge c")
	assert.False(t, ok)

	var seen []string
	for rm, m := range Metrics(md) {
		instance, _ := rm.Resource().Attributes().Get("service.instance.id")
		seen = append(seen, instance.Str()+": "+m.Name())
		if len(seen) == 3 {
			break
		}
	}
	assert.Equal(t, []string{"a: gauge a", "a: histogram a", "b: gauge b"}, seen)
}
