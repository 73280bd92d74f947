// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pastAbove is the window from which on closed buckets are kept for the next
	// snapshot of the same view, and pastViews of how many views.
	pastAbove = time.Hour
	pastViews = 4
	// unsure is how long after its end a bucket may still change: the history takes
	// points that are 5 minutes late.
	unsure = 6 * time.Minute
)

// past keeps the closed buckets of views. Only what came since is evaluated.
type past struct {
	mu    sync.Mutex
	views []*pastView // the last one that was used at the end
}

// pastView is what is known of a view.
type pastView struct {
	key viewKey

	mu     sync.Mutex
	start  int64 // of the first bucket
	closed int   // number of buckets
	panels [][]*series
}

// of returns what is kept of a view, or a place to keep it.
func (p *past) of(v view) *pastView {
	key := wish{server: v.server, gpus: v.gpus, step: v.step}.key()
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.views, func(known *pastView) bool { return known.key == key })
	one := &pastView{key: key}
	if i >= 0 {
		one = p.views[i]
		p.views = slices.Delete(p.views, i, i+1)
	} else if len(p.views) == pastViews {
		p.views = slices.Delete(p.views, 0, 1)
	}
	p.views = append(p.views, one)
	return one
}

// failedKey is where a context has a flag that an evaluation failed.
type failedKey struct{}

// longPanels evaluates all panels of a long window, or what is missing of them.
func (h *Hub) longPanels(ctx context.Context, p *plan, b buckets) [][]*series {
	v := h.past.of(p.view)
	v.mu.Lock()
	defer v.mu.Unlock()
	step := b.step.Milliseconds()
	sure := floor(b.now-unsure.Milliseconds(), b.step) // the end of the last bucket that does not change
	known := 0                                         // buckets that need not be evaluated
	if v.panels != nil && v.start <= b.start {
		known = max(0, int((min(v.start+int64(v.closed)*step, sure)-b.start)/step))
	}
	var failed atomic.Bool
	ctx = context.WithValue(ctx, failedKey{}, &failed)
	rest := b
	rest.start, rest.closed = b.start+int64(known)*step, b.closed-known
	panels := h.panels(ctx, p, p.all(), rest)
	if known > 0 {
		skip := int((b.start - v.start) / step)
		for i := range panels {
			panels[i] = joined(v.panels[i], panels[i], skip, known, b.len())
		}
	}
	// A shorter window does not take the place of a longer one.
	if ctx.Err() == nil && !failed.Load() && (known == 0 || v.start == b.start || b.closed >= v.closed) {
		v.start, v.panels = b.start, panels
		v.closed = max(0, min(b.closed, int((sure-b.start)/step)))
	}
	return panels
}

// joined returns series with the values that are known, without the first ones, and
// those that follow.
func joined(before, after []*series, skip, known, n int) []*series {
	byKey := make(map[string]*series, len(after))
	for _, s := range after {
		byKey[s.key] = s
	}
	var all []*series
	for _, old := range before {
		one := *old
		young := byKey[old.key]
		delete(byKey, old.key)
		if young == nil {
			young = &series{}
		}
		one.mean = join(old.mean, nil, young.mean, nil, skip, known, n)
		one.low, one.high = nil, nil
		if old.low != nil || young.low != nil {
			one.low = join(old.low, old.mean, young.low, young.mean, skip, known, n)
			one.high = join(old.high, old.mean, young.high, young.mean, skip, known, n)
		}
		if slices.ContainsFunc(one.mean, finite) {
			all = append(all, &one)
		}
	}
	for _, s := range after {
		if byKey[s.key] == nil {
			continue
		}
		one := *s
		one.mean = join(nil, nil, s.mean, nil, skip, known, n)
		if s.low != nil {
			one.low = join(nil, nil, s.low, nil, skip, known, n)
			one.high = join(nil, nil, s.high, nil, skip, known, n)
		}
		all = append(all, &one)
	}
	return all
}

// join puts values one after the other; where there are none, the second choice
// counts.
func join(old, oldElse, young, youngElse []float64, skip, known, n int) []float64 {
	values := gaps(n)
	if old == nil {
		old = oldElse
	}
	if young == nil {
		young = youngElse
	}
	if old != nil {
		copy(values[:known], old[skip:])
	}
	copy(values[known:], young)
	return values
}
