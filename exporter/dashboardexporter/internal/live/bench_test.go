// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

// busy returns a store that has, for some time, the series that the catalogue asks
// for: one server at 1 s, its GPUs at 2 s.
func busy(b *testing.B, c *dashboards.Catalogue, length time.Duration, gpus int) *prometheus {
	b.Helper()
	p := newPrometheus(b, func(o *tsdb.Options) { o.MinBlockDuration = tsdb.DefaultBlockDuration })
	found := map[string]labels.Labels{}
	look := func(expr string) {
		if expr == "" {
			return
		}
		tree, err := promqlParser.ParseExpr(substitute(expr, view{}, defaultInterval))
		require.NoError(b, err)
		parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				for _, l := range seriesFor(s, gpus) {
					found[l.String()] = l
				}
			}
			return nil
		})
	}
	look(`llamacpp_server_status{llamacpp_server_state="ok",instance=~"$server"}`)
	for _, panel := range c.Panels {
		for _, q := range panel.Queries {
			look(q.Expr)
		}
	}
	for _, t := range c.Tiles {
		look(t.Expr)
	}
	type one struct {
		labels.Labels
		ref   storage.SeriesRef
		total float64
	}
	var all []*one
	for _, l := range found {
		all = append(all, &one{Labels: l})
	}
	points := 0
	a := p.Appender(b.Context())
	// In the order of time, or the store would refuse what is old.
	for at := noon.Add(-length); !at.After(noon.Add(time.Minute)); at = at.Add(time.Second) {
		for i, s := range all {
			if at.Unix()%2 == 1 && s.Has("hw_id") {
				continue
			}
			v := float64((at.Unix() + int64(i)) * 7919 % 997)
			if strings.HasSuffix(s.Get("__name__"), "_total") || s.Has("le") {
				s.total += v
				v = s.total
			}
			var err error
			s.ref, err = a.Append(s.ref, s.Labels, at.UnixMilli(), v)
			require.NoError(b, err)
			points++
		}
		if at.Unix()%60 == 0 {
			require.NoError(b, a.Commit())
			a = p.Appender(b.Context())
		}
	}
	require.NoError(b, a.Commit())
	require.NoError(b, p.Compact(b.Context())) // blocks of two hours, as time makes them
	b.Logf("%d series, %d points", len(found), points)
	return p
}

// seriesFor returns series that a selector matches.
func seriesFor(s *parser.VectorSelector, gpus int) []labels.Labels {
	base := labels.NewBuilder(labels.EmptyLabels())
	gpu := false
	for _, m := range s.LabelMatchers {
		switch {
		case m.Type == labels.MatchEqual:
			base.Set(m.Name, m.Value)
		case m.Name == "instance":
			base.Set(m.Name, "localhost:8080")
		case m.Name == "hw_id":
			gpu = true
		}
	}
	if strings.HasSuffix(s.Name, "_bucket") {
		var all []labels.Labels
		for i := range 12 {
			all = append(all, base.Set("le", fmt.Sprint(0.01*float64(int(1)<<i))).Labels())
		}
		return append(all, base.Set("le", "+Inf").Labels())
	}
	if !gpu {
		return []labels.Labels{base.Labels()}
	}
	var all []labels.Labels
	for i := range gpus {
		all = append(all, base.Set("hw_id", fmt.Sprintf("GPU-%d", i)).Set("instance", "host").Labels())
	}
	return all
}

func benchmarked(b *testing.B, query string, length time.Duration) *feed {
	b.Helper()
	c, err := dashboards.Load()
	require.NoError(b, err)
	p := busy(b, c, length, 8)
	f := startFeed(b, newHub(b, p, func(s *Settings) { s.Catalogue, s.Logger = c, nil }), query, noon)
	f.tick(b.Context(), noon.Add(50*time.Millisecond))
	return f
}

// BenchmarkTick is what a second costs, however many look.
func BenchmarkTick(b *testing.B) {
	for _, query := range []string{"window=300", "window=86400&points=720"} {
		b.Run(query, func(b *testing.B) {
			f := benchmarked(b, query, 10*time.Minute)
			b.ReportAllocs()
			at := noon
			for b.Loop() {
				if at = at.Add(time.Second); at.After(noon.Add(50 * time.Second)) {
					at, f.closed, f.notes = noon, noon.UnixMilli(), &notes{}
				}
				f.tick(b.Context(), at.Add(50*time.Millisecond))
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			b.ReportMetric(float64(len(f.frames[len(f.frames)-1])), "frame-bytes")
		})
	}
}

// BenchmarkSecond is what a second of one server and one GPU costs at the default
// intervals, however many look: of slots 0.5 s, of the server and the log 1 s, of the
// GPU 2 s.
func BenchmarkSecond(b *testing.B) {
	for _, mode := range []string{"clock", "arrivals"} {
		b.Run(mode, func(b *testing.B) {
			c, err := dashboards.Load()
			require.NoError(b, err)
			c.Panels = slices.DeleteFunc(c.Panels, func(p dashboards.Panel) bool { return p.Group == "load" })
			p := busy(b, c, 10*time.Minute, 1)
			h := newHub(b, p, func(s *Settings) { s.Catalogue, s.Logger = c, nil })
			f := startFeed(b, h, "window=300", noon)
			sources := map[string]map[string]int64{"slots": {}, "server": {}, "log": {}, "gpu": {}}
			for _, panel := range f.plan.panels {
				for name := range panel.needs.families {
					from := "server"
					switch {
					case strings.HasPrefix(name, "hw_"), strings.HasPrefix(name, "nvidia_"), strings.HasPrefix(name, "llamacpp_gpu_"):
						from = "gpu"
					case strings.HasPrefix(name, "llamacpp_slots"), strings.HasPrefix(name, "llamacpp_context_"):
						from = "slots"
					case strings.HasPrefix(name, "gen_ai_"), strings.HasPrefix(name, "llamacpp_request"), strings.HasPrefix(name, "llamacpp_log"):
						from = "log"
					}
					sources[from][name] = math.MaxInt64
				}
			}
			h.told.Store(mode == "arrivals")
			arrive := func(at time.Time, from string) {
				f.hear(sources[from], at.UnixMilli())
				f.update(b.Context(), at)
			}
			at := noon
			var before, used syscall.Rusage
			b.ReportAllocs()
			require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
			for b.Loop() {
				if at = at.Add(time.Second); at.After(noon.Add(50 * time.Second)) {
					at, f.closed, f.notes = noon, noon.UnixMilli(), &notes{}
				}
				f.tick(b.Context(), at.Add(50*time.Millisecond))
				if mode == "clock" {
					continue
				}
				arrive(at.Add(150*time.Millisecond), "slots")
				arrive(at.Add(300*time.Millisecond), "server")
				arrive(at.Add(450*time.Millisecond), "log")
				arrive(at.Add(650*time.Millisecond), "slots")
				if at.Unix()%2 == 0 {
					arrive(at.Add(800*time.Millisecond), "gpu")
				}
			}
			require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
			b.ReportMetric(float64(used.Utime.Nano()+used.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())/float64(b.N)/1e6, "cpu-ms/op")
		})
	}
}

// BenchmarkSnapshot is what opening the page costs.
func BenchmarkSnapshot(b *testing.B) {
	for _, test := range []struct {
		name, query string
		window      time.Duration
		again       bool
	}{{"5m", "window=300", 5 * time.Minute, true}, {"24h", "window=86400&points=720", 24 * time.Hour, false}, {"24h-again", "window=86400&points=720", 24 * time.Hour, true}} {
		b.Run(test.name, func(b *testing.B) {
			f := benchmarked(b, test.query, test.window)
			b.ReportAllocs()
			var d document
			for b.Loop() {
				if !test.again {
					f.hub.past.views, f.notes = nil, &notes{}
				}
				var err error
				d, err = newDocument(f.snapshot(b.Context(), noon.Add(50*time.Millisecond).UnixMilli(), test.window))
				require.NoError(b, err)
			}
			b.ReportMetric(float64(len(d.zipped)), "gzip-bytes")
		})
	}
}
