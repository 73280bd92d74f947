// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package otlpsink

import (
	"bytes"
	"compress/gzip"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
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
	post(t, s, "/v1/metrics", b)
}

func post(t *testing.T, s *Sink, path string, body []byte) {
	t.Helper()
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write(body)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	q, err := http.NewRequest(http.MethodPost, s.URL()+path, &zipped)
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

func TestSink_KeepsDistributions(t *testing.T) {
	s := Start(t)
	md := pmetric.NewMetrics()
	metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	fixed := metrics.AppendEmpty()
	fixed.SetName("fixed")
	f := fixed.SetEmptyHistogram().DataPoints().AppendEmpty()
	f.SetCount(4)
	f.SetSum(10)
	f.SetMin(0.5)
	f.SetMax(5)
	f.ExplicitBounds().FromRaw([]float64{1, 2})
	f.BucketCounts().FromRaw([]uint64{1, 2, 1})
	e := f.Exemplars().AppendEmpty()
	e.SetDoubleValue(5)
	e.SetTraceID(pcommon.TraceID{1})
	e.SetSpanID(pcommon.SpanID{2})
	e.FilteredAttributes().PutInt("slot", 3)
	exponential := metrics.AppendEmpty()
	exponential.SetName("exponential")
	x := exponential.SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	x.SetCount(4)
	x.SetZeroCount(1)
	x.SetScale(1)
	x.Positive().SetOffset(2)
	x.Positive().BucketCounts().FromRaw([]uint64{1, 2})
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	post(t, s, "/v1/metrics", b)

	points := s.Points(Metric("fixed"))
	require.True(t, points.LastIs(4))
	d := points[0].Distribution
	assert.Equal(t, []Exemplar{{
		Value: 5, Time: time.Unix(0, 0).UTC(), TraceID: "01000000000000000000000000000000", SpanID: "0200000000000000",
		Attributes: map[string]string{"slot": "3"},
	}}, d.Exemplars)
	assert.Equal(t, []float64{10, 0.5, 5}, []float64{d.Sum, d.Min, d.Max})
	for q, want := range map[float64][2]float64{0: {0, 1}, 0.25: {0, 1}, 0.5: {1, 2}, 0.75: {1, 2}, 0.99: {2, math.Inf(1)}} {
		low, high := d.Quantile(q)
		assert.Equal(t, want, [2]float64{low, high}, "%v", q)
	}

	points = s.Points(Metric("exponential"))
	require.True(t, points.LastIs(4))
	for q, want := range map[float64][2]float64{0.25: {0, 2}, 0.5: {2, math.Exp2(1.5)}, 1: {math.Exp2(1.5), 4}} {
		low, high := points[0].Distribution.Quantile(q)
		assert.InDelta(t, want[0], low, 1e-9, "%v", q)
		assert.InDelta(t, want[1], high, 1e-9, "%v", q)
	}
}

func TestSink_KeepsSpans(t *testing.T) {
	s := Start(t)
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.instance.id", "host:1")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	parent := spans.AppendEmpty()
	parent.SetTraceID(pcommon.TraceID{1})
	parent.SetSpanID(pcommon.SpanID{2})
	parent.SetName("chat")
	parent.SetKind(ptrace.SpanKindServer)
	parent.SetStartTimestamp(pcommon.NewTimestampFromTime(epoch))
	parent.SetEndTimestamp(pcommon.NewTimestampFromTime(epoch.Add(time.Second)))
	parent.Attributes().PutInt("slot", 3)
	child := spans.AppendEmpty()
	child.SetTraceID(pcommon.TraceID{1})
	child.SetSpanID(pcommon.SpanID{3})
	child.SetParentSpanID(pcommon.SpanID{2})
	child.SetName("prompt")
	child.Events().AppendEmpty().SetName("progress")
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)
	post(t, s, "/v1/traces", b)

	got := s.Spans(Kind("Server"), SpanWith("slot", "3"))
	require.Len(t, got, 1)
	assert.Equal(t, time.Second, got[0].End.Sub(got[0].Start))
	assert.Empty(t, got[0].Parent)
	assert.Equal(t, "host:1", got[0].Resource["service.instance.id"])
	children := s.Spans().Children(got[0])
	require.Contains(t, children, "prompt")
	assert.Equal(t, "progress", children["prompt"].Events[0].Name)
	assert.Empty(t, s.Spans(SpanWith("slot", "4")))
	assert.Contains(t, s.Spans().Describe(), `Server "chat"`)
	assert.True(t, s.Holds("progress"))
}
