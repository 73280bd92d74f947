// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
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

// summaries is a storage that has as many points as a chart with long buckets needs.
//
// The series of instant vectors have one point for each bucket: the mean, the least
// or the greatest of its points. The engine then evaluates an expression on a few
// points three times, and what is stored is read once; three functions over time
// read each point thrice, and not as fast.
//
// The series of rates are thinned: of a counter, the first and the last point of a
// bucket and those around a reset are what counts.
type summaries struct {
	storage storage.Queryable
	step    int64 // milliseconds between the ends of buckets; 0: there is one
	covers  int64 // milliseconds that a point summarizes; 0: instant vectors are as they are

	mu   sync.Mutex
	read map[string]*selection
}

// selection is what a selector found.
type selection struct {
	once   sync.Once
	series []summarized
	err    error
	// whole: it cannot be summarized, and is to be read as it is.
	whole bool
}

// summarized is a series, with its points by the part of a bucket that they show.
type summarized struct {
	labels labels.Labels
	points [3]samples
}

// part is what a point of a summary is.
type part int

const (
	mean part = iota
	low
	high
)

const (
	// thinAbove is the step from which on rates are thinned, and thinTo is how many
	// points of a bucket are kept: with the mean distance of points, rate judges
	// whether a series begins or ends within its range.
	thinAbove = 30 * time.Second
	thinTo    = 6
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
	var read func(storage.Series) (summarized, bool)
	wider := storage.SelectHints{}
	switch {
	case hints == nil:
	case hints.Range == 0 && q.covers > 0:
		wider = *hints
		wider.Start -= q.covers
		wider.Func = "" // the storage must not take it for a hint to leave points out
		read = func(s storage.Series) (summarized, bool) { return q.summarize(s, hints.Start, hints.End), true }
	case (hints.Func == "rate" || hints.Func == "increase") && q.step >= thinAbove.Milliseconds() && hints.Range%q.step == 0:
		wider = *hints
		read = func(s storage.Series) (summarized, bool) { return q.thin(s, hints.End) }
	}
	if read == nil {
		return q.Querier.Select(ctx, sorted, hints, matchers...)
	}
	var key strings.Builder
	fmt.Fprint(&key, hints.Start, hints.End, hints.Range)
	for _, m := range matchers {
		key.WriteByte(',')
		key.WriteString(m.String())
	}
	q.mu.Lock()
	found := q.read[key.String()]
	if found == nil {
		if q.read == nil {
			q.read = map[string]*selection{}
		}
		found = &selection{}
		q.read[key.String()] = found
	}
	q.mu.Unlock()
	found.once.Do(func() {
		set := q.Querier.Select(ctx, true, &wider, matchers...)
		for set.Next() && ctx.Err() == nil {
			one, ok := read(set.At())
			if !ok {
				found.whole = true
				return
			}
			if len(one.points[mean]) > 0 {
				found.series = append(found.series, one)
			}
		}
		found.err = cmp.Or(set.Err(), ctx.Err())
	})
	if found.whole {
		return q.Querier.Select(ctx, sorted, hints, matchers...)
	}
	if found.err != nil {
		return storage.ErrSeriesSet(found.err)
	}
	return &summarySet{all: found.series, which: q.which}
}

// thin reads a counter, unless it is a native histogram. The last point of a bucket is at or before its end, which
// is a number of steps before end.
func (s *summaries) thin(series storage.Series, end int64) (summarized, bool) {
	out := summarized{labels: series.Labels()}
	var kept samples
	var last sample // it may be the last of its bucket
	pending := false
	apart := s.step / thinTo
	bucket := int64(math.MinInt64)
	it := series.Iterator(nil)
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		if kind != chunkenc.ValFloat {
			return summarized{}, false
		}
		t, v := it.At()
		in := (end - t) / s.step // as many steps before the last bucket
		now := sample{t, v}
		first := in != bucket
		// v < last.f is a reset; what is not a number says that the series has ended.
		if !pending && len(kept) == 0 || first || v < last.f || math.IsNaN(v) || math.IsNaN(last.f) {
			if pending {
				kept = append(kept, last)
			}
			kept, pending = append(kept, now), false
		} else if pending = t-kept[len(kept)-1].t < apart; !pending {
			kept = append(kept, now)
		}
		last, bucket = now, in
	}
	if pending {
		kept = append(kept, last)
	}
	out.points = [3]samples{kept, kept, kept}
	return out, true
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
			if len(before) == 0 || value.IsStaleNaN(before[len(before)-1].f) {
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

// sample is a point with a number.
type sample struct {
	t int64
	f float64
}

func (s *sample) T() int64                      { return s.t }
func (s *sample) ST() int64                     { return 0 }
func (s *sample) F() float64                    { return s.f }
func (s *sample) H() *histogram.Histogram       { return nil }
func (s *sample) FH() *histogram.FloatHistogram { return nil }
func (s *sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s *sample) Copy() chunks.Sample           { return &sample{s.t, s.f} }

// samples implement storage.Samples.
type samples []sample

func (s samples) Get(i int) chunks.Sample { return &s[i] }
func (s samples) Len() int                { return len(s) }

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
	return &storage.SeriesEntry{Lset: one.labels, SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator {
		return storage.NewListSeriesIterator(one.points[s.which])
	}}
}

func (*summarySet) Err() error                        { return nil }
func (*summarySet) Warnings() annotations.Annotations { return nil }

// summarizer evaluates one part of an expression. Without open, the bucket that is
// open is evaluated on what is stored.
func (h *Hub) summarizer(closed, open *summaries, expr string, which part) evaluation {
	e := h.overTime(expr)
	e.span = func(ctx context.Context, first, last int64, step time.Duration) (promql.Matrix, error) {
		r, err := h.engine.NewRangeQuery(ctx, closed.of(which), nil, expr, time.UnixMilli(first), time.UnixMilli(last), step)
		if err != nil {
			return nil, err
		}
		result := r.Exec(ctx)
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Matrix()
	}
	if open == nil {
		return e
	}
	e.instant = func(ctx context.Context, at int64, _ time.Duration) (promql.Vector, error) {
		r, err := h.engine.NewInstantQuery(ctx, open.of(which), nil, expr, time.UnixMilli(at))
		if err != nil {
			return nil, err
		}
		result := r.Exec(ctx)
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Vector()
	}
	return e
}
