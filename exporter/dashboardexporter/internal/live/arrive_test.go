// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

func TestNeeds(t *testing.T) {
	for expr, want := range map[string]struct {
		families []string
		reach    time.Duration
		always   bool
	}{
		`a{x="1"} + b`:                        {[]string{"a", "b"}, 0, false},
		`rate(a_total[30s])`:                  {[]string{"a_total"}, 30 * time.Second, false},
		`sum(rate(a_bucket[30s] offset 1m))`:  {[]string{"a", "a_bucket"}, 90 * time.Second, false},
		`max_over_time(rate(a[30s])[5m:1s])`:  {[]string{"a"}, 330 * time.Second, false},
		`rate(a_count[1m]) / rate(a_sum[1m])`: {[]string{"a", "a_count", "a_sum"}, time.Minute, false},
		`llamacpp:rate`:                       {nil, 0, true},
		`{__name__=~"a.+"}`:                   {nil, 0, true},
		`time() - a`:                          {[]string{"a"}, 0, true},
		`absent(a)`:                           {[]string{"a"}, 0, true},
		`a @ 100`:                             {[]string{"a"}, 0, true},
		`1`:                                   {nil, 0, true},
	} {
		n := needsOf(expr)
		assert.Equal(t, want.families, slices.Sorted(maps.Keys(n.families)), expr)
		assert.Equal(t, want.reach, n.reach, expr)
		assert.Equal(t, want.always, n.always, expr)
	}
}

// arrive appends a point and shows it.
func (f *feed) arriveAt(tb testing.TB, at time.Time, oldest time.Time, families ...string) []frame {
	tb.Helper()
	f.hub.told.Store(true)
	arrived := map[string]int64{}
	for _, name := range families {
		arrived[name] = oldest.UnixMilli()
	}
	f.hear(arrived, at.UnixMilli())
	return f.framesOf(tb, func() { f.update(tb.Context(), at) })
}

func TestFeed_OnlyWhatDependsOnWhatArrivedIsEvaluated(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, after(-time.Minute), time.Second, repeat(1, 65)...)
	p.add(t, queue, after(-time.Minute), time.Second, repeat(3, 65)...)
	p.add(t, tokens, after(-time.Minute), time.Second, ramp(65)...)
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue.Overview = nil }), "window=60", noon)
	f.hub.told.Store(true)
	f.framesAt(t, after(50*time.Millisecond))
	f.framesAt(t, after(1050*time.Millisecond))

	p.instants.Store(0)
	p.ranges.Store(0)
	one := f.arriveAt(t, after(1500*time.Millisecond), after(1490*time.Millisecond), "llamacpp_tokens_predicted_total")
	require.Len(t, one, 1)
	assert.Equal(t, after(time.Second).UnixMilli(), one[0].Bucket)
	assert.Equal(t, []string{"rate"}, slices.Collect(maps.Keys(one[0].Panels)))
	assert.Equal(t, int64(1), p.instants.Load()+p.ranges.Load())

	p.instants.Store(0)
	one = f.arriveAt(t, after(1700*time.Millisecond), after(1690*time.Millisecond), "llamacpp_requests_deferred")
	assert.Equal(t, []string{"free", "queue"}, slices.Sorted(maps.Keys(one[0].Panels)))
	assert.InDelta(t, 3, one[0].Tiles["queue"]["value"], 0)
	assert.Equal(t, int64(4), p.instants.Load()+p.ranges.Load(), "two panels, a tile and what is beside it")

	p.instants.Store(0)
	assert.Empty(t, f.arriveAt(t, after(1900*time.Millisecond), after(1890*time.Millisecond), "something_else"))
	assert.Equal(t, int64(0), p.instants.Load()+p.ranges.Load())
}

func TestFeed_WhatHasNoDataCostsNothing(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, after(-time.Minute), time.Second, repeat(1, 165)...)
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue.Overview = nil }), "window=60&server=a:1&gpu=1", noon)
	count := func(at time.Duration) int64 {
		p.instants.Store(0)
		p.ranges.Store(0)
		f.arriveAt(t, after(at-500*time.Millisecond), after(at-500*time.Millisecond), "llamacpp_server_status")
		f.framesAt(t, after(at+50*time.Millisecond))
		return p.instants.Load() + p.ranges.Load()
	}
	assert.Greater(t, count(2*time.Second), int64(8))
	for i := 3; i < 60; i++ {
		count(time.Duration(i) * time.Second)
	}
	assert.LessOrEqual(t, count(61*time.Second), int64(7), "alerts, sleep, the servers, the state and its fact, when a point comes and when the bucket ends")
	p.add(t, queue, after(61900*time.Millisecond), time.Second, 7)
	one := f.arriveAt(t, after(61950*time.Millisecond), after(61900*time.Millisecond), "llamacpp_requests_deferred")
	assert.Equal(t, new(7.), one[0].Panels["queue"][0].Value)
	assert.Equal(t, new(7.), f.framesAt(t, after(62050*time.Millisecond))[0].Panels["queue"][0].Value)
}

func TestFeed_AClosedBucketIsWhatALaterSnapshotSays_WithArrivals(t *testing.T) {
	for query, step := range map[string]time.Duration{"window=60": time.Second, "window=120&points=60": 2 * time.Second, "window=600&points=60": 10 * time.Second} {
		t.Run(step.String(), func(t *testing.T) {
			p := newPrometheus(t)
			p.add(t, status, after(-time.Minute), time.Second, repeat(1, 60)...)
			f := startFeed(t, newHub(t, p, nil), query, after(40*time.Millisecond))
			got := map[string]map[int64]*float64{}
			take := func(frames []frame) {
				for _, one := range frames {
					for id, points := range one.Panels {
						for _, p := range points {
							if got[id+p.Key] == nil {
								got[id+p.Key] = map[int64]*float64{}
							}
							got[id+p.Key][one.Bucket] = p.Value
						}
					}
				}
			}
			var total float64
			for i := range 45 {
				at := after(time.Duration(i) * time.Second)
				total += float64(i * i % 17)
				p.add(t, tokens, at.Add(300*time.Millisecond), 0, total)
				take(f.arriveAt(t, at.Add(320*time.Millisecond), at.Add(300*time.Millisecond), "llamacpp_tokens_predicted_total"))
				p.add(t, status, at.Add(500*time.Millisecond), 0, float64(i/10%2))
				if i < 20 { // then it ends
					p.add(t, queue, at.Add(600*time.Millisecond), 0, float64(i*7%5))
				}
				take(f.arriveAt(t, at.Add(620*time.Millisecond), at.Add(500*time.Millisecond), "llamacpp_server_status", "llamacpp_requests_deferred"))
				take(f.framesAt(t, at.Add(1050*time.Millisecond)))
				if i%5 == 0 { // comes late
					p.add(t, `hw_temperature_celsius{hw_id="GPU-1"}`, at.Add(900*time.Millisecond), 0, float64(i))
					take(f.arriveAt(t, at.Add(1090*time.Millisecond), at.Add(900*time.Millisecond), "hw_temperature_celsius"))
				}
			}
			take(f.framesAt(t, after(46050*time.Millisecond)))
			s := f.snapshotAt(t, after(46050*time.Millisecond), f.wish.window)
			compared := 0
			for id, panel := range s.Panels {
				for _, one := range panel.Series {
					for i, v := range one.Values[:len(one.Values)-1] {
						if bucket := s.Start + int64(i)*s.Step; bucket >= noon.UnixMilli() {
							assert.Equal(t, v, got[id+one.Key][bucket], "%s %s: bucket %d", id, one.Key, i)
							compared++
						}
					}
				}
			}
			assert.Greater(t, compared, 10)
		})
	}
}

func TestFeed_AProvisionalValueThatDidNotLastIsTakenBack(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		p := newPrometheus(t)
		c := catalogue()
		c.Panels[0].Queries[0].Expr = `llamacpp_requests_deferred{instance=~"$server"} > 5`
		f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue = c }), "window=60&server=a:1&gpu=1", noon)
		f.framesAt(t, after(50*time.Millisecond))
		p.add(t, queue, after(300*time.Millisecond), 400*time.Millisecond, 9)
		if snapshot {
			s := f.snapshotAt(t, after(400*time.Millisecond), time.Minute)
			assert.Equal(t, new(9.), s.Panels["queue"].Series[0].Values[59])
		} else {
			one := f.arriveAt(t, after(320*time.Millisecond), after(300*time.Millisecond), "llamacpp_requests_deferred")
			assert.Equal(t, new(9.), one[0].Panels["queue"][0].Value)
			assert.NotNil(t, one[0].Panels["queue"][0].Name)
		}
		p.add(t, queue, after(700*time.Millisecond), 0, 2)
		one := f.framesAt(t, after(1050*time.Millisecond))
		require.Len(t, one, 1)
		require.Len(t, one[0].Panels["queue"], 1)
		assert.Equal(t, point{Key: `0{instance="a:1"}`}, one[0].Panels["queue"][0], "its value is null")
		assert.Empty(t, f.framesAt(t, after(2050*time.Millisecond))[0].Panels["queue"], "it is said once")
		assert.Empty(t, f.open)
	}
}

func TestFeed_ASnapshotThatComesTooLateLeavesItsOpenBucketToFrames(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, noon, 100*time.Millisecond, repeat(3, 5)...)
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue = &dashboards.Catalogue{Panels: catalogue().Panels} }), "window=60&server=a:1&gpu=1", noon)
	f.framesAt(t, after(1050*time.Millisecond))
	values := f.snapshotAt(t, after(900*time.Millisecond), time.Minute).Panels["queue"].Series[0].Values
	assert.Nil(t, values[59])
	assert.Equal(t, new(3.), values[58])
}
