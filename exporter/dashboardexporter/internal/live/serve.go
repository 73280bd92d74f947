// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

const (
	// writeWithin limits how long a client may take to receive one frame. The
	// server's write_timeout applies to the whole stream and would end it.
	writeWithin = 10 * time.Second
	// historyQueue is how long a snapshot of the past waits for others.
	historyQueue = 5 * time.Second
)

func (h *Hub) getCatalogue(w http.ResponseWriter, r *http.Request) {
	if _, err := parseWish(r.URL.RawQuery); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	h.catalogue.serve(w, r)
}

func (h *Hub) getServers(w http.ResponseWriter, r *http.Request) {
	if _, err := parseWish(r.URL.RawQuery); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	ctx, done := context.WithTimeout(r.Context(), tickWithin)
	defer done()
	answer(w, http.StatusOK, map[string]any{"servers": h.servers(ctx, time.Now().UnixMilli(), true)})
}

func (h *Hub) getSnapshot(w http.ResponseWriter, r *http.Request) {
	d, err := h.snapshotOf(r.Context(), r.URL.RawQuery)
	switch {
	case IsBadQuery(err):
		fail(w, http.StatusBadRequest, err)
	case err != nil:
		refuse(w, err)
	default:
		d.serve(w, r)
	}
}

// badQuery is an error in the parameters of a request.
type badQuery struct{ error }

// IsBadQuery reports whether an error of Snapshot comes from the query.
func IsBadQuery(err error) bool {
	var wrong badQuery
	return errors.As(err, &wrong)
}

// Snapshot returns what GET /live/snapshot answers to a query, as of now: no frames
// follow that would go on from an earlier one. Catalogue returns what GET
// /live/catalogue answers.
func (h *Hub) Snapshot(ctx context.Context, rawQuery string) (json.RawMessage, error) {
	wish, err := parseWish(rawQuery, snapshotParameters...)
	if err != nil {
		return nil, badQuery{err}
	}
	if !h.begin() {
		return nil, errClosed
	}
	defer h.running.Done()
	if wish.end != 0 {
		d, err := h.pastSnapshot(ctx, wish)
		if err != nil {
			return nil, err
		}
		return d.plain()
	}
	f, err := h.acquire(wish)
	if err != nil {
		return nil, err
	}
	defer h.release(f)
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(ctx, snapshotWithin)
	defer done()
	defer context.AfterFunc(h.ctx, done)()
	s := f.snapshot(ctx, time.Now().UnixMilli(), wish.window)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return encode(s)
}

var snapshotParameters = []string{"server", "gpu", "window", "points", "end", "panels"}

// Catalogue is described at Snapshot.
func (h *Hub) Catalogue() (json.RawMessage, error) { return h.catalogue.plain() }

func (h *Hub) snapshotOf(ctx context.Context, rawQuery string) (document, error) {
	wish, err := parseWish(rawQuery, snapshotParameters...)
	if err != nil {
		return document{}, badQuery{err}
	}
	if !h.begin() {
		return document{}, errClosed
	}
	defer h.running.Done()
	switch {
	case wish.end != 0:
		return h.pastSnapshot(ctx, wish)
	case wish.panels != 0:
		return h.partOfSnapshot(ctx, wish)
	default:
		return h.liveSnapshot(ctx, wish)
	}
}

// worth is how many times as long as its evaluation took a snapshot is good. Who
// gets it gets the frames since then as well, from the feed's ring.
const worth = 20

// snapshot is evaluated once for all who ask for it between two frames, or longer
// if it was costly.
type snapshot struct {
	done     chan struct{}
	document document
	err      error
	// It is good until the next frame, and longer until a moment if not too many
	// frames have followed, unless it is pending. The feed's mu guards this.
	seq     uint64
	until   time.Time
	pending bool
}

// good says whether a snapshot can still be served. The caller holds the feed's mu.
func (s *snapshot) good(seq uint64, now time.Time) bool {
	return s.pending || seq == s.seq || now.Before(s.until) && seq-s.seq <= ringSize/2
}

func (h *Hub) liveSnapshot(ctx context.Context, w wish) (document, error) {
	f, err := h.acquire(w)
	if err != nil {
		return document{}, err
	}
	defer h.release(f)
	if err := f.wait(ctx); err != nil {
		return document{}, err
	}
	f.mu.Lock()
	s, shared := f.snapshots[w.window]
	shared = shared && s.good(f.seq, time.Now())
	if !shared {
		s = &snapshot{done: make(chan struct{}), seq: f.seq, pending: true}
		f.snapshots[w.window] = s
	}
	f.mu.Unlock()
	if shared {
		select {
		case <-s.done:
			return s.document, s.err
		case <-ctx.Done():
			return document{}, ctx.Err()
		}
	}
	defer close(s.done)
	// Others may wait for it: it does not end with this request.
	ctx, done := context.WithTimeout(h.ctx, snapshotWithin)
	defer done()
	select {
	case h.snapshots <- struct{}{}:
		defer func() { <-h.snapshots }()
	case <-ctx.Done(): // as is seen below
	}
	began := time.Now()
	s.document, s.err = newDocument(f.snapshot(ctx, began.UnixMilli(), w.window))
	took := time.Since(began)
	switch {
	case h.ctx.Err() != nil:
		s.err = errClosed
	case ctx.Err() != nil:
		s.err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.pending = false
	s.until = began.Add(worth * took)
	if s.err != nil && f.snapshots[w.window] == s {
		delete(f.snapshots, w.window) // the next one tries again
	}
	return s.document, s.err
}

// partOfSnapshot evaluates the first panels only: of a long window they are there in
// a fraction of the time, and a page can draw them while it asks for all.
func (h *Hub) partOfSnapshot(ctx context.Context, w wish) (document, error) {
	f, err := h.acquire(w)
	if err != nil {
		return document{}, err
	}
	defer h.release(f)
	if err := f.wait(ctx); err != nil {
		return document{}, err
	}
	ctx, done := context.WithTimeout(ctx, snapshotWithin)
	defer done()
	defer context.AfterFunc(h.ctx, done)()
	f.mu.Lock()
	plan, seq, running := f.plan, f.seq, f.running
	f.mu.Unlock()
	now := time.Now().UnixMilli()
	s := h.window(ctx, plan, window(now, w.window, plan.step), now, w.window, w.panels)
	s.Partial, s.Seq, s.Running = true, seq, running
	s.Servers = h.servers(ctx, now, false)
	s.Rules = h.rules(plan.view, s.Servers)
	s.Annotations, s.Requests = []annotationJSON{}, []recent.Request{}
	if ctx.Err() != nil {
		return document{}, ctx.Err()
	}
	return newDocument(s)
}

// wait waits until the feed knows what it shows.
func (f *feed) wait(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.hub.ctx.Done():
		return errClosed
	}
}

// snapshot evaluates the window that ends now.
func (f *feed) snapshot(ctx context.Context, now int64, length time.Duration) snapshotJSON {
	f.mu.Lock()
	plan, seq, running, notes := f.plan, f.seq, f.running, f.notes
	longest := f.window
	f.mu.Unlock()
	h := f.hub
	b := window(now, length, plan.step)
	servers := h.servers(ctx, now, true)
	happened := make(chan []annotationJSON, 1)
	go func() { happened <- notes.in(ctx, h, plan.view, servers, now, max(longest, length), f.quiet) }()
	s := h.window(ctx, plan, b, now, length, 0)
	f.showSnapshot(plan, &s)
	s.Seq, s.Running, s.Servers = seq, running, servers
	s.Rules = h.rules(plan.view, s.Servers)
	s.Annotations = <-happened
	s.Requests = h.settings.Requests.Last(plan.server, maxRequests)
	if s.Requests == nil {
		s.Requests = []recent.Request{}
	}
	return s
}

func (h *Hub) pastSnapshot(ctx context.Context, w wish) (document, error) {
	wait, stop := context.WithTimeout(ctx, historyQueue)
	defer stop()
	select {
	case h.history <- struct{}{}:
		defer func() { <-h.history }()
	case <-wait.Done():
		return document{}, errors.New("too many windows of the past are looked at: try again in a few seconds")
	case <-h.ctx.Done():
		return document{}, errClosed
	}
	ctx, done := context.WithTimeout(ctx, snapshotWithin)
	defer done()
	defer context.AfterFunc(h.ctx, done)()
	end := min(w.end, time.Now().UnixMilli())
	v := h.resolve(ctx, w, end)
	plan, err := h.compile(v)
	if err != nil {
		return document{}, err
	}
	// All buckets are closed, the last one at or after the end.
	step := w.step.Milliseconds()
	n := int((w.window + w.step - 1) / w.step)
	b := buckets{start: floor(end+step-1, w.step) - int64(n)*step, step: w.step, closed: n}
	s := h.window(ctx, plan, b, end, w.window, 0)
	s.Servers = h.table(ctx, end)
	s.Rules, s.Running = []ruleJSON{}, []runningJSON{}
	s.Annotations = new(notes).in(ctx, h, v, s.Servers, end, w.window, func(needs, int64) bool { return false })
	s.Requests = []recent.Request{}
	for _, request := range h.settings.Requests.Last(v.server, 10*maxRequests) {
		if request.End >= b.start && request.Start <= end && len(s.Requests) < maxRequests {
			s.Requests = append(s.Requests, request)
		}
	}
	if ctx.Err() != nil {
		return document{}, ctx.Err()
	}
	return newDocument(s)
}

// window evaluates what depends on the view alone, or of that the first panels and
// the numbers of the tiles.
func (h *Hub) window(ctx context.Context, p *plan, b buckets, now int64, length time.Duration, first int) snapshotJSON {
	which := p.all()
	tiles := h.tiles
	if first > 0 {
		which = which[:min(first, len(which))]
		tiles = h.tilesWithoutLines
	}
	panels := make(chan [][]*series, 1)
	go func() {
		if first == 0 && length >= pastAbove && b.now != 0 {
			panels <- h.longPanels(ctx, p, b)
		} else {
			panels <- h.panels(ctx, p, which, b)
		}
	}()
	s := snapshotJSON{
		Version: h.settings.Version, Now: now, Server: p.server, GPUs: p.gpus,
		Step: b.step.Milliseconds(), Start: b.start, Points: b.len(),
		Facts:   h.facts(ctx, p, now),
		Sources: h.delivering(ctx, p, now),
		Tiles:   tiles(ctx, p, now, length),
		Panels:  make(map[string]panelJSON, len(p.panels)),
	}
	if s.GPUs == nil {
		s.GPUs = []string{}
	}
	all := <-panels
	for _, i := range which {
		panel := panelJSON{Series: []seriesJSON{}}
		for _, one := range all[i] {
			panel.Series = append(panel.Series, one.json())
		}
		s.Panels[p.panels[i].id] = panel
	}
	return s
}

func (h *Hub) getStream(w http.ResponseWriter, r *http.Request) {
	wish, err := parseWish(r.URL.RawQuery, "server", "gpu", "window", "points", "seq")
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		refuse(w, fmt.Errorf("%d pages are watching: close some, or raise max_viewers", cap(h.streams)))
		return
	}
	if !h.begin() {
		refuse(w, errClosed)
		return
	}
	defer h.running.Done()
	f, err := h.acquire(wish)
	if err != nil {
		refuse(w, err)
		return
	}
	defer h.release(f)
	if err := f.wait(r.Context()); err != nil {
		refuse(w, err)
		return
	}
	at := f.last()
	hello := fmt.Sprintf("event: hello\ndata: {\"version\":%s,\"seq\":%d}\n\n", strconv.QuoteToASCII(h.settings.Version), at)
	if seq, ok := lastEventID(r); ok { // a browser that comes back by itself
		at = seq
	} else if wish.resume {
		at = wish.seq
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that collects what it passes on would hold frames back
	control := http.NewResponseController(w)
	send := func(event []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin))
		_, err := w.Write(event) //nolint:gosec // JSON in an event stream is no HTML
		return err == nil && control.Flush() == nil
	}
	for ok := send([]byte(hello)); ok; {
		event, changed, lost := f.next(at)
		switch {
		case lost:
			at = f.last()
			ok = send([]byte("event: resync\ndata: {}\n\n"))
		case event != nil:
			at++
			ok = send(event)
		default:
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			case <-h.ctx.Done():
				send([]byte("event: gone\ndata: {}\n\n"))
				return
			}
		}
	}
}

// serve sends the document, compressed as it is if the client can take it.
func (d document) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept-Encoding")
	if acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", strconv.Itoa(len(d.zipped)))
		_, _ = w.Write(d.zipped) // the client has gone
		return
	}
	if plain, err := d.plain(); err == nil {
		_, _ = bytes.NewReader(plain).WriteTo(w) // the client has gone
	}
}

func (d document) plain() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(d.zipped))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, parameter, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		weight, given := strings.CutPrefix(strings.TrimSpace(parameter), "q=")
		quality, err := strconv.ParseFloat(weight, 64)
		return !given || err == nil && quality > 0
	}
	return false
}

type problemJSON struct {
	Error string `json:"error"`
}

// refuse tells a client that it may come back later.
func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the evaluation took too long: choose a shorter window, or try again when fewer are watching")
	}
	w.Header().Set("Retry-After", "10")
	fail(w, http.StatusServiceUnavailable, err)
}

func fail(w http.ResponseWriter, status int, err error) {
	answer(w, status, problemJSON{err.Error()})
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone
}
