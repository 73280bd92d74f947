// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSnapshot_OfALongWindowGoesOnFromTheOneBefore(t *testing.T) {
	for _, query := range []string{"window=7200&points=120", "window=7200&points=720"} {
		t.Run(query, func(t *testing.T) {
			p := newPrometheus(t, func(o *tsdb.Options) { o.OutOfOrderTimeWindow = (5 * time.Minute).Milliseconds() })
			p.add(t, status, after(-2*time.Hour), time.Second, repeat(1, 2*3600)...)
			p.add(t, queue, after(-2*time.Hour), time.Second, ramp(2*3600)...)
			p.add(t, tokens, after(-time.Hour), time.Second, ramp(3600)...)
			f := startFeed(t, newHub(t, p, nil), query+"&server=a:1&gpu=1", noon)
			compare := func(at time.Duration) {
				t.Helper()
				one := f.snapshotAt(t, after(at), 2*time.Hour)
				fresh := startFeed(t, newHub(t, p, nil), query+"&server=a:1&gpu=1", after(at)).snapshotAt(t, after(at), 2*time.Hour)
				for id, panel := range fresh.Panels {
					got := one.Panels[id].Series
					for _, list := range [][]line{got, panel.Series} {
						slices.SortFunc(list, func(a, b line) int { return cmp.Compare(a.Key, b.Key) })
					}
					assert.Equal(t, panel.Series, got, "%s at %s", id, at)
				}
			}
			compare(0)
			require.NotEmpty(t, f.hub.past.of(f.plan.view).panels[0])
			kept := f.hub.past.of(f.plan.view)
			assert.Positive(t, kept.closed)
			assert.Equal(t, after(-2*time.Hour).UnixMilli()+f.wish.step.Milliseconds(), kept.start)
			for i := range 20 {
				at := time.Duration(i+1) * 97 * time.Second
				p.add(t, tokens, after(at), 0, float64(3600+i*i))
				p.add(t, `hw_temperature_celsius{hw_id="1"}`, after(at), 0, float64(i))
				if i%3 == 0 { // as late as can be
					p.add(t, `hw_temperature_celsius{hw_id="1"}`, after(at-290*time.Second), 0, 50)
				}
				compare(at + 3*time.Second)
			}
			compare(time.Hour)
			compare(4 * time.Hour)
		})
	}
}

func TestSnapshot_OfALongWindowIsEvaluatedOnce(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(-6*time.Hour), 5*time.Second, ramp(6*720)...)
	f := startFeed(t, newHub(t, p, nil), "window=21600&server=a:1&gpu=1", noon)
	f.snapshotAt(t, noon, 6*time.Hour)
	view := f.hub.past.of(f.plan.view)
	kept := view.panels[0][0]
	kept.mean[7] = 12345
	assert.Equal(t, new(12345.), f.snapshotAt(t, after(time.Second), 6*time.Hour).Panels["queue"].Series[0].Values[7])
	shorter := f.snapshotAt(t, after(time.Second), 3*time.Hour)
	assert.NotEmpty(t, shorter.Panels["queue"].Series)
	assert.Equal(t, new(12345.), f.snapshotAt(t, after(time.Second), 6*time.Hour).Panels["queue"].Series[0].Values[7], "the longer one is still there")
	for _, server := range []string{"b", "c", "d", "e"} {
		f.hub.past.of(view0(server))
	}
	assert.Len(t, f.hub.past.views, pastViews)
	assert.Nil(t, f.hub.past.of(f.plan.view).panels)
}

func view0(server string) view { return view{server: server} }

func TestSnapshot_WhatFailedIsNotKept(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, queue, after(-2*time.Hour), 5*time.Second, ramp(2*720)...)
	p.add(t, `llamacpp_requests_deferred{instance="b:1"}`, after(-2*time.Hour), 5*time.Second, ramp(2*720)...)
	c := catalogue()
	c.Panels[1].Queries[0].Expr = `llamacpp_requests_deferred * on () llamacpp_requests_deferred`
	f := startFeed(t, newHub(t, p, func(s *Settings) { s.Catalogue, s.Logger = c, nil }), "window=7200&server=a:1&gpu=1", noon)
	f.snapshotAt(t, noon, 2*time.Hour)
	assert.Nil(t, f.hub.past.of(f.plan.view).panels)
}
