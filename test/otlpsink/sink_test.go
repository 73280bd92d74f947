// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package otlpsink

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

var epoch = time.Unix(1_800_000_000, 0).UTC()

// export sends one point of a counter, as seconds after epoch.
func export(t *testing.T, s *Sink, start, at int, value int64) {
	t.Helper()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.instance.id", "host:1")
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("tokens")
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := sum.DataPoints().AppendEmpty()
	d.Attributes().PutStr("source", "cached")
	d.SetStartTimestamp(pcommon.NewTimestampFromTime(epoch.Add(time.Duration(start) * time.Second)))
	d.SetTimestamp(pcommon.NewTimestampFromTime(epoch.Add(time.Duration(at) * time.Second)))
	d.SetIntValue(value)

	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	q, err := http.NewRequest(http.MethodPost, s.URL()+"/v1/metrics", &zipped)
	require.NoError(t, err)
	q.Header.Set("Content-Type", "application/x-protobuf")
	q.Header.Set("Content-Encoding", "gzip")
	r, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusOK, r.StatusCode)
}

func TestSink_KeepsWhatArrives(t *testing.T) {
	s := Start(t)
	export(t, s, 0, 1, 5)
	export(t, s, 0, 2, 7)

	points := s.Points(Metric("tokens"), With("source", "cached"), Of("host:1"))
	require.Len(t, points, 2)
	assert.True(t, points[0].Counter)
	assert.Equal(t, epoch, points[0].Start)
	assert.True(t, points.LastIs(7))
	assert.Len(t, points.Where(After(epoch.Add(time.Second))), 1)
	assert.Empty(t, s.Points(Metric("tokens"), With("source", "computed")))
	assert.True(t, s.Holds("cached"))
	assert.False(t, s.Holds("prompt"))
	assert.Contains(t, points.Describe(), "host:1 tokens source=cached (2 points")
}

func TestPoints_TotalGoesOverRestarts(t *testing.T) {
	s := Start(t)
	export(t, s, 0, 1, 5)
	export(t, s, 0, 2, 7)
	export(t, s, 2, 3, 4)
	assert.InDelta(t, 11, s.Points().Total(), 0)
	assert.Len(t, s.Points().Starts(), 2)
	assert.Empty(t, s.Points().Faults())
}

func TestPoints_FaultsOfCounters(t *testing.T) {
	for want, last := range map[string]struct {
		start, at int
		value     int64
	}{
		"went back from 7 to 6": {0, 3, 6},
		"start went back":       {-1, 3, 8},
		"start after the point": {4, 3, 0},
		"started again":         {1, 3, 0},
		"not later than":        {0, 2, 7},
	} {
		t.Run(want, func(t *testing.T) {
			s := Start(t)
			export(t, s, 0, 2, 7)
			export(t, s, last.start, last.at, last.value)
			faults := s.Points().Faults()
			require.Len(t, faults, 1)
			assert.Contains(t, faults[0], want)
		})
	}
}
