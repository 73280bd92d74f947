// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lightstep/go-expohisto/structure"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
)

func TestMain(m *testing.M) {
	// The search index of Prometheus' API keeps a goroutine for the life of the process.
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, change func(*Options)) *History {
	t.Helper()
	opts := Options{
		Retention: 24 * time.Hour, MaxSeries: 10_000, Lookback: 15 * time.Second, QueryTimeout: 10 * time.Second,
		MaxSamples: 1_000_000, RuleInterval: 50 * time.Millisecond,
	}
	if change != nil {
		change(&opts)
	}
	h, err := Open(opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, h.Close()) })
	return h
}

// batch starts a batch of one server and returns where its metrics go.
func batch() (pmetric.Metrics, pmetric.MetricSlice) {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "llama-server")
	rm.Resource().Attributes().PutStr("service.instance.id", "localhost:8080")
	return md, rm.ScopeMetrics().AppendEmpty().Metrics()
}

func gauge(ms pmetric.MetricSlice, name string, at time.Time, value float64) pmetric.NumberDataPoint {
	m := ms.AppendEmpty()
	m.SetName(name)
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(at))
	p.SetDoubleValue(value)
	return p
}

func counter(ms pmetric.MetricSlice, name string, temporality pmetric.AggregationTemporality, at time.Time, value float64) {
	m := ms.AppendEmpty()
	m.SetName(name)
	s := m.SetEmptySum()
	s.SetIsMonotonic(true)
	s.SetAggregationTemporality(temporality)
	p := s.DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(at))
	p.SetDoubleValue(value)
}

func add(t testing.TB, h *History, md pmetric.Metrics) Refused {
	t.Helper()
	kept, err := h.Append(t.Context(), md)
	require.NoError(t, err)
	return kept.Refused
}

func TestHistory_SaysWhatItKept(t *testing.T) {
	h := open(t, nil)
	now := time.Now()
	md, ms := batch()
	gauge(ms, "llamacpp.requests.deferred", now, 1)
	gauge(ms, "llamacpp.requests.deferred", now.Add(-time.Second), 1)
	counter(ms, "llamacpp.tokens.predicted", pmetric.AggregationTemporalityCumulative, now, 1)
	counter(ms, "llamacpp.tokens.dropped", pmetric.AggregationTemporalityDelta, now, 1)
	m := ms.AppendEmpty()
	m.SetName("llamacpp.wait")
	m.SetUnit("s")
	hist := m.SetEmptyHistogram()
	hist.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := hist.DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(now))
	p.ExplicitBounds().FromRaw([]float64{1})
	p.BucketCounts().FromRaw([]uint64{1, 2})
	p.SetCount(3)
	kept, err := h.Append(t.Context(), md)
	require.NoError(t, err)
	assert.Equal(t, Families{
		"llamacpp_requests_deferred": now.Add(-time.Second).UnixMilli(), "llamacpp_tokens_predicted_total": now.UnixMilli(),
		"llamacpp_wait_seconds": now.UnixMilli(),
	}, kept.Kept)
}

func value(t testing.TB, h *History, expr string, at time.Time) float64 {
	t.Helper()
	v, err := h.Instant(t.Context(), expr, at)
	require.NoError(t, err)
	require.Len(t, v, 1, expr)
	return v[0].F
}

func TestHistory_AnswersWithWhatWasAppended(t *testing.T) {
	h := open(t, nil)
	now := time.Now().Truncate(time.Second)
	for i := range 11 {
		md, ms := batch()
		at := now.Add(time.Duration(i-10) * time.Second)
		gauge(ms, "llamacpp.requests.deferred", at, float64(i))
		counter(ms, "llamacpp.tokens.predicted", pmetric.AggregationTemporalityCumulative, at, float64(100*i))
		assert.Empty(t, add(t, h, md))
	}
	assert.InDelta(t, 10, value(t, h, `llamacpp_requests_deferred{job="llama-server",instance="localhost:8080"}`, now), 0)
	assert.InDelta(t, 100, value(t, h, `rate(llamacpp_tokens_predicted_total[10s])`, now), 1e-9)

	m, err := h.Range(t.Context(), `llamacpp_requests_deferred`, now.Add(-10*time.Second), now, 5*time.Second)
	require.NoError(t, err)
	require.Len(t, m, 1)
	require.Len(t, m[0].Floats, 3)
	assert.InDelta(t, 5, m[0].Floats[1].F, 0)
}

// Both kinds, so that one expression has to serve for both.
func TestHistory_KeepsHistogramsOfBothKinds(t *testing.T) {
	h := open(t, nil)
	now := time.Now().Truncate(time.Second)
	for i := range 2 {
		md, ms := batch()
		at := pcommon.NewTimestampFromTime(now.Add(time.Duration(i-1) * time.Second))
		m := ms.AppendEmpty()
		m.SetName("explicit")
		m.SetUnit("s")
		m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		p := m.Histogram().DataPoints().AppendEmpty()
		p.SetTimestamp(at)
		p.ExplicitBounds().FromRaw([]float64{1, 2, 4})
		p.BucketCounts().FromRaw([]uint64{0, 0, uint64(10 * i), 0})
		p.SetCount(uint64(10 * i))

		m = ms.AppendEmpty()
		m.SetName("exponential")
		m.SetUnit("s")
		m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		e := m.ExponentialHistogram().DataPoints().AppendEmpty()
		e.SetTimestamp(at)
		e.SetScale(5) // buckets of 2.2 %
		e.Positive().SetOffset(50)
		e.Positive().BucketCounts().FromRaw([]uint64{uint64(10 * i)})
		e.SetCount(uint64(10 * i))
		assert.Empty(t, add(t, h, md))
	}
	assert.InDelta(t, 3.9, value(t, h, `histogram_quantile(0.95, sum by (le) (increase(explicit_seconds_bucket[2s])))`, now), 1e-9)
	assert.InEpsilon(t, 2.98, value(t, h, `histogram_quantile(0.95, sum(increase(exponential_seconds[2s])))`, now), 0.03)
}

// Few values that are near each other have a finer scale than native histograms. Each
// is in its bucket all the same.
func TestHistory_PutsFineHistogramsIntoTheRightBuckets(t *testing.T) {
	h := open(t, nil)
	now := time.Now().Truncate(time.Second)
	values := []float64{91.43, 91.44, 92.9, 95.24, 95.25, 100, 100}
	fine := structure.NewFloat64(structure.NewConfig(structure.WithMaxSize(160)))
	for _, v := range values {
		fine.Update(v)
	}
	require.Greater(t, fine.Scale(), int32(histogram.MaxScale))
	md, ms := batch()
	m := ms.AppendEmpty()
	m.SetName("fine")
	m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := m.ExponentialHistogram().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(now))
	p.SetCount(fine.Count())
	p.SetSum(fine.Sum())
	p.SetScale(fine.Scale())
	p.Positive().SetOffset(fine.Positive().Offset())
	for i := range fine.Positive().Len() {
		p.Positive().BucketCounts().Append(fine.Positive().At(i))
	}
	assert.Empty(t, add(t, h, md))
	assert.Equal(t, fine.Scale(), p.Scale(), "others have these metrics as well")

	for _, v := range values {
		bucket := math.Ceil(math.Log2(v) * 256) // of scale 8, by its upper bound
		low, high := math.Exp2((bucket-1)/256), math.Exp2(bucket/256)
		n := 0.0
		for _, other := range values {
			if other > low && other <= high {
				n++
			}
		}
		assert.InDelta(t, n/float64(len(values)), value(t, h, fmt.Sprintf(`histogram_fraction(%v, %v, fine)`, low, high), now), 1e-6, "%v", v)
	}
}

func TestHistory_SaysWhatItRefuses(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	tests := map[string]struct {
		batches func(ms pmetric.MetricSlice, i int)
		want    Refused
	}{
		"the change since the point before": {
			func(ms pmetric.MetricSlice, i int) {
				counter(ms, "requests", pmetric.AggregationTemporalityDelta, now.Add(time.Duration(i)*time.Second), 1)
			},
			Refused{map[Reason]int{Delta: 1}, map[Reason]string{Delta: "requests"}},
		},
		"another value at the same time": {
			func(ms pmetric.MetricSlice, i int) { gauge(ms, "queue", now, float64(i)) },
			Refused{map[Reason]int{Duplicate: 1}, map[Reason]string{Duplicate: "queue"}},
		},
		"a point that is far too old": {
			func(ms pmetric.MetricSlice, i int) { gauge(ms, "queue", now.Add(-time.Duration(i)*time.Hour), 0) },
			Refused{map[Reason]int{OutOfOrder: 1}, map[Reason]string{OutOfOrder: "queue"}},
		},
		"nothing: the same value again": {
			func(ms pmetric.MetricSlice, _ int) { gauge(ms, "queue", now, 1) }, Refused{},
		},
		"nothing: a point that is a little late": {
			func(ms pmetric.MetricSlice, i int) { gauge(ms, "queue", now.Add(-time.Duration(i)*time.Minute), 0) }, Refused{},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			var last Refused
			for i := range 2 {
				md, ms := batch()
				gauge(ms, "beside", now.Add(time.Duration(i)*time.Second), float64(i))
				test.batches(ms, i)
				last = add(t, h, md)
			}
			assert.Equal(t, test.want, last)
			assert.InDelta(t, 1, value(t, h, "beside", now.Add(2*time.Second)), 0, "what is beside it is kept")
		})
	}
}

// As in Prometheus, which does not tell within a batch.
func TestHistory_OfTwoMetricsWithOneNameKeepsTheFirst(t *testing.T) {
	h := open(t, nil)
	now := time.Now()
	md, ms := batch()
	gauge(ms, "queue.depth", now, 1)
	gauge(ms, "queue_depth", now, 2)
	add(t, h, md)
	assert.InDelta(t, 1, value(t, h, "queue_depth", now), 0)
}

func TestHistory_RefusesSeriesBeyondTheLimit(t *testing.T) {
	h := open(t, func(o *Options) { o.MaxSeries = 5 })
	now := time.Now().Truncate(time.Second)
	var last Refused
	for i := range 2 {
		md, ms := batch()
		for n := range 10 {
			gauge(ms, fmt.Sprintf("m%d", n), now.Add(time.Duration(i)*time.Second), float64(i))
		}
		last = add(t, h, md)
	}
	assert.Equal(t, Refused{map[Reason]int{SeriesLimit: 5}, map[Reason]string{SeriesLimit: "m5"}}, last)
	assert.LessOrEqual(t, h.Series(), uint64(5))
	assert.InDelta(t, 1, value(t, h, "m0", now.Add(time.Second)), 0, "series that are known go on")
}

// Every pipeline has points out of order: two scrapers of one server describe it at
// the same time.
func TestHistory_SaysNothingWhenItMergesPointsOutOfOrder(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	h := open(t, func(o *Options) { o.Logger = zap.New(core) })
	now := time.Now().Truncate(2 * time.Hour)
	for at := now.Add(-6 * time.Hour); at.Before(now); at = at.Add(time.Minute) {
		for _, late := range []time.Duration{0, 30 * time.Second} {
			md, ms := batch()
			gauge(ms, "m", at.Add(-late), 1)
			require.Empty(t, add(t, h, md).Points)
		}
	}
	require.NoError(t, h.db.Compact(t.Context()))
	require.NoError(t, h.db.CompactOOOHead(t.Context()))
	assert.NotEmpty(t, h.db.Blocks())
	assert.Empty(t, logs.FilterMessageSnippet("verlapping").All())
	assert.InDelta(t, 8, value(t, h, "count_over_time(m[4m])", now.Add(-time.Hour)), 1, "all of them are there")
}

func TestHistory_SurvivesInItsDirectory(t *testing.T) {
	folder := t.TempDir()
	now := time.Now().Truncate(time.Second)
	h, err := Open(Options{
		Directory: folder, Retention: time.Hour, MaxSeries: 100, Lookback: 15 * time.Second, QueryTimeout: time.Second, MaxSamples: 1000,
		RuleInterval: time.Second,
	})
	require.NoError(t, err)
	md, ms := batch()
	gauge(ms, "queue", now, 7)
	add(t, h, md)
	require.NoError(t, h.Close())
	h = open(t, func(o *Options) { o.Directory = folder })
	assert.InDelta(t, 7, value(t, h, "queue", now), 0)
}

// What a killed process leaves is what its directory holds while it runs.
func TestHistory_SurvivesAKill(t *testing.T) {
	folder, left := t.TempDir(), t.TempDir()
	now := time.Now().Truncate(time.Second)
	h := open(t, func(o *Options) { o.Directory = folder })
	md, ms := batch()
	gauge(ms, "queue", now, 7)
	add(t, h, md)
	require.NoError(t, os.CopyFS(left, os.DirFS(folder)))
	h = open(t, func(o *Options) { o.Directory = left })
	assert.InDelta(t, 7, value(t, h, "queue", now), 0)
}

func TestHistory_LeavesNoTemporaryFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h, err := Open(Options{Retention: time.Hour, MaxSeries: 100, Lookback: time.Second, QueryTimeout: time.Second, MaxSamples: 1000, RuleInterval: time.Second})
	require.NoError(t, err)
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, h.Close())
	left, err = filepath.Glob(filepath.Join(os.TempDir(), "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestOpen_DirectoryInUseNamesTheCure(t *testing.T) {
	folder := t.TempDir()
	open(t, func(o *Options) { o.Directory = folder })
	_, err := Open(Options{Directory: folder, Retention: time.Hour, MaxSeries: 1, RuleInterval: time.Second})
	assert.ErrorContains(t, err, "give each its own")
}

const rule = `
groups:
  - name: queue
    rules:
      - alert: QueueGrows
        expr: queue > 3
        labels: {kind: alert}
        annotations:
          summary: '{{ $value }} requests wait at {{ $labels.instance }}.'
`

func TestHistory_EvaluatesRules(t *testing.T) {
	h := open(t, func(o *Options) { o.Rules = []byte(rule) })
	assert.Empty(t, h.Firing())
	md, ms := batch()
	gauge(ms, "queue", time.Now(), 7)
	add(t, h, md)
	var firing []Alert
	require.Eventually(t, func() bool {
		firing = h.Firing()
		return len(firing) > 0
	}, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, "QueueGrows", firing[0].Name)
	assert.Equal(t, map[string]string{"kind": "alert", "instance": "localhost:8080", "job": "llama-server"}, firing[0].Labels)
	assert.Equal(t, "7 requests wait at localhost:8080.", firing[0].Annotations["summary"])
	assert.WithinDuration(t, time.Now(), firing[0].Since, 10*time.Second)
}

func TestCheckRules_WrongRuleFileNamesItsRule(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte(rule), 0o600))
	require.NoError(t, CheckRules(file))
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(rule, "queue > 3", "queue >", 1)), 0o600))
	err := CheckRules(file)
	require.ErrorContains(t, err, "mine.yaml")
	require.ErrorContains(t, err, "QueueGrows")
	assert.ErrorContains(t, CheckRules(file+".yml"), "no such file")
}

func TestHistory_EvaluatesRulesOfFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte(rule), 0o600))
	h := open(t, func(o *Options) { o.RuleFiles = []string{file} })
	_, a := ask(t, h.Handler("/api/v1"), http.MethodGet, "/api/v1/rules", nil)
	assert.Contains(t, string(a.Data), "QueueGrows")
}

// answer is what Prometheus' API answers.
type answer struct {
	Status string          `json:"status"`
	Data   json.RawMessage `json:"data"`
	Error  string          `json:"error"`
}

func ask(t testing.TB, api http.Handler, method, path string, form url.Values) (int, answer) {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(form.Encode())
	} else if form != nil {
		path += "?" + form.Encode()
	}
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	var a answer
	_ = json.Unmarshal(w.Body.Bytes(), &a) // some answers are not JSON
	return w.Code, a
}

// What Grafana asks of a data source of type Prometheus.
func TestHandler_AnswersAsPrometheus(t *testing.T) {
	h := open(t, func(o *Options) { o.Rules = []byte(rule) })
	now := time.Now().Truncate(time.Second)
	md, ms := batch()
	gauge(ms, "queue", now, 7)
	add(t, h, md)
	at := fmt.Sprint(now.Unix())
	api := h.Handler("/api/v1")
	for _, test := range []struct {
		method, path string
		form         url.Values
		want         string
	}{
		{http.MethodGet, "query", url.Values{"query": {"queue"}, "time": {at}}, `"7"`},
		{http.MethodPost, "query", url.Values{"query": {"queue"}, "time": {at}}, `"7"`},
		{http.MethodPost, "query_range", url.Values{"query": {"queue"}, "start": {at}, "end": {at}, "step": {"1"}}, `"7"`},
		{http.MethodGet, "labels", nil, `"instance"`},
		{http.MethodGet, "label/instance/values", nil, `"localhost:8080"`},
		{http.MethodGet, "series", url.Values{"match[]": {"queue"}}, `"llama-server"`},
		{http.MethodGet, "metadata", nil, ``},
		{http.MethodGet, "rules", nil, `"QueueGrows"`},
		{http.MethodGet, "alerts", nil, `"alerts"`},
		{http.MethodGet, "status/buildinfo", nil, `"version"`},
		{http.MethodGet, "status/runtimeinfo", nil, `"storageRetention"`},
		{http.MethodGet, "status/config", nil, `"yaml"`},
		{http.MethodGet, "status/flags", nil, ``},
		{http.MethodGet, "status/tsdb", nil, `"numSeries"`},
		{http.MethodGet, "targets", nil, `"activeTargets"`},
		{http.MethodGet, "query_exemplars", url.Values{"query": {"queue"}, "start": {at}, "end": {at}}, ``},
	} {
		code, a := ask(t, api, test.method, "/api/v1/"+test.path, test.form)
		assert.Equal(t, http.StatusOK, code, test.path)
		assert.Equal(t, "success", a.Status, "%s: %s", test.path, a.Error)
		assert.Contains(t, string(a.Data), test.want, test.path)
	}
}

func TestHandler_ChangesNothing(t *testing.T) {
	h := open(t, nil)
	api := h.Handler("/api/v1")
	for _, path := range []string{"admin/tsdb/delete_series", "admin/tsdb/clean_tombstones", "admin/tsdb/snapshot", "write", "otlp/v1/metrics"} {
		code, _ := ask(t, api, http.MethodPost, "/api/v1/"+path, url.Values{"match[]": {"queue"}})
		assert.GreaterOrEqual(t, code, 400, path)
	}
}

func TestHandler_OtherSitesMayNotRead(t *testing.T) {
	h := open(t, nil)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/labels", http.NoBody)
	r.Header.Set("Origin", "https://example.com")
	w := httptest.NewRecorder()
	h.Handler("/api/v1").ServeHTTP(w, r)
	assert.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
}

func TestHandler_ExpensiveQueryIsRefused(t *testing.T) {
	h := open(t, func(o *Options) { o.MaxSamples = 3 })
	md, ms := batch()
	now := time.Now()
	for n := range 10 {
		gauge(ms, "queue", now, 1).Attributes().PutInt("n", int64(n))
	}
	add(t, h, md)
	code, a := ask(t, h.Handler("/api/v1"), http.MethodGet, "/api/v1/query", url.Values{"query": {"queue"}})
	assert.Equal(t, http.StatusUnprocessableEntity, code)
	assert.Contains(t, a.Error, "too many samples")
}

func FuzzHandler(f *testing.F) {
	h := open(f, func(o *Options) { o.QueryTimeout, o.MaxSamples = 100*time.Millisecond, 10_000 })
	md, ms := batch()
	gauge(ms, "queue", time.Now(), 7)
	add(f, h, md)
	api := h.Handler("/api/v1")
	f.Add("query_range", "query=queue&start=0&end=100&step=1")
	f.Add("series", "match[]=queue")
	f.Fuzz(func(t *testing.T, path, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/", http.NoBody)
		r.URL.Path, r.URL.RawQuery = "/api/v1/"+path, query
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r) // must not panic
		assert.NotEqual(t, http.StatusInternalServerError, w.Code)
	})
}

func BenchmarkAppend(b *testing.B) {
	h := open(b, nil)
	start := time.Now()
	md, ms := batch()
	for n := range 100 {
		gauge(ms, fmt.Sprintf("m%d", n), start, 1)
	}
	i := 0
	for b.Loop() {
		i++
		at := pcommon.NewTimestampFromTime(start.Add(time.Duration(i) * time.Second))
		for _, m := range ms.All() {
			m.Gauge().DataPoints().At(0).SetTimestamp(at)
		}
		if _, err := h.Append(context.Background(), md); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "points/s")
}
