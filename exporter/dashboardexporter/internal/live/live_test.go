// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

// What the exporter has is as fast as it can be.
var _ Source = (*history.History)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prometheus is a store with an engine, as internal/history is.
type prometheus struct {
	*teststorage.TestStorage
	engine *promql.Engine

	instants, ranges atomic.Int64
	// delay makes each evaluation slow.
	delay atomic.Int64
}

func newPrometheus(tb testing.TB, options ...teststorage.Option) *prometheus {
	tb.Helper()
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 15 * time.Second, Parser: history.NewParser(),
	})
	tb.Cleanup(func() { assert.NoError(tb, engine.Close()) })
	return &prometheus{TestStorage: teststorage.New(tb, options...), engine: engine}
}

func (p *prometheus) Engine() *promql.Engine     { return p.engine }
func (p *prometheus) Storage() storage.Queryable { return p }

func (p *prometheus) Instant(ctx context.Context, expr string, at time.Time) (promql.Vector, error) {
	p.instants.Add(1)
	time.Sleep(time.Duration(p.delay.Load()))
	q, err := p.engine.NewInstantQuery(ctx, p, nil, expr, at)
	if err != nil {
		return nil, err
	}
	r := q.Exec(ctx)
	if s, ok := r.Value.(promql.Scalar); ok {
		return promql.Vector{{T: s.T, F: s.V}}, r.Err
	}
	if r.Err != nil {
		return nil, r.Err
	}
	return r.Vector()
}

func (p *prometheus) Range(ctx context.Context, expr string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
	p.ranges.Add(1)
	time.Sleep(time.Duration(p.delay.Load()))
	q, err := p.engine.NewRangeQuery(ctx, p, nil, expr, start, end, step)
	if err != nil {
		return nil, err
	}
	r := q.Exec(ctx)
	if r.Err != nil {
		return nil, r.Err
	}
	return r.Matrix()
}

// add appends points of a series; at is the time of the first.
func (p *prometheus) add(tb testing.TB, series string, at time.Time, every time.Duration, values ...float64) {
	tb.Helper()
	l, err := promqlParser.ParseMetric(series)
	require.NoError(tb, err)
	a := p.Appender(tb.Context())
	for i, v := range values {
		_, err := a.Append(0, l, at.Add(time.Duration(i)*every).UnixMilli(), v)
		require.NoError(tb, err)
	}
	require.NoError(tb, a.Commit())
}

// noon is aligned to all steps.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

const (
	status = `llamacpp_server_status{instance="a:1",llamacpp_server_state="ok"}`
	queue  = `llamacpp_requests_deferred{instance="a:1"}`
	tokens = `llamacpp_tokens_predicted_total{instance="a:1"}`
)

func catalogue() *dashboards.Catalogue {
	return &dashboards.Catalogue{
		Sources: []dashboards.Source{
			{ID: "server", Probe: `llamacpp_server_status{instance=~"$server"}`},
			{ID: "gpu", Probe: `hw_temperature_celsius{hw_id=~"$gpu"}`},
		},
		Panels: []dashboards.Panel{
			{ID: "queue", Queries: []dashboards.Query{
				{Expr: `llamacpp_requests_deferred{instance=~"$server"}`, Legend: "waiting at {{ instance }}"},
			}},
			{ID: "rate", Queries: []dashboards.Query{
				{Expr: `rate(llamacpp_tokens_predicted_total{instance=~"$server"}[$__rate_interval])`, Legend: "decoding"},
			}},
			{ID: "free", Queries: []dashboards.Query{{Expr: `10 - llamacpp_requests_deferred{instance=~"$server"}`}}},
			{ID: "state", Sample: "last", Queries: []dashboards.Query{
				{Expr: `llamacpp_server_status{instance=~"$server"}`, Legend: "{{llamacpp_server_state}}"},
			}},
			{ID: "gpu", Queries: []dashboards.Query{{Expr: `hw_temperature_celsius{hw_id=~"$gpu"}`, Legend: "{{hw_id}}"}}},
		},
		Tiles: []dashboards.Tile{{
			ID: "queue", Expr: `llamacpp_requests_deferred{instance=~"$server"}`,
			Second: &dashboards.Second{Expr: `2 * llamacpp_requests_deferred{instance=~"$server"}`},
		}},
		Facts: []dashboards.Fact{
			{ID: "state", Expr: `llamacpp_server_status{instance=~"$server"} == 1`, Label: "llamacpp_server_state"},
			{ID: "slots", Expr: `sum(llamacpp_slots{instance=~"$server"})`},
		},
		Overview: []dashboards.Column{
			{ID: "state", Expr: `llamacpp_server_status == 1`, Label: "llamacpp_server_state"},
			{ID: "queue", Expr: `llamacpp_requests_deferred{instance=~"$server"}`, Sparkline: true},
		},
	}
}

// newHub returns a Hub on the catalogue of tests.
func newHub(tb testing.TB, p Querier, change func(*Settings)) *Hub {
	tb.Helper()
	s := Settings{Catalogue: catalogue(), Querier: p, Version: "v1", Logger: zaptest.NewLogger(tb)}
	if change != nil {
		change(&s)
	}
	h, err := New(s)
	require.NoError(tb, err)
	tb.Cleanup(h.Close)
	return h
}

// startFeed returns a feed that ticks when the test wants it to.
func startFeed(tb testing.TB, h *Hub, query string, at time.Time) *feed {
	tb.Helper()
	w, err := parseWish(query, "server", "gpu", "window", "points")
	require.NoError(tb, err)
	f := newFeed(h, w)
	f.begin(tb.Context(), at)
	close(f.ready)
	return f
}

// The JSON as a page reads it.
type (
	frame struct {
		Seq      uint64
		Now      int64
		Bucket   int64
		Facts    map[string]any
		Tiles    map[string]map[string]any
		Servers  []shownServer
		Sources  map[string]bool
		Panels   map[string][]point
		Rules    *[]ruleJSON
		Notes    *[]annotationJSON `json:"annotations"`
		Requests []recent.Request
		Running  []runningJSON
	}
	point struct {
		Key    string
		Name   *string
		Query  *int
		Labels map[string]string
		Value  *float64
		Low    *float64
		High   *float64
	}
	shownServer struct {
		ID     string
		Values map[string]any
		Sparks map[string][]*float64
	}
	shown struct {
		Version     string
		Seq         uint64
		Now         int64
		Server      string
		GPUs        []string
		Step, Start int64
		Points      int
		Servers     []shownServer
		Facts       map[string]any
		Sources     map[string]bool
		Tiles       map[string]struct {
			Value, Second *float64
			Spark         []*float64
		}
		Panels map[string]struct{ Series []line }
		Rules  []ruleJSON
		Notes  []annotationJSON `json:"annotations"`

		Requests []recent.Request
		Running  []runningJSON
	}
	line struct {
		Key, Name         string
		Query             int
		Labels            map[string]string
		Values, Low, High []*float64
	}
)

// framesAt ticks and returns the frames that come.
func (f *feed) framesAt(tb testing.TB, at time.Time) []frame {
	tb.Helper()
	return f.framesOf(tb, func() { f.tick(tb.Context(), at) })
}

func (f *feed) framesOf(tb testing.TB, do func()) []frame {
	tb.Helper()
	before := f.last()
	do()
	var list []frame
	for {
		event, _, lost := f.next(before)
		require.False(tb, lost)
		if event == nil {
			return list
		}
		list = append(list, decodeFrame(tb, string(event)))
		before++
	}
}

func decodeFrame(tb testing.TB, event string) frame {
	tb.Helper()
	_, data, ok := strings.Cut(event, "\ndata: ")
	require.True(tb, ok, event)
	var one frame
	require.NoError(tb, json.Unmarshal([]byte(data), &one))
	return one
}

func (f *feed) snapshotAt(tb testing.TB, at time.Time, length time.Duration) shown {
	tb.Helper()
	data, err := encode(f.snapshot(tb.Context(), at.UnixMilli(), length))
	require.NoError(tb, err)
	return decodeWindow(tb, data)
}

func decodeWindow(tb testing.TB, data []byte) shown {
	tb.Helper()
	var s shown
	require.NoError(tb, json.Unmarshal(data, &s), string(data))
	return s
}

func list(values ...any) []*float64 {
	var l []*float64
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			l = append(l, nil)
		case int:
			l = append(l, new(float64(v)))
		case float64:
			l = append(l, new(v))
		}
	}
	return l
}

func TestSnapshot_BucketsHaveTheValuesOfTheirEnd(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, after(-time.Minute), time.Second, repeat(1, 62)...)
	p.add(t, queue, after(-3*time.Second), time.Second, 1, 2, 3, 4, 5) // until noon + 1 s
	f := startFeed(t, newHub(t, p, nil), "window=10", after(1500*time.Millisecond))

	s := f.snapshotAt(t, after(1500*time.Millisecond), 10*time.Second)
	assert.Equal(t, "a:1", s.Server)
	assert.Equal(t, int64(1000), s.Step)
	assert.Equal(t, 10, s.Points)
	assert.Equal(t, after(-8*time.Second).UnixMilli(), s.Start, "the last bucket is that of now")
	require.Len(t, s.Panels["queue"].Series, 1)
	one := s.Panels["queue"].Series[0]
	assert.Equal(t, `0{instance="a:1"}`, one.Key)
	assert.Equal(t, "waiting at a:1", one.Name)
	assert.Equal(t, map[string]string{"instance": "a:1"}, one.Labels)
	assert.Equal(t, list(nil, nil, nil, nil, 1, 2, 3, 4, 5, 5), one.Values, "the point of :57 is at the end of the bucket of :56")
	assert.Nil(t, one.Low)
	assert.Empty(t, s.Panels["gpu"].Series)
	assert.Equal(t, map[string]bool{"server": true, "gpu": false}, s.Sources)
	assert.Equal(t, "ok", s.Facts["state"])
	assert.NotContains(t, s.Facts, "slots")
	assert.Equal(t, new(5.), s.Tiles["queue"].Value)
	assert.Equal(t, new(10.), s.Tiles["queue"].Second)
	assert.Len(t, s.Tiles["queue"].Spark, sparkPoints)
	assert.Equal(t, new(5.), s.Tiles["queue"].Spark[sparkPoints-1])
	require.Len(t, s.Servers, 1)
	assert.Equal(t, map[string]any{"state": "ok", "queue": 5.}, s.Servers[0].Values)
	assert.Len(t, s.Servers[0].Sparks["queue"], sparkPoints)
}

func repeat(v float64, n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = v
	}
	return values
}

func TestSnapshot_WhatEndedIsAGap(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(-60*time.Second), time.Second, repeat(3, 11)...) // until :10
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	values := f.snapshotAt(t, after(500*time.Millisecond), time.Minute).Panels["queue"].Series[0].Values
	assert.Equal(t, new(3.), values[22], "the bucket that ends 14 s after the last point")
	assert.Nil(t, values[23])
	assert.Nil(t, values[59])
}

func TestSnapshot_LongBucketsHaveMeanAndExtremes(t *testing.T) {
	p := newPrometheus(t)
	// Two buckets of 10 s: (:40,:50] and (:50,:00].
	p.add(t, queue, after(-19*time.Second), time.Second, 1, 1, 1, 1, 1, 9, 1, 1, 1, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
	f := startFeed(t, newHub(t, p, nil), "window=600&points=60", after(time.Second))
	s := f.snapshotAt(t, after(time.Second), 10*time.Minute)
	require.Equal(t, int64(10_000), s.Step)
	n := s.Points
	one := s.Panels["queue"].Series[0]
	assert.Equal(t, list(2, 2), one.Values[n-3:n-1])
	assert.Equal(t, list(1, 2), one.Low[n-3:n-1])
	assert.Equal(t, list(9, 2), one.High[n-3:n-1])
	free := s.Panels["free"].Series[0]
	assert.Equal(t, list(8, 8), free.Values[n-3:n-1])
	assert.Equal(t, list(1, 8), free.Low[n-3:n-1], "the expression falls as its gauge rises")
	assert.Equal(t, list(9, 8), free.High[n-3:n-1])
}

func TestSnapshot_SummariesAreWhatFunctionsOverTimeSay(t *testing.T) {
	p := newPrometheus(t)
	for i := range 3000 {
		at := after(time.Duration(i)*time.Second - 50*time.Minute)
		if i%400 < 70 || i%7 == 3 { // gaps, and irregular points
			continue
		}
		p.add(t, queue, at.Add(time.Duration(i%5)*100*time.Millisecond), 0, float64(i*7919%101))
		p.add(t, `llamacpp_requests_deferred{instance="b:1"}`, at, 0, float64(i*31%57))
	}
	c := catalogue()
	c.Panels = append(c.Panels,
		dashboards.Panel{ID: "both", Queries: []dashboards.Query{{Expr: `sum(llamacpp_requests_deferred) / scalar(count(llamacpp_requests_deferred))`}}},
		dashboards.Panel{ID: "more", Queries: []dashboards.Query{{Expr: `llamacpp_requests_deferred > 50`}}},
	)
	for _, query := range []string{"window=3000&points=300", "window=3000&points=60"} {
		now := after(3 * time.Second)
		one := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue = c }), query, now)
		two := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue, s.Querier = c, struct{ Querier }{p} }), query, now)
		require.Equal(t, bySelector, one.plan.panels[0].queries[0].summary)
		require.Equal(t, byFunction, two.plan.panels[0].queries[0].summary)
		a, b := one.snapshotAt(t, now, 50*time.Minute), two.snapshotAt(t, now, 50*time.Minute)
		for id, panel := range a.Panels {
			assert.ElementsMatch(t, panel.Series, b.Panels[id].Series, id)
		}
		require.Len(t, a.Panels["both"].Series, 1)
		assert.NotNil(t, a.Panels["both"].Series[0].Low)
	}
}

func TestSnapshot_ThinnedCountersHaveTheSameRate(t *testing.T) {
	p := newPrometheus(t)
	total := 0.
	for i := range 9000 {
		if total += float64(i * 7919 % 101); i%777 == 0 {
			total = 0 // the server restarts
		}
		at := after(time.Duration(i)*time.Second - 9000*time.Second)
		p.add(t, tokens, at.Add(time.Duration(i%5)*100*time.Millisecond), 0, total)
		if i > 4321 && i < 7654 { // begins and ends within a bucket
			p.add(t, `llamacpp_tokens_predicted_total{instance="b:1"}`, at, 0, total)
		}
	}
	c := catalogue()
	c.Panels[1].Queries = []dashboards.Query{
		{Expr: `rate(llamacpp_tokens_predicted_total[$__rate_interval])`},
		{Expr: `sum(increase(llamacpp_tokens_predicted_total[5m]))`},
		{Expr: `max_over_time(llamacpp_tokens_predicted_total[2m])`},
	}
	p.ranges.Store(0)
	one := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue = c }), "window=7200&points=120", noon)
	two := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue, s.Querier = c, struct{ Querier }{p} }), "window=7200&points=120", noon)
	a, b := one.snapshotAt(t, noon, 2*time.Hour), two.snapshotAt(t, noon, 2*time.Hour)
	require.Equal(t, int64(60_000), a.Step)
	require.Len(t, a.Panels["rate"].Series, 5)
	for i, s := range a.Panels["rate"].Series {
		want := b.Panels["rate"].Series[i]
		require.Equal(t, want.Key, s.Key)
		differ := 0
		for j, v := range s.Values {
			switch {
			case v == nil || want.Values[j] == nil:
				assert.Equal(t, want.Values[j], v, "%s, bucket %d", s.Key, j)
			case math.Abs(*v-*want.Values[j]) > 0.02**want.Values[j]:
				assert.InEpsilon(t, *want.Values[j], *v, 0.15, "%s, bucket %d", s.Key, j)
				differ++
			}
		}
		assert.LessOrEqual(t, differ, 10, "only where a series begins or ends")
	}
}

func TestSnapshot_NativeHistogramsAreReadWhole(t *testing.T) {
	p := newPrometheus(t)
	a := p.Appender(t.Context())
	l := labels.FromStrings("__name__", "wait_seconds", "instance", "a:1")
	for i := range int64(300) {
		_, err := a.AppendHistogram(0, l, after(time.Duration(i-300)*time.Second).UnixMilli(), tsdbutil.GenerateTestHistogram(i), nil)
		require.NoError(t, err)
	}
	require.NoError(t, a.Commit())
	c := catalogue()
	c.Panels[0].Queries[0].Expr = `histogram_quantile(0.5, sum by (instance) (rate(wait_seconds{instance=~"$server"}[$__rate_interval])))`
	one := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue = c }), "window=3600&points=60", noon)
	two := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue, s.Querier = c, struct{ Querier }{p} }), "window=3600&points=60", noon)
	s := one.snapshotAt(t, noon, time.Hour).Panels["queue"].Series
	require.Len(t, s, 1)
	assert.NotNil(t, s[0].Values[57])
	assert.Equal(t, two.snapshotAt(t, noon, time.Hour).Panels["queue"].Series, s)
}

func TestFeed_WhatFailsIsLoggedOnceAndHoldsNothingUp(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, noon, time.Second, ramp(10)...)
	p.add(t, `llamacpp_requests_deferred{instance="b:1"}`, noon, time.Second, ramp(10)...)
	c := catalogue()
	c.Panels[1].Queries[0].Expr = `llamacpp_requests_deferred * on () llamacpp_requests_deferred`
	core, logs := observer.New(zap.WarnLevel)
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue, s.Logger = c, zap.New(core) }), "window=60", noon)
	for i := range 3 {
		one := f.framesAt(t, after(time.Duration(i+1)*time.Second+50*time.Millisecond))
		assert.NotEmpty(t, one[0].Panels["queue"])
		assert.Empty(t, one[0].Panels["rate"])
	}
	require.Equal(t, 1, logs.Len())
	assert.Contains(t, logs.All()[0].ContextMap()["error"], "duplicate series")
}

func TestFeed_AClosedBucketIsWhatALaterSnapshotSays(t *testing.T) {
	for _, test := range []struct {
		query string
		step  time.Duration
	}{{"window=60", time.Second}, {"window=120&points=60", 2 * time.Second}, {"window=600&points=60", 10 * time.Second}} {
		t.Run(test.step.String(), func(t *testing.T) {
			p := newPrometheus(t)
			p.add(t, status, after(-time.Minute), time.Second, repeat(1, 60)...)
			f := startFeed(t, newHub(t, p, nil), test.query, after(40*time.Millisecond))
			got := map[string]map[int64]point{}
			var total float64
			end := 45 * time.Second
			for i := range int(end / time.Second) {
				// Points at half seconds; each tick is a little after the full second.
				at := after(time.Duration(i)*time.Second + 500*time.Millisecond)
				total += float64(i * i % 17)
				p.add(t, tokens, at, 0, total)
				p.add(t, queue, at, 0, float64(i*7%5))
				p.add(t, status, at, 0, float64(i/10%2))
				for _, one := range f.framesAt(t, after(time.Duration(i+1)*time.Second+50*time.Millisecond)) {
					for id, points := range one.Panels {
						for _, p := range points {
							if got[id+p.Key] == nil {
								got[id+p.Key] = map[int64]point{}
							}
							got[id+p.Key][one.Bucket] = p
						}
					}
				}
			}
			s := f.snapshotAt(t, after(end+50*time.Millisecond), f.wish.window)
			compared := 0
			for id, panel := range s.Panels {
				for _, one := range panel.Series {
					for i, v := range one.Values[:len(one.Values)-1] {
						bucket := s.Start + int64(i)*s.Step
						if bucket < noon.UnixMilli() {
							continue
						}
						point := got[id+one.Key][bucket]
						assert.Equal(t, v, point.Value, "%s %s: bucket %d", id, one.Key, i)
						if one.Low != nil && point.Low != nil {
							assert.Equal(t, one.Low[i], point.Low)
							assert.Equal(t, one.High[i], point.High)
						}
						compared++
					}
				}
			}
			assert.Greater(t, compared, 10)
		})
	}
}

func TestFeed_ALatePointCorrectsItsBucket(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(-time.Second), time.Second, 1)
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	one := f.framesAt(t, after(1050*time.Millisecond))
	require.Len(t, one, 1)
	assert.Equal(t, noon.UnixMilli(), one[0].Bucket)
	assert.Equal(t, new(1.), one[0].Panels["queue"][0].Value)

	p.add(t, queue, after(900*time.Millisecond), 0, 2) // arrives after the tick
	two := f.framesAt(t, after(2050*time.Millisecond))
	require.Len(t, two, 2)
	assert.Equal(t, noon.UnixMilli(), two[0].Bucket)
	assert.Equal(t, new(2.), two[0].Panels["queue"][0].Value)
	assert.Equal(t, after(time.Second).UnixMilli(), two[1].Bucket)

	three := f.framesAt(t, after(3050*time.Millisecond))
	assert.Len(t, three, 1, "nothing else has changed")
}

func TestFeed_SkippedTicksLeaveNoGap(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, noon, time.Second, 0, 1, 2, 3, 4, 5, 6)
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	f.framesAt(t, after(1050*time.Millisecond))
	var values []float64
	for _, one := range f.framesAt(t, after(5050*time.Millisecond)) {
		values = append(values, *one.Panels["queue"][0].Value)
	}
	assert.Equal(t, []float64{2, 3, 4, 5}, values)

	before := f.last()
	f.tick(t.Context(), after(time.Hour))
	_, _, lost := f.next(before)
	assert.True(t, lost, "an hour later everybody needs a new snapshot")
}

func TestFeed_AnOpenBucketIsReplaced(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(500*time.Millisecond), time.Second, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	f := startFeed(t, newHub(t, p, nil), "window=600&points=60", after(time.Millisecond))
	one := f.framesAt(t, after(1050*time.Millisecond))[0]
	assert.Equal(t, noon.UnixMilli(), one.Bucket)
	assert.Equal(t, new(1.), one.Panels["queue"][0].Value)
	two := f.framesAt(t, after(9050*time.Millisecond))[0]
	assert.Equal(t, noon.UnixMilli(), two.Bucket)
	assert.Equal(t, new(5.), two.Panels["queue"][0].Value)
	assert.Equal(t, new(1.), two.Panels["queue"][0].Low)
	assert.Equal(t, new(9.), two.Panels["queue"][0].High)
	three := f.framesAt(t, after(10050*time.Millisecond))[0]
	assert.Equal(t, noon.UnixMilli(), three.Bucket, "it closes")
	assert.Equal(t, new(5.5), three.Panels["queue"][0].Value)
	four := f.framesAt(t, after(11050*time.Millisecond))[0]
	assert.Equal(t, after(10*time.Second).UnixMilli(), four.Bucket)
}

func TestFeed_ALongOpenBucketIsEvaluatedNowAndThen(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, noon, time.Second, ramp(20)...)
	f := startFeed(t, newHub(t, p, nil), "window=600&points=60", noon)
	var evaluated []int
	for i := 1; i <= 12; i++ {
		one := f.framesAt(t, after(time.Duration(i)*time.Second+50*time.Millisecond))
		require.NotEmpty(t, one)
		last := one[len(one)-1]
		assert.InDelta(t, i, last.Tiles["queue"]["value"], 0, "tiles are of now")
		if last.Panels != nil {
			evaluated = append(evaluated, i)
			assert.Equal(t, floor(after(time.Duration(i)*time.Second-time.Millisecond).UnixMilli(), 10*time.Second), last.Bucket)
		}
	}
	assert.Equal(t, []int{1, 6, 10, 11}, evaluated)
}

func TestFeed_ASeriesIsDescribedWhenItComes(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, noon, time.Second, repeat(1, 3)...)
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	one := f.framesAt(t, after(1050*time.Millisecond))[0].Panels["queue"][0]
	assert.Equal(t, new("waiting at a:1"), one.Name)
	assert.Equal(t, new(0), one.Query)
	assert.Equal(t, map[string]string{"instance": "a:1"}, one.Labels)
	two := f.framesAt(t, after(2050*time.Millisecond))[0].Panels["queue"][0]
	assert.Nil(t, two.Name)
	assert.Nil(t, two.Query)
	assert.Nil(t, two.Labels)
}

func TestFeed_AServerThatComesLaterIsShown(t *testing.T) {
	p := newPrometheus(t)
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	assert.Empty(t, f.plan.server)
	before := f.last()
	p.add(t, status, after(11*time.Second), time.Second, 1, 1)
	p.add(t, `llamacpp_gpu_memory_usage_bytes{instance="a:1",hw_id="GPU-1"}`, after(11*time.Second), time.Second, 5)
	f.tick(t.Context(), after(12050*time.Millisecond))
	assert.Equal(t, "a:1", f.plan.server)
	assert.Equal(t, []string{"GPU-1"}, f.plan.gpus)
	_, _, lost := f.next(before)
	assert.True(t, lost)
}

func TestFeed_RulesComeWhenTheyChange(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, noon, time.Second, repeat(1, 10)...)
	p.add(t, `llamacpp_server_status{instance="b:1",llamacpp_server_state="ok"}`, noon, time.Second, repeat(1, 10)...)
	rules := &firing{}
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Rules = rules }), "window=60&server=a:1", noon)
	assert.Equal(t, new([]ruleJSON{}), f.framesAt(t, after(1050*time.Millisecond))[0].Rules, "the first frame has them")
	assert.Nil(t, f.framesAt(t, after(2050*time.Millisecond))[0].Rules)
	rules.set(
		Rule{Name: "Hot", Labels: map[string]string{"kind": "alert", "severity": "warning", "instance": "host", "hw_id": "GPU-1"}, Since: noon},
		Rule{
			Name: "Queue", Labels: map[string]string{"kind": "bottleneck", "bottleneck": "queue", "priority": "2", "instance": "a:1"},
			Annotations: map[string]string{"summary": "Requests wait", "cure": "Raise --parallel", "runbook_url": "docs"}, Since: noon,
		},
		Rule{Name: "Other", Labels: map[string]string{"kind": "bottleneck", "instance": "b:1"}, Since: noon},
		Rule{Name: "Later", Labels: map[string]string{"kind": "bottleneck", "instance": "b:1", "priority": "9"}, Since: noon},
		Rule{Name: "First", Labels: map[string]string{"kind": "bottleneck", "priority": "1", "instance": "a:1"}, Since: noon},
	)
	got := f.framesAt(t, after(3050*time.Millisecond))[0].Rules
	require.NotNil(t, got)
	require.Len(t, *got, 4)
	assert.Equal(t, "Other", (*got)[0].Name, "of another server its first bottleneck")
	assert.Equal(t, "First", (*got)[1].Name)
	assert.Equal(t, ruleJSON{
		Name: "Queue", Kind: "bottleneck", ID: "queue", Priority: 2, Instance: "a:1",
		Summary: "Requests wait", Cure: "Raise --parallel", Runbook: "docs", Since: noon.UnixMilli(),
	}, (*got)[2])
	assert.Equal(t, "Hot", (*got)[3].Name)
	assert.Empty(t, (*got)[3].Instance, "a GPU's host is no server")
	assert.Nil(t, f.framesAt(t, after(4050*time.Millisecond))[0].Rules)
}

type firing struct {
	mu   sync.Mutex
	list []Rule
}

func (f *firing) set(list ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
}

func (f *firing) Active() []Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list
}

func TestFeed_RunningRequests(t *testing.T) {
	p := newPrometheus(t)
	slot := func(name, more string) string {
		return "llamacpp_slot_" + name + `{instance="a:1",llamacpp_slot_id="1"` + more + "}"
	}
	p.add(t, status, after(-30*time.Second), time.Second, repeat(1, 40)...)
	p.add(t, slot("status", `,llamacpp_slot_state="generating"`), after(-30*time.Second), time.Second, repeat(1, 40)...)
	p.add(t, slot("status", `,llamacpp_slot_state="idle"`), after(-30*time.Second), time.Second, repeat(0, 40)...)
	p.add(t, slot("task", ""), after(-30*time.Second), time.Second, append(repeat(7, 10), append(repeat(8, 22), repeat(9, 8)...)...)...)
	p.add(t, slot("tokens_processed", ""), after(-30*time.Second), time.Second, repeat(100, 40)...)
	p.add(t, slot("tokens_decoded", ""), after(-30*time.Second), time.Second, repeat(20, 40)...)
	p.add(t, slot("tokens_remaining", ""), after(-30*time.Second), time.Second, append(repeat(50, 32), repeat(-1, 8)...)...)
	p.add(t, slot("context_usage_ratio", ""), after(-30*time.Second), time.Second, repeat(0.25, 40)...)
	p.add(t, `llamacpp_slot_status{instance="a:1",llamacpp_slot_id="0",llamacpp_slot_state="idle"}`, after(-30*time.Second), time.Second, repeat(1, 40)...)
	f := startFeed(t, newHub(t, p, nil), "window=60", after(time.Second))
	assert.Equal(t, []runningJSON{{
		Server: "a:1", Slot: 1, Task: 8, State: "generating", Since: after(-20 * time.Second).UnixMilli(),
		Prompt: 100, Generated: 20, Remaining: new(int64(50)), Context: new(0.25),
	}}, f.framesAt(t, after(1050*time.Millisecond))[0].Running)
	next := f.framesAt(t, after(2050*time.Millisecond))[0].Running
	require.Len(t, next, 1)
	assert.Equal(t, int64(9), next[0].Task)
	assert.Equal(t, after(2050*time.Millisecond).UnixMilli(), next[0].Since)
	assert.Nil(t, next[0].Remaining)
}

func TestFeed_Annotations(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, after(-5*time.Minute), time.Second, repeat(1, 310)...)
	p.add(t, tokens, after(-5*time.Minute), time.Second, append(repeat(10, 100), repeat(2, 210)...)...)
	p.add(t, `loadgen_requests_in_flight{job="llamaload",instance="run-1"}`, after(-4*time.Minute), time.Second, repeat(1, 60)...)
	p.add(t, `nvidia_gpu_throttle{hw_id="GPU-1",hw_name="H100",nvidia_gpu_throttle_reason="thermal_hw"}`, after(-30*time.Second), time.Second, append(repeat(0, 10), repeat(1, 30)...)...)
	p.add(t, `ALERTS{alertname="Hot",alertstate="firing",kind="alert",instance="b:1"}`, after(-30*time.Second), time.Second, 1)
	p.add(t, `llamacpp_server_status{instance="b:1",llamacpp_server_state="ok"}`, after(-time.Minute), time.Second, repeat(1, 61)...)
	f := startFeed(t, newHub(t, p, nil), "window=300", after(time.Second))
	notes := f.snapshotAt(t, after(time.Second), 5*time.Minute).Notes
	require.Len(t, notes, 3)
	assert.Equal(t, "load", notes[0].Kind)
	assert.Equal(t, "run-1", notes[0].Run)
	assert.Equal(t, after(-4*time.Minute).UnixMilli(), notes[0].Time)
	assert.InDelta(t, after(-3*time.Minute).UnixMilli(), *notes[0].End, 5000)
	assert.Equal(t, "restart", notes[1].Kind)
	assert.Equal(t, after(-200*time.Second).UnixMilli(), notes[1].Time)
	assert.Equal(t, notes[1].Time, *notes[1].End)
	assert.Equal(t, "throttle", notes[2].Kind)
	assert.Equal(t, "H100 held back: thermal_hw", notes[2].Text)
	assert.Equal(t, after(-20*time.Second).UnixMilli(), notes[2].Time)
	assert.Nil(t, notes[2].End, "it goes on")

	first := f.framesAt(t, after(2050*time.Millisecond))[0].Notes
	require.NotNil(t, first)
	assert.Equal(t, notes, *first)
	assert.Nil(t, f.framesAt(t, after(4050*time.Millisecond))[0].Notes, "nothing has changed")
}

func TestFeed_AnnotationsAreLookedForOnce(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, noon, time.Second, repeat(1, 30)...)
	f := startFeed(t, newHub(t, p, nil), "window=60", noon)
	f.framesAt(t, after(50*time.Millisecond))
	f.notes.risen["mark"] = 1
	for i := range 20 {
		f.framesAt(t, after(time.Duration(i+1)*time.Second+50*time.Millisecond))
		f.snapshotAt(t, after(time.Duration(i+1)*time.Second+40*time.Millisecond), time.Minute)
	}
	assert.Contains(t, f.notes.risen, "mark", "nothing was forgotten and looked for again")
}

func TestSnapshot_StaleMarkerEndsASeries(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(-10*time.Second), time.Second, 1, 1, 1)
	l := labels.FromStrings("__name__", "llamacpp_requests_deferred", "instance", "a:1")
	a := p.Appender(t.Context())
	_, err := a.Append(0, l, after(-7*time.Second).UnixMilli(), math.Float64frombits(value.StaleNaN))
	require.NoError(t, err)
	require.NoError(t, a.Commit())
	f := startFeed(t, newHub(t, p, nil), "window=20", noon)
	values := f.snapshotAt(t, noon, 20*time.Second).Panels["queue"].Series[0].Values
	assert.Equal(t, list(1, 1, 1, nil, nil), values[8:13])
}
