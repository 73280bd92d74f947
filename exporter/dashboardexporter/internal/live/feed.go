// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

const (
	// ringSize is how many frames are kept for clients that lag or come back.
	ringSize = 128
	// late is how late a point may come and still change a bucket that is closed:
	// buckets so young are looked at again.
	late = 2 * time.Second
	// catchUp is how many buckets at most are sent together after ticks that were
	// skipped. After more, everybody gets a new snapshot.
	catchUp = 16
	// refreshAbove and refreshEvery: an open bucket that long is a small part of the
	// chart, and is evaluated only so often.
	refreshAbove = 5 * time.Second
	refreshEvery = 5 * time.Second
	// resolveEvery is how often a feed looks for a server and GPUs that nobody named.
	resolveEvery = 10 * time.Second
	// maxRequests is how many requests a snapshot has.
	maxRequests = 1000
)

var (
	errClosed = errors.New("the collector is stopping: try again in a few seconds")
	errBusy   = errors.New("too many views are watched at once: close pages that show other servers or windows, or let all show the same")
)

// feed evaluates one view for all who watch it.
type feed struct {
	hub    *Hub
	wish   wish
	cancel context.CancelFunc
	ready  chan struct{} // closed when there is a plan

	// The hub's mu guards these.
	viewers int
	left    time.Time // when the last viewer left

	// Only the feed's own goroutine uses these.
	began       int64
	resolved    time.Time
	refreshed   time.Time                     // when panels were evaluated
	shown       int64                         // bucket of the frame before
	closed      int64                         // end of the last bucket that was sent as closed
	sent        map[int64]map[int]panelValues // of closed buckets, by panel
	present     map[int]map[string]struct{}   // series in the frame before that had the panel
	late        map[int]bool                  // panels with points of closed buckets
	panelsAt    map[int]int64                 // when each was evaluated
	kept        *kept
	slots       slots
	requests    recent.Sequence
	rules       []byte // as last sent
	sources     map[string]bool
	annotations []byte

	notes *notes
	wake  chan struct{}

	mu        sync.Mutex
	news      news
	heard     map[string]int64                      // when points of a family came last
	open      map[int64]map[int]map[string]struct{} // what viewers have of buckets that are open
	ending    int64                                 // as closed
	plan      *plan
	window    time.Duration // the longest that was asked for
	now       int64         // of the last tick
	running   []runningJSON
	seq       uint64 // of the last frame
	frames    [][]byte
	changed   chan struct{} // closed at the next frame
	snapshots map[time.Duration]*snapshot
}

// panelValues are the values of a panel in a bucket, by series.
type panelValues map[string]bounds

// bounds are the mean, least and greatest value of a bucket.
type bounds [3]float64

func newFeed(h *Hub, w wish) *feed {
	return &feed{
		hub: h, wish: w, ready: make(chan struct{}), window: w.window, notes: &notes{},
		changed: make(chan struct{}), snapshots: map[time.Duration]*snapshot{},
		wake: make(chan struct{}, 1), heard: map[string]int64{}, open: map[int64]map[int]map[string]struct{}{},
		// Numbers that no earlier process has used: whoever comes back to a collector
		// that was restarted gets a new snapshot.
		seq: uint64(time.Now().UnixMilli()),
	}
}

// acquire returns the feed of a view, which it begins if there is none. The caller
// releases it.
func (h *Hub) acquire(w wish) (*feed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosed
	}
	key := w.key()
	f := h.feeds[key]
	if f == nil {
		if len(h.feeds) >= h.settings.Views && !h.evictLocked() {
			return nil, errBusy
		}
		ctx, cancel := context.WithCancel(h.ctx)
		f = newFeed(h, w)
		f.cancel = cancel
		h.feeds[key] = f
		h.running.Add(1)
		go func() {
			defer h.running.Done()
			defer cancel()
			f.run(ctx)
		}()
	}
	f.viewers++
	f.mu.Lock()
	f.window = max(f.window, w.window)
	f.mu.Unlock()
	return f, nil
}

func (h *Hub) release(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.viewers--
	f.left = time.Now()
}

// evictLocked ends the feed that nobody has watched for the longest time.
func (h *Hub) evictLocked() bool {
	var oldest *feed
	for _, f := range h.feeds {
		if f.viewers == 0 && (oldest == nil || f.left.Before(oldest.left)) {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	delete(h.feeds, oldest.wish.key())
	oldest.cancel()
	return true
}

// abandoned ends the feed if nobody has watched it for a while.
func (f *feed) abandoned(now time.Time) bool {
	h := f.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.viewers > 0 || now.Sub(f.left) < linger {
		return false
	}
	if h.feeds[f.wish.key()] == f {
		delete(h.feeds, f.wish.key())
	}
	return true
}

// run shows what arrives and ticks, until nobody watches. A tick that takes longer
// than its time swallows the next ones.
func (f *feed) run(ctx context.Context) {
	f.begin(ctx, time.Now())
	close(f.ready)
	tick := f.hub.settings.Tick
	offset := min(settle, tick/2)
	next := func(now time.Time) time.Time { return now.Add(-offset).Truncate(tick).Add(tick + offset) }
	clock, gathered := time.NewTimer(time.Until(next(time.Now()))), time.NewTimer(time.Hour)
	defer clock.Stop()
	defer gathered.Stop()
	gathering := false
	var rested time.Time
	evaluate := func(do func(context.Context, time.Time), now time.Time) {
		within, done := context.WithTimeout(ctx, tickWithin)
		defer done()
		do(within, now)
		rested = now.Add(max(apart, rest*time.Since(now)))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			if !gathering {
				gathering = true
				gathered.Reset(max(gather, time.Until(rested)))
			}
		case <-gathered.C:
			gathering = false
			evaluate(f.update, time.Now())
		case <-clock.C:
			now := time.Now()
			if f.abandoned(now) {
				return
			}
			evaluate(f.tick, now)
			now = time.Now()
			clock.Reset(next(now).Sub(now))
		}
	}
}

// begin finds what the view shows.
func (f *feed) begin(ctx context.Context, now time.Time) {
	ctx, done := context.WithTimeout(ctx, tickWithin)
	defer done()
	f.began = now.UnixMilli()
	f.close(floor(now.UnixMilli(), f.wish.step))
	f.resolve(ctx, now)
	_, f.requests = f.hub.settings.Requests.Since(f.plan.server, math.MaxUint64)
	running := f.slots.running(ctx, f.hub, f.plan.view, now.UnixMilli())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running, f.now = running, now.UnixMilli()
}

// resolve makes the plan, and says whether it is another one than before.
func (f *feed) resolve(ctx context.Context, now time.Time) bool {
	if f.plan != nil && (f.wish.server != "" && len(f.wish.gpus) > 0 || now.Sub(f.resolved) < resolveEvery) {
		return false
	}
	v := f.hub.resolve(ctx, f.wish, now.UnixMilli())
	if ctx.Err() != nil && f.plan != nil {
		return false
	}
	f.resolved = now
	if f.plan != nil && f.plan.server == v.server && slices.Equal(f.plan.gpus, v.gpus) {
		return false
	}
	p, err := f.hub.compile(v)
	if err != nil { // New has tried all expressions
		f.hub.log.Error("The dashboard's expressions do not fit a view", zap.Error(err))
		p = &plan{view: v}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.plan != nil
	f.plan, f.notes = p, &notes{}
	f.kept, f.panelsAt, f.late = newKept(p), map[int]int64{}, map[int]bool{}
	return changed
}

// close sets the end of the last bucket that is closed.
func (f *feed) close(end int64) {
	f.closed = end
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ending = end
	maps.DeleteFunc(f.open, func(bucket int64, _ map[int]map[string]struct{}) bool { return bucket < end })
}

// resync makes all clients fetch a new snapshot.
func (f *feed) resync() {
	f.sent, f.present, f.rules, f.annotations, f.sources = nil, nil, nil, nil, nil
	f.refreshed = time.Time{}
	f.late = map[int]bool{}
	clear(f.panelsAt)
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.open)
	f.seq++ // a frame that nobody gets
	f.frames = nil
	clear(f.snapshots)
	close(f.changed)
	f.changed = make(chan struct{})
}

// round is an evaluation of some panels.
type round struct {
	b      buckets
	which  []int
	panels [][]*series
}

// tick closes buckets, and evaluates what has changed with the time. Buckets that
// have closed are evaluated as of their end, so that they have the values that a
// later snapshot finds; the others as of now.
func (f *feed) tick(ctx context.Context, at time.Time) {
	h, now, step := f.hub, at.UnixMilli(), f.wish.step
	if f.resolve(ctx, at) {
		f.slots = slots{}
		_, f.requests = h.settings.Requests.Since(f.plan.server, math.MaxUint64)
		f.close(floor(now, step))
		f.resync()
	}
	boundary := floor(now, step)
	if boundary < f.closed { // the clock was set back
		f.close(boundary)
		f.resync()
	}
	news := int((boundary - f.closed) / step.Milliseconds())
	if news > catchUp {
		f.close(boundary - step.Milliseconds())
		news = 1
		f.resync()
	}
	rounds, again := f.rounds(at, boundary, news)
	for i := range rounds {
		rounds[i].panels = h.panels(ctx, f.plan, rounds[i].which, rounds[i].b)
	}
	base := f.base(ctx, now)
	if ctx.Err() != nil {
		return // the buckets come with the next tick
	}
	for _, r := range rounds {
		f.evaluated(r.which, now)
	}
	switch {
	case news > 0:
		f.sendClosed(base, rounds, again, news)
		f.refreshed = at
		clear(f.late)
	case len(rounds) > 0:
		f.refreshed, f.shown = at, boundary
		base.Bucket = boundary
		base.Panels = f.openPoints(rounds[0].which, rounds[0].panels, boundary)
		f.publish(base)
	default:
		base.Bucket = max(f.shown, boundary-step.Milliseconds())
		f.publish(base)
	}
}

// rounds returns what a tick evaluates: the buckets that have closed and, of panels
// with late points, those before; or the bucket that is open.
func (f *feed) rounds(at time.Time, boundary int64, news int) (rounds []round, again int) {
	now, step := at.UnixMilli(), f.wish.step
	if news == 0 {
		all := boundary != f.shown || at.Sub(f.refreshed) >= refreshEvery-f.hub.settings.Tick/2
		if step > refreshAbove && !all {
			return nil, 0
		}
		r := round{b: buckets{start: boundary, step: step, now: now}}
		for i, p := range f.plan.panels {
			if step > refreshAbove && !f.quiet(p.needs, now) || f.stale(p.needs, f.panelsAt[i], now, f.hub.settings.Tick) {
				r.which = append(r.which, i)
			}
		}
		return []round{r}, 0
	}
	for again < int((late+step-1)/step) && f.sent[f.closed-int64(again+1)*step.Milliseconds()] != nil {
		again++
	}
	old := round{b: buckets{start: f.closed - int64(again)*step.Milliseconds(), step: step, closed: again + news}}
	young := round{b: buckets{start: f.closed, step: step, closed: news}}
	for i, p := range f.plan.panels {
		switch {
		case f.byClock(p.needs) || f.late[i]:
			old.which = append(old.which, i)
		case !f.quiet(p.needs, now):
			young.which = append(young.which, i)
		}
	}
	return []round{old, young}, again
}

// sendClosed publishes closed buckets: those that are new, and those before them
// that have changed.
func (f *feed) sendClosed(base frameJSON, rounds []round, again, news int) {
	step := f.wish.step.Milliseconds()
	begin := f.closed - int64(again)*step
	end := f.closed + int64(news)*step
	f.mu.Lock()
	f.ending = end // what a snapshot still finds of them comes too late
	f.mu.Unlock()
	last := base
	base.Requests, base.Rules, base.Sources, base.Annotations = []recent.Request{}, nil, nil, nil
	for i := range again + news {
		bucket := begin + int64(i)*step
		points := map[string][]pointJSON{}
		changed := i >= again
		for _, r := range rounds {
			at := int((bucket - r.b.start) / step)
			if bucket < r.b.start {
				continue
			}
			for _, panel := range r.which {
				values := valuesOf(r.panels[panel], at)
				before := f.sent[bucket][panel]
				if i < again && equal(values, before) {
					continue
				}
				changed = true
				shown := f.shownIn(bucket, panel)
				if i < again {
					shown = keysOf(before)
				}
				f.points(points, panel, r.panels[panel], at, shown)
				f.note(bucket, panel, values)
			}
		}
		if !changed {
			continue
		}
		if f.sent[bucket] == nil {
			f.note(bucket, -1, nil)
		}
		frame := base
		if i == again+news-1 {
			frame = last
		}
		frame.Bucket, frame.Panels = bucket, points
		f.shown = max(f.shown, bucket)
		f.publish(frame)
	}
	f.close(end)
	maps.DeleteFunc(f.sent, func(bucket int64, _ map[int]panelValues) bool {
		return bucket < end-late.Milliseconds()-2*step
	})
}

// note keeps what was sent of a closed bucket.
func (f *feed) note(bucket int64, panel int, values panelValues) {
	if f.sent == nil {
		f.sent = map[int64]map[int]panelValues{}
	}
	if f.sent[bucket] == nil {
		f.sent[bucket] = map[int]panelValues{}
	}
	if panel >= 0 {
		f.sent[bucket][panel] = values
	}
}

// base returns the frame of a tick, without panels.
func (f *feed) base(ctx context.Context, now int64) frameJSON {
	h, p := f.hub, f.plan
	f.refresh(ctx, now, nil, true)
	frame := f.frame(now)
	rules := h.rules(p.view, frame.Servers)
	f.mu.Lock()
	window := f.window
	f.mu.Unlock()
	annotations := f.notes.in(ctx, h, p.view, frame.Servers, now, window, f.quiet)
	f.notes.forget(now - window.Milliseconds())
	if ctx.Err() != nil {
		return frame
	}
	frame.Requests = f.ended()
	if !maps.Equal(f.kept.sources, f.sources) {
		f.sources = maps.Clone(f.kept.sources)
		frame.Sources = f.sources
	}
	if encoded, err := encode(rules); err == nil && !bytes.Equal(encoded, f.rules) {
		f.rules, frame.Rules = encoded, &rules
	}
	if encoded, err := encode(annotations); err == nil && !bytes.Equal(encoded, f.annotations) {
		f.annotations, frame.Annotations = encoded, &annotations
	}
	return frame
}

// points adds the values of a panel in a bucket, and takes back those that viewers
// have and that are not there any more.
func (f *feed) points(points map[string][]pointJSON, panel int, all []*series, bucket int, shown map[string]struct{}) {
	id := f.plan.panels[panel].id
	var list []pointJSON
	present := make(map[string]struct{}, len(all))
	for _, s := range all {
		_, known := f.present[panel][s.key]
		if p, ok := s.point(bucket, known); ok {
			list = append(list, p)
			present[s.key] = struct{}{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(shown)) {
		if _, still := present[key]; !still {
			list = append(list, pointJSON{Key: key, Value: none})
		}
	}
	if f.present == nil {
		f.present = map[int]map[string]struct{}{}
	}
	f.present[panel] = present
	if len(list) > 0 {
		points[id] = list
	}
}

// valuesOf returns the values of a bucket by series.
func valuesOf(all []*series, bucket int) panelValues {
	values := make(panelValues, len(all))
	for _, s := range all {
		v := s.mean[bucket]
		if !finite(v) {
			continue
		}
		b := bounds{v, v, v}
		if s.low != nil {
			b = bounds{v, s.low[bucket], s.high[bucket]}
		}
		values[s.key] = b
	}
	return values
}

func keysOf(values panelValues) map[string]struct{} {
	keys := make(map[string]struct{}, len(values))
	for key := range values {
		keys[key] = struct{}{}
	}
	return keys
}

// equal says whether values would be written the same; sums of floating-point
// numbers differ in the last digit with the order of series.
func equal(a, b panelValues) bool {
	return maps.EqualFunc(a, b, func(x, y bounds) bool {
		for i := range x {
			if math.Abs(x[i]-y[i]) > 1e-9*max(math.Abs(x[i]), math.Abs(y[i])) {
				return false
			}
		}
		return true
	})
}

// publish encodes a frame, once for all clients.
func (f *feed) publish(frame frameJSON) {
	f.mu.Lock()
	defer f.mu.Unlock()
	frame.Seq = f.seq + 1
	data, err := encode(frame)
	if err != nil { // no value of ours fails
		f.hub.log.Error("A frame of the dashboard cannot be encoded", zap.Error(err))
		return
	}
	f.seq++
	event := make([]byte, 0, len(data)+64)
	event = append(event, "id: "...)
	event = strconv.AppendUint(event, f.seq, 10)
	event = append(event, "\nevent: frame\ndata: "...)
	event = append(event, data...)
	event = append(event, "\n\n"...)
	if len(f.frames) == ringSize {
		f.frames = append(f.frames[:0:0], f.frames[1:]...)
	}
	f.frames = append(f.frames, event)
	maps.DeleteFunc(f.snapshots, func(_ time.Duration, s *snapshot) bool { return !s.good(f.seq, time.Now()) })
	close(f.changed)
	f.changed = make(chan struct{})
}

// last returns the number of the last frame.
func (f *feed) last() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seq
}

// next returns the frame after one, or a channel that is closed when there is one.
// A client that asks for what is no longer there, or for what never was, is lost.
func (f *feed) next(after uint64) (event []byte, changed <-chan struct{}, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after == f.seq {
		return nil, f.changed, false
	}
	begin := f.seq - uint64(len(f.frames)) // the number before the first frame that is kept
	if after < begin || after > f.seq {
		return nil, nil, true
	}
	return f.frames[after-begin], nil, false
}
