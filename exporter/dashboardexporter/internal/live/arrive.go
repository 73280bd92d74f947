// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

const (
	// gather is how long a feed waits for further points after some have arrived:
	// those of one scrape are shown together.
	gather = 20 * time.Millisecond
	// apart is the least time between two frames that data brings, and rest how many
	// times as long as an evaluation took it is left alone.
	apart = 100 * time.Millisecond
	rest  = 2
	// seldom is how often the clock evaluates what hardly ever changes without data,
	// and often what is the same for all views.
	seldom = 5 * time.Second
	often  = 2 * time.Second
	// hush is how much longer than its look-back something must be without points
	// until it is taken to stay empty.
	hush = 10 * time.Second
)

// news is what has arrived since the last look.
type news struct {
	any      bool
	families map[string]int64 // with the time of the oldest point
}

// hear notes what has arrived.
func (f *feed) hear(families map[string]int64, now int64) {
	f.mu.Lock()
	f.news.any = true
	if f.news.families == nil {
		f.news.families = map[string]int64{}
	}
	for name, oldest := range families {
		if strings.HasPrefix(name, slotPrefix) {
			name = slotFamilies
		}
		if have, ok := f.news.families[name]; !ok || oldest < have {
			f.news.families[name] = oldest
		}
		f.heard[name] = now
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) takeNews() news {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.news
	f.news = news{}
	return taken
}

// always is what changes by itself.
var always = needs{always: true}

// byClock says that nobody tells when something changes.
func (f *feed) byClock(n needs) bool { return n.always || !f.hub.told.Load() }

// quiet says whether nothing of what an expression reads has come for so long that
// it is empty, and stays so.
func (f *feed) quiet(n needs, now int64) bool {
	if f.byClock(n) {
		return false
	}
	since := now - (n.reach + f.hub.settings.Lookback + hush).Milliseconds()
	if f.began > since {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range n.families {
		if f.heard[name] > since {
			return false
		}
	}
	return true
}

// stale says whether the clock has something evaluated again that was evaluated at
// a time.
func (f *feed) stale(n needs, at, now int64, every time.Duration) bool {
	if at == 0 || !f.hub.told.Load() {
		return true
	}
	tick := f.hub.settings.Tick
	age := now - at
	return (age < 0 || age >= (max(every, tick)-tick/10).Milliseconds()) && !f.quiet(n, now)
}

// kept is what every frame has, each part as of when it was evaluated.
type kept struct {
	facts   map[string]any
	tiles   map[string]tileJSON
	sources map[string]bool
	servers []serverJSON
	running []runningJSON

	factsAt, tilesAt, sourcesAt []int64
	serversAt, runningAt        int64
}

func newKept(p *plan) *kept {
	return &kept{
		facts: map[string]any{}, tiles: map[string]tileJSON{}, sources: map[string]bool{},
		factsAt: make([]int64, len(p.facts)), tilesAt: make([]int64, len(p.tiles)), sourcesAt: make([]int64, len(p.sources)),
	}
}

// refresh evaluates what has arrived or, by the clock, what has been evaluated too
// long ago. It says whether there was something.
func (f *feed) refresh(ctx context.Context, now int64, arrived map[string]int64, clock bool) (anything bool) {
	h, p, k := f.hub, f.plan, f.kept
	due := func(n needs, at *int64, every time.Duration) bool {
		if !n.in(arrived) && (!clock || !f.stale(n, *at, now, every)) {
			return false
		}
		*at, anything = now, true
		return true
	}
	for i, t := range p.tiles {
		if due(t.needs, &k.tilesAt[i], h.settings.Tick) {
			k.tiles[t.id] = h.tile(ctx, t, now)
		} else if _, ok := k.tiles[t.id]; !ok {
			k.tiles[t.id] = tileJSON{Value: none, Second: none}
		}
	}
	for i, one := range p.facts {
		every := seldom
		if one.needs.always { // the time itself
			every = often
		}
		if one.needs.reach > time.Minute && !f.stale(one.needs, k.factsAt[i], now, seldom) {
			continue // it reads much
		}
		if due(one.needs, &k.factsAt[i], every) {
			h.fact(ctx, one, now, k.facts)
		}
	}
	for i, s := range p.sources {
		if k.sources[s.id] && !f.stale(s.needs, k.sourcesAt[i], now, seldom) {
			continue
		}
		if due(s.needs, &k.sourcesAt[i], seldom) {
			k.sources[s.id] = h.delivers(ctx, s, now)
		} else if clock && f.quiet(s.needs, now) {
			k.sources[s.id] = false
		}
	}
	if due(slotNeeds, &k.runningAt, h.settings.Tick) || k.running == nil {
		k.running = f.slots.running(ctx, h, p.view, now)
	}
	if clock && f.stale(always, k.serversAt, now, often) || h.overviewNeeds.in(arrived) && f.stale(always, k.serversAt, now, 0) {
		k.servers, k.serversAt, anything = h.servers(ctx, now, false), now, true
	}
	return anything
}

// update shows what has arrived: the values of the bucket that is open, of all that
// depends on it.
func (f *feed) update(ctx context.Context, at time.Time) {
	arrived := f.takeNews()
	h, now, step := f.hub, at.UnixMilli(), f.wish.step
	if !arrived.any || f.kept == nil {
		return
	}
	open := floor(now, step)
	if open < f.closed { // the clock was set back, as the next tick sees
		return
	}
	var which []int
	for i, p := range f.plan.panels {
		if !p.needs.in(arrived.families) {
			continue
		}
		which = append(which, i)
		if p.needs.oldest(arrived.families, now) <= f.closed {
			f.late[i] = true
		}
	}
	if step > refreshAbove {
		which = nil
	}
	anything := f.refresh(ctx, now, arrived.families, false)
	b := buckets{start: open, step: step, now: now}
	panels := h.panels(ctx, f.plan, which, b)
	if ctx.Err() != nil {
		return // the next tick evaluates them
	}
	frame := f.frame(now)
	frame.Requests = f.ended()
	if len(which) == 0 && !anything && len(frame.Requests) == 0 {
		return
	}
	frame.Bucket = max(f.shown, f.closed-step.Milliseconds())
	if len(which) > 0 {
		f.evaluated(which, now)
		f.shown, frame.Bucket = open, open
		frame.Panels = f.openPoints(which, panels, open)
	}
	f.publish(frame)
}

// frame returns one with what every frame has.
func (f *feed) frame(now int64) frameJSON {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running, f.now = f.kept.running, now
	return frameJSON{
		Now: now, Facts: f.kept.facts, Tiles: f.kept.tiles, Servers: f.kept.servers, Running: f.kept.running,
		Requests: []recent.Request{},
	}
}

// ended returns the requests that have ended since the frame before.
func (f *feed) ended() []recent.Request {
	var requests []recent.Request
	requests, f.requests = f.hub.settings.Requests.Since(f.plan.server, f.requests)
	if requests == nil {
		requests = []recent.Request{}
	}
	return requests
}

func (f *feed) evaluated(which []int, now int64) {
	for _, i := range which {
		f.panelsAt[i] = now
	}
}

// openPoints returns the values of panels in the bucket that is open, the only one
// of which they have values.
func (f *feed) openPoints(which []int, panels [][]*series, bucket int64) map[string][]pointJSON {
	points := map[string][]pointJSON{}
	for _, i := range which {
		f.points(points, i, panels[i], 0, f.shownIn(bucket, i))
		for _, s := range panels[i] {
			if finite(s.mean[0]) {
				f.show(bucket, i, s.key)
			}
		}
	}
	return points
}

// show notes that viewers have a value of an open bucket, which is to be taken back
// if the bucket ends without one.
func (f *feed) show(bucket int64, panel int, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.showLocked(bucket, panel, key)
}

func (f *feed) showLocked(bucket int64, panel int, key string) {
	if f.open[bucket] == nil {
		f.open[bucket] = map[int]map[string]struct{}{}
	}
	if f.open[bucket][panel] == nil {
		f.open[bucket][panel] = map[string]struct{}{}
	}
	f.open[bucket][panel][key] = struct{}{}
}

// shownIn returns the series of a panel that viewers have in an open bucket.
func (f *feed) shownIn(bucket int64, panel int) map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.open[bucket][panel])
}

// showSnapshot notes what a snapshot has in its open bucket. If that has closed
// since, the frames after the snapshot have its values, and it says nothing of it.
func (f *feed) showSnapshot(p *plan, s *snapshotJSON) {
	last := s.Points - 1
	bucket := s.Start + int64(last)*s.Step
	f.mu.Lock()
	defer f.mu.Unlock()
	late := f.plan != p || bucket < f.ending
	for i, panel := range p.panels {
		for _, one := range s.Panels[panel.id].Series {
			switch {
			case !finite(one.Values[last]):
			case late:
				one.Values[last] = none64
				if one.Low != nil {
					one.Low[last], one.High[last] = none64, none64
				}
			default:
				f.showLocked(bucket, i, one.Key)
			}
		}
	}
}
