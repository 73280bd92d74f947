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
	ringSize = 64
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
	resolved    time.Time
	refreshed   time.Time // when panels were evaluated
	shown       int64     // bucket of the frame before
	closed      int64     // end of the last bucket that was sent as closed
	sent        map[int64]map[string]bounds
	present     map[string]bool // series in the frame before
	slots       slots
	requests    recent.Sequence
	rules       []byte // as last sent
	sources     map[string]bool
	annotations []byte

	notes *notes

	mu        sync.Mutex
	plan      *plan
	window    time.Duration // the longest that was asked for
	now       int64         // of the last tick
	running   []runningJSON
	seq       uint64 // of the last frame
	frames    [][]byte
	changed   chan struct{} // closed at the next frame
	snapshots map[time.Duration]*snapshot
}

// bounds are the mean, least and greatest value of a bucket.
type bounds [3]float64

func newFeed(h *Hub, w wish) *feed {
	return &feed{
		hub: h, wish: w, ready: make(chan struct{}), window: w.window, notes: &notes{},
		changed: make(chan struct{}), snapshots: map[time.Duration]*snapshot{},
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

// run ticks until nobody watches. A tick that takes longer than its time swallows
// the next ones.
func (f *feed) run(ctx context.Context) {
	f.begin(ctx, time.Now())
	close(f.ready)
	tick := f.hub.settings.Tick
	offset := min(settle, tick/2)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next := now.Add(-offset).Truncate(tick).Add(tick + offset)
		timer.Reset(next.Sub(now))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now = time.Now()
		if f.abandoned(now) {
			return
		}
		within, done := context.WithTimeout(ctx, tickWithin)
		f.tick(within, now)
		done()
	}
}

// begin finds what the view shows.
func (f *feed) begin(ctx context.Context, now time.Time) {
	ctx, done := context.WithTimeout(ctx, tickWithin)
	defer done()
	f.closed = floor(now.UnixMilli(), f.wish.step)
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
	return changed
}

// resync makes all clients fetch a new snapshot.
func (f *feed) resync() {
	f.sent, f.present, f.rules, f.annotations, f.sources = nil, nil, nil, nil, nil
	f.refreshed = time.Time{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++ // a frame that nobody gets
	f.frames = nil
	clear(f.snapshots)
	close(f.changed)
	f.changed = make(chan struct{})
}

// tick evaluates what has changed and publishes it. Buckets that have closed are
// evaluated as of their end, so that they have the values that a later snapshot
// finds; the others as of now.
func (f *feed) tick(ctx context.Context, at time.Time) {
	h, now, step := f.hub, at.UnixMilli(), f.wish.step
	if f.resolve(ctx, at) {
		f.slots = slots{}
		_, f.requests = h.settings.Requests.Since(f.plan.server, math.MaxUint64)
		f.closed = floor(now, step)
		f.resync()
	}
	boundary := floor(now, step)
	if boundary < f.closed { // the clock was set back
		f.closed = boundary
		f.resync()
	}
	news := int((boundary - f.closed) / step.Milliseconds())
	if news > catchUp {
		f.closed = boundary - step.Milliseconds()
		news = 1
		f.resync()
	}

	b := buckets{start: boundary, step: step, now: now}
	again := 0
	if news > 0 {
		for again < int((late+step-1)/step) && f.sent[f.closed-int64(again+1)*step.Milliseconds()] != nil {
			again++
		}
		b = buckets{start: f.closed - int64(again)*step.Milliseconds(), step: step, closed: again + news}
	}
	var panels [][]*series // nil: the panels stay as they are
	if news > 0 || step <= refreshAbove || at.Sub(f.refreshed) >= refreshEvery-f.hub.settings.Tick/2 || b.start != f.shown {
		panels = h.panels(ctx, f.plan, b)
	}
	base := f.base(ctx, now)
	if ctx.Err() != nil {
		return // the buckets come with the next tick
	}
	if panels == nil {
		base.Bucket = f.shown
		f.publish(base)
		return
	}
	f.refreshed, f.shown = at, b.start+int64(b.len()-1)*step.Milliseconds()
	last := base
	base.Requests, base.Rules, base.Sources, base.Annotations = []recent.Request{}, nil, nil, nil
	for i := range b.len() {
		bucket := b.start + int64(i)*step.Milliseconds()
		values := valuesOf(panels, i)
		if i < again && equal(values, f.sent[bucket]) {
			continue
		}
		frame := base
		if i == b.len()-1 {
			frame = last
		}
		frame.Bucket = bucket
		frame.Panels, f.present = f.points(panels, i)
		f.publish(frame)
		if i < b.closed {
			if f.sent == nil {
				f.sent = map[int64]map[string]bounds{}
			}
			f.sent[bucket] = values
		}
	}
	f.closed = max(f.closed, boundary)
	maps.DeleteFunc(f.sent, func(bucket int64, _ map[string]bounds) bool {
		return bucket < boundary-late.Milliseconds()-2*step.Milliseconds()
	})
}

// base returns a frame without panels.
func (f *feed) base(ctx context.Context, now int64) frameJSON {
	h, p := f.hub, f.plan
	frame := frameJSON{
		Now:     now,
		Facts:   h.facts(ctx, p, now),
		Tiles:   h.tiles(ctx, p, now, 0),
		Servers: h.servers(ctx, now, false),
		Running: f.slots.running(ctx, h, p.view, now),
	}
	sources := h.delivering(ctx, p, now)
	rules := h.rules(p.view, frame.Servers)
	f.mu.Lock()
	window := f.window
	f.running, f.now = frame.Running, now
	f.mu.Unlock()
	annotations := f.notes.in(ctx, h, p.view, frame.Servers, now, window)
	f.notes.forget(now - window.Milliseconds())
	if ctx.Err() != nil {
		return frame
	}
	frame.Requests, f.requests = h.settings.Requests.Since(p.server, f.requests)
	if frame.Requests == nil {
		frame.Requests = []recent.Request{}
	}
	if !maps.Equal(sources, f.sources) {
		f.sources, frame.Sources = sources, sources
	}
	if encoded, err := encode(rules); err == nil && !bytes.Equal(encoded, f.rules) {
		f.rules, frame.Rules = encoded, &rules
	}
	if encoded, err := encode(annotations); err == nil && !bytes.Equal(encoded, f.annotations) {
		f.annotations, frame.Annotations = encoded, &annotations
	}
	return frame
}

// points returns the values of a bucket, and which series have one.
func (f *feed) points(panels [][]*series, bucket int) (map[string][]pointJSON, map[string]bool) {
	points := make(map[string][]pointJSON, len(panels))
	present := map[string]bool{}
	for i, all := range panels {
		id := f.plan.panels[i].id
		list := []pointJSON{}
		for _, s := range all {
			name := id + " " + s.key
			if p, ok := s.point(bucket, f.present[name]); ok {
				list = append(list, p)
				present[name] = true
			}
		}
		if len(list) > 0 {
			points[id] = list
		}
	}
	return points, present
}

// valuesOf returns the values of a bucket by panel and series.
func valuesOf(panels [][]*series, bucket int) map[string]bounds {
	values := map[string]bounds{}
	for i, all := range panels {
		for _, s := range all {
			v := s.mean[bucket]
			if !finite(v) {
				continue
			}
			b := bounds{v, v, v}
			if s.low != nil {
				b = bounds{v, s.low[bucket], s.high[bucket]}
			}
			values[strconv.Itoa(i)+" "+s.key] = b
		}
	}
	return values
}

// equal says whether values would be written the same; sums of floating-point
// numbers differ in the last digit with the order of series.
func equal(a, b map[string]bounds) bool {
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
	maps.DeleteFunc(f.snapshots, func(_ time.Duration, s *snapshot) bool { return !s.pending && s.until < f.seq })
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
