// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// summaries is a storage in which the series of instant vectors have one point for
// each bucket: the mean, the least or the greatest of its points. The engine then
// evaluates an expression on a few points three times, and what is stored is read
// once; three functions over time read each point thrice, and not as fast.
type summaries struct {
	storage storage.Queryable
	step    int64 // milliseconds between the ends of buckets; 0: there is one
	covers  int64 // milliseconds that a point summarizes

	mu   sync.Mutex
	read map[string][]summarized
}

// summarized is a series, with its points by the part of a bucket that they show.
type summarized struct {
	labels labels.Labels
	points [3][]chunks.Sample
}

// part is what a point of a summary is.
type part int

const (
	mean part = iota
	low
	high
)

// of returns the storage that has one part.
func (s *summaries) of(which part) storage.Queryable {
	return storage.QueryableFunc(func(first, last int64) (storage.Querier, error) {
		q, err := s.storage.Querier(first-s.covers, last)
		if err != nil {
			return nil, err
		}
		return summaryQuerier{q, s, which}, nil
	})
}

type summaryQuerier struct {
	storage.Querier
	*summaries
	which part
}

// Select implements storage.Querier.
func (q summaryQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	if hints == nil || hints.Range > 0 {
		return q.Querier.Select(ctx, sorted, hints, matchers...)
	}
	var key strings.Builder
	fmt.Fprint(&key, hints.Start, hints.End)
	for _, m := range matchers {
		key.WriteByte(',')
		key.WriteString(m.String())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	all, ok := q.read[key.String()]
	if !ok {
		wider := *hints
		wider.Start -= q.covers
		wider.Func = "" // the storage must not take it for a hint to leave points out
		set := q.Querier.Select(ctx, true, &wider, matchers...)
		for set.Next() {
			one := q.summarize(set.At(), hints.Start, hints.End)
			if len(one.points[mean]) > 0 {
				all = append(all, one)
			}
		}
		if err := set.Err(); err != nil {
			return storage.ErrSeriesSet(err)
		}
		if q.read == nil {
			q.read = map[string][]summarized{}
		}
		q.read[key.String()] = all
	}
	return &summarySet{all: all, which: q.which}
}

// summarize reads a series. A bucket without points that follows one with points
// ends the series, so that the engine does not look back across it.
func (s *summaries) summarize(series storage.Series, first, last int64) summarized {
	out := summarized{labels: series.Labels()}
	end := last // of the bucket that is filled
	if s.step > 0 {
		end = last - (last-first)/s.step*s.step
	}
	var sum, least, most float64
	n := 0
	flush := func() {
		v := [3]float64{sum / float64(n), least, most}
		if n == 0 {
			before := out.points[mean]
			if len(before) == 0 || value.IsStaleNaN(before[len(before)-1].F()) {
				return
			}
			stale := math.Float64frombits(value.StaleNaN)
			v = [3]float64{stale, stale, stale}
		}
		for i := range v {
			out.points[i] = append(out.points[i], sample{end, v[i]})
		}
		sum, n = 0, 0
	}
	it := series.Iterator(nil)
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		if kind != chunkenc.ValFloat {
			continue
		}
		t, v := it.At()
		for t > end && end < last {
			flush()
			end += s.step
		}
		if t > end || t <= end-s.covers || math.IsNaN(v) {
			continue
		}
		if n == 0 {
			least, most = v, v
		}
		sum += v
		n++
		least, most = min(least, v), max(most, v)
	}
	for ; end < last; end += s.step {
		flush()
	}
	flush()
	return out
}

// sample is one of a number.
type sample struct {
	t int64
	f float64
}

func (p sample) T() int64                      { return p.t }
func (p sample) ST() int64                     { return 0 }
func (p sample) F() float64                    { return p.f }
func (p sample) H() *histogram.Histogram       { return nil }
func (p sample) FH() *histogram.FloatHistogram { return nil }
func (p sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p sample) Copy() chunks.Sample           { return p }

// summarySet is one part of all series.
type summarySet struct {
	all   []summarized
	which part
	next  int
}

func (s *summarySet) Next() bool {
	s.next++
	return s.next <= len(s.all)
}

func (s *summarySet) At() storage.Series {
	one := s.all[s.next-1]
	return storage.NewListSeries(one.labels, one.points[s.which])
}

func (*summarySet) Err() error                        { return nil }
func (*summarySet) Warnings() annotations.Annotations { return nil }

// summarizer evaluates one part of an expression.
func (h *Hub) summarizer(closed, open *summaries, expr string, which part) evaluation {
	return evaluation{
		span: func(ctx context.Context, first, last int64, step time.Duration) (promql.Matrix, error) {
			r, err := h.settings.Engine.NewRangeQuery(ctx, closed.of(which), nil, expr, time.UnixMilli(first), time.UnixMilli(last), step)
			if err != nil {
				return nil, err
			}
			result := r.Exec(ctx)
			if result.Err != nil {
				return nil, result.Err
			}
			return result.Matrix()
		},
		instant: func(ctx context.Context, at int64, _ time.Duration) (promql.Vector, error) {
			r, err := h.settings.Engine.NewInstantQuery(ctx, open.of(which), nil, expr, time.UnixMilli(at))
			if err != nil {
				return nil, err
			}
			result := r.Exec(ctx)
			if result.Err != nil {
				return nil, result.Err
			}
			return result.Vector()
		},
	}
}
