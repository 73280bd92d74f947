// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"math"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// buckets are lengths of time in a row, aligned to the clock. Bucket t is written
// [t, t+step), and has what is known at its end: the points of (t, t+step].
type buckets struct {
	start  int64 // milliseconds; of the first
	step   time.Duration
	closed int
	// now is the time until which one more bucket is filled, which is still open;
	// 0: there is none.
	now int64
}

func (b buckets) len() int {
	if b.now != 0 {
		return b.closed + 1
	}
	return b.closed
}

// floor returns the last multiple of step that is not after t. It is the start of
// the bucket that is open at t.
func floor(t int64, step time.Duration) int64 { return t - t%step.Milliseconds() }

// window returns the buckets of a window that ends in the bucket that is open now.
func window(now int64, length, step time.Duration) buckets {
	n := int((length + step - 1) / step)
	return buckets{start: floor(now, step) - int64(n-1)*step.Milliseconds(), step: step, closed: n - 1, now: now}
}

// series is one line of a panel. Where it has no value, it is NaN.
type series struct {
	key    string
	name   string
	query  int
	labels map[string]string
	mean   []float64
	low    []float64 // nil without extremes of its own; so is high
	high   []float64
}

// evaluation evaluates an expression at the ends of buckets, or as of now for a
// bucket that covers some time until now.
type evaluation struct {
	span    func(ctx context.Context, first, last int64, step time.Duration) (promql.Matrix, error)
	instant func(ctx context.Context, at int64, covers time.Duration) (promql.Vector, error)
}

// evaluations returns those for mean, low and high, or one for all.
func (h *Hub) evaluations(q queryPlan, closed, open *summaries) []evaluation {
	switch {
	case q.summary == byFunction:
		var all []evaluation
		for _, expr := range q.parts {
			all = append(all, h.overTime(expr))
		}
		return all
	case q.summary == bySelector:
		return []evaluation{
			h.summarizer(closed, open, q.expr, mean), h.summarizer(closed, open, q.expr, low), h.summarizer(closed, open, q.expr, high),
		}
	case h.engine != nil && closed.step >= thinAbove.Milliseconds():
		return []evaluation{h.summarizer(closed, nil, q.expr, mean)}
	default:
		return []evaluation{h.overTime(q.expr)}
	}
}

// overTime evaluates an expression with functions over the time of a bucket.
func (h *Hub) overTime(expr string) evaluation {
	return evaluation{
		span: func(ctx context.Context, first, last int64, step time.Duration) (promql.Matrix, error) {
			return h.settings.Querier.Range(ctx, over(expr, step), time.UnixMilli(first), time.UnixMilli(last), step)
		},
		instant: func(ctx context.Context, at int64, covers time.Duration) (promql.Vector, error) {
			return h.settings.Querier.Instant(ctx, over(expr, covers), time.UnixMilli(at))
		},
	}
}

// panels evaluates some panels, a few at once. The result has a place for each panel
// of the plan.
func (h *Hub) panels(ctx context.Context, p *plan, which []int, b buckets) [][]*series {
	// What several panels ask for is read once.
	step := b.step.Milliseconds()
	closed := &summaries{storage: h.storage, step: step, covers: step}
	open := &summaries{storage: h.storage, covers: b.covers().Milliseconds()}
	states := &summaries{storage: h.storage, step: step}
	all := make([][]*series, len(p.panels))
	next := make(chan int, len(which))
	for _, i := range which {
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	for range min(evaluations, len(which)) {
		workers.Go(func() {
			for i := range next {
				if p.panels[i].summarized {
					all[i] = h.panel(ctx, p.panels[i], b, closed, open)
				} else {
					all[i] = h.panel(ctx, p.panels[i], b, states, nil)
				}
			}
		})
	}
	workers.Wait()
	return all
}

// panel evaluates the queries of a panel. A query that fails has no series.
func (h *Hub) panel(ctx context.Context, p panelPlan, b buckets, closed, open *summaries) []*series {
	var all []*series
	for i, q := range p.queries {
		found := map[string]*series{}
		for which, e := range h.evaluations(q, closed, open) {
			h.fill(ctx, q.expr, e, b, func(l labels.Labels, at int, v float64) {
				key := strconv.Itoa(i) + l.String()
				s := found[key]
				if s == nil {
					s = &series{key: key, name: legend(q.legend, l), query: i, labels: l.Map()}
					found[key] = s
					all = append(all, s)
				}
				values := s.part(part(which))
				if *values == nil {
					*values = gaps(b.len())
				}
				(*values)[at] = v
			})
			if len(found) == 0 {
				break
			}
		}
	}
	for _, s := range all {
		s.order(b.len())
	}
	return all
}

func (s *series) part(which part) *[]float64 {
	switch which {
	case low:
		return &s.low
	case high:
		return &s.high
	default:
		return &s.mean
	}
}

// order makes low the least and high the greatest of the three values of each
// bucket: where an expression falls as its gauge rises, they come the other way
// round.
func (s *series) order(n int) {
	if s.mean == nil {
		s.mean = gaps(n)
	}
	if s.low == nil || s.high == nil {
		s.low, s.high = nil, nil
		return
	}
	for i, mean := range s.mean {
		a, b := s.low[i], s.high[i]
		if math.IsNaN(mean) || math.IsNaN(a) || math.IsNaN(b) {
			s.low[i], s.high[i] = mean, mean
			continue
		}
		s.low[i], s.high[i] = min(mean, a, b), max(mean, a, b)
	}
}

// covers returns how much of the time until now the open bucket shows: one that has
// just begun shows the last seconds, so that lines do not break at their end.
func (b buckets) covers() time.Duration {
	passed := time.Duration(b.now-b.start)*time.Millisecond - time.Duration(b.closed)*b.step
	return min(max(passed, defaultInterval), b.step)
}

// fill calls set with each value of an expression, and the index of its bucket.
func (h *Hub) fill(ctx context.Context, expr string, e evaluation, b buckets, set func(labels.Labels, int, float64)) {
	step := b.step.Milliseconds()
	if b.closed > 0 {
		m, err := guarded(ctx, h, expr, func() (promql.Matrix, error) {
			return e.span(ctx, b.start+step, b.start+int64(b.closed)*step, b.step)
		})
		if err == nil {
			for _, s := range m {
				// The labels of all series are few, their points many.
				l := nameless(s.Metric)
				for _, p := range s.Floats {
					if finite(p.F) {
						set(l, int((p.T-b.start)/step)-1, p.F)
					}
				}
			}
		}
	}
	if b.now == 0 {
		return
	}
	v, err := guarded(ctx, h, expr, func() (promql.Vector, error) { return e.instant(ctx, b.now, b.covers()) })
	if err != nil {
		return
	}
	for _, s := range v {
		if s.H == nil && finite(s.F) {
			set(nameless(s.Metric), b.closed, s.F)
		}
	}
}

// nameless returns the labels without the metric's name, which some functions drop
// and others keep.
func nameless(l labels.Labels) labels.Labels {
	if !l.Has(model.MetricNameLabel) {
		return l
	}
	return labels.NewBuilder(l).Del(model.MetricNameLabel).Labels()
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func gaps(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
	}
	return values
}

var legendLabel = regexp.MustCompile(`\{\{\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*\}\}`)

// legend returns the name of a series.
func legend(template string, l labels.Labels) string {
	if template == "" {
		return l.String()
	}
	return legendLabel.ReplaceAllStringFunc(template, func(s string) string {
		return l.Get(legendLabel.FindStringSubmatch(s)[1])
	})
}

// first returns the first value of an expression that there is.
func first(v promql.Vector) (promql.Sample, bool) {
	for _, s := range v {
		if s.H == nil && finite(s.F) {
			return s, true
		}
	}
	return promql.Sample{}, false
}

// now evaluates the first value of an expression.
func (h *Hub) now(ctx context.Context, expr string, at int64) (promql.Sample, bool) {
	if expr == "" {
		return promql.Sample{}, false
	}
	v, err := h.instant(ctx, expr, at)
	if err != nil {
		return promql.Sample{}, false
	}
	return first(v)
}

// sparkPoints is how many values a small line beside a number has.
const sparkPoints = 60

// sparkStep returns the distance of the values of a small line over the window.
func sparkStep(length time.Duration) time.Duration {
	return max(time.Second, (length / sparkPoints).Truncate(time.Second))
}

// tiles evaluates the numbers at the top, with small lines over the window.
func (h *Hub) tiles(ctx context.Context, p *plan, at int64, length time.Duration) map[string]tileJSON {
	tiles := make(map[string]tileJSON, len(p.tiles))
	for _, t := range p.tiles {
		tile := h.tile(ctx, t, at)
		tile.Spark = h.spark(ctx, t.value, at, length)
		tiles[t.id] = tile
	}
	return tiles
}

func (h *Hub) tilesWithoutLines(ctx context.Context, p *plan, at int64, _ time.Duration) map[string]tileJSON {
	tiles := make(map[string]tileJSON, len(p.tiles))
	for _, t := range p.tiles {
		tiles[t.id] = h.tile(ctx, t, at)
	}
	return tiles
}

func (h *Hub) tile(ctx context.Context, t tilePlan, at int64) tileJSON {
	tile := tileJSON{Value: none, Second: none}
	if s, ok := h.now(ctx, t.value, at); ok {
		tile.Value = number(s.F)
	}
	if s, ok := h.now(ctx, t.second, at); ok {
		tile.Second = number(s.F)
	}
	return tile
}

// spark returns the values of the small line of an expression, the last of which is
// that of now.
func (h *Hub) spark(ctx context.Context, expr string, at int64, length time.Duration) numbers {
	step := sparkStep(length)
	values := gaps(sparkPoints)
	begin := at - (sparkPoints-1)*step.Milliseconds()
	m, err := h.span(ctx, expr, begin, at, step)
	if err != nil {
		return values
	}
	// As in first, the first series counts.
	for _, s := range m {
		for _, p := range s.Floats {
			if i := (p.T - begin) / step.Milliseconds(); finite(p.F) && math.IsNaN(values[i]) {
				values[i] = p.F
			}
		}
	}
	return values
}

// facts evaluates what the header says.
func (h *Hub) facts(ctx context.Context, p *plan, at int64) map[string]any {
	facts := make(map[string]any, len(p.facts))
	for _, f := range p.facts {
		h.fact(ctx, f, at, facts)
	}
	return facts
}

// fact evaluates one of the facts.
func (h *Hub) fact(ctx context.Context, f exprPlan, at int64, facts map[string]any) {
	switch s, ok := h.now(ctx, f.expr, at); {
	case !ok:
		delete(facts, f.id)
	case f.label != "":
		facts[f.id] = s.Metric.Get(f.label)
	default:
		facts[f.id] = exact(s.F)
	}
}

// delivering says which sources have data.
func (h *Hub) delivering(ctx context.Context, p *plan, at int64) map[string]bool {
	sources := make(map[string]bool, len(p.sources))
	for _, s := range p.sources {
		sources[s.id] = h.delivers(ctx, s, at)
	}
	return sources
}

func (h *Hub) delivers(ctx context.Context, s exprPlan, at int64) bool {
	v, err := h.instant(ctx, s.expr, at)
	return err == nil && len(v) > 0
}
