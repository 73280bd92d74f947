// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxied // import "github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"

import (
	"context"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

// In nanoseconds:
const (
	// early is by how much a log may place a moment too early: a file's time of
	// modification is some milliseconds old.
	early = int64(100 * time.Millisecond)
	// slack is how far apart the ends of one request may be: the log places them
	// late on a busy machine.
	slack = int64(time.Second)
	// near is how far apart they are as a rule, at the most.
	near = int64(50 * time.Millisecond)
	// alike is the difference between two ends that says nothing.
	alike = int64(10 * time.Millisecond)
)

// Logged is what a server's log knows of a request.
type Logged struct {
	// Launched and Ended are when it got its slot and when it left it. As a rule
	// the log places them some milliseconds late.
	Launched, Ended time.Time
	// Timings is timings.String of the server's measurements, empty if the log
	// has none.
	Timings string
	// InputTokens and OutputTokens are -1 if unknown.
	InputTokens, OutputTokens int
	// Completed says that the server sent the whole answer.
	Completed bool
}

// Knows reports whether a proxy of this process has, or had within the last
// minute, requests to the server.
func Knows(server serverresource.Key) bool {
	process.mu.Lock()
	defer process.mu.Unlock()
	return process.servers[server] != nil
}

// Reader takes the requests of proxies, each once. Readers do not see what others
// took. A reader is safe for concurrent use.
type Reader struct{ in *registry }

// NewReader returns a reader of all proxies of this process.
func NewReader() *Reader { return &Reader{process} }

// Match returns the proxy's request that the log's is, and takes it; ok is false
// if the request did not come through a proxy of this process. Where two requests
// are too alike to be told apart it may be the other one, which is then left for
// the log's other one.
//
// A proxy may see the end of a request after the log was read. So where a request
// that is open at the proxy may be the one, and no other one surely is, Match
// waits for its end, not beyond until, nor after ctx is done.
func (r *Reader) Match(ctx context.Context, key serverresource.Key, l Logged, until time.Time) (found Request, ok bool) {
	for {
		patience := time.Until(until)
		e, changed := r.try(key, &l, patience > 0)
		if e != nil {
			return e.Request, true
		}
		if changed == nil {
			return Request{}, false
		}
		timer := time.NewTimer(patience)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			until = time.Time{}
		}
		timer.Stop()
	}
}

// try looks once. changed is nil unless it is worth another try when it is closed;
// it always is nil if mayWait is not set.
func (r *Reader) try(key serverresource.Key, l *Logged, mayWait bool) (e *entry, changed <-chan struct{}) {
	w := wanted{Logged: l, reader: r, launched: l.Launched.UnixNano(), ended: l.Ended.UnixNano()}
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	s := r.in.servers[key]
	if s == nil {
		return nil, nil
	}
	r.in.sweep(time.Now())
	e, sure := w.byTimings(s.timed[l.Timings]), true
	if e == nil {
		e, sure = w.byTimes(s)
	}
	if first := s.open.Front(); mayWait && (e == nil || !sure) &&
		first != nil && first.Value.(*Open).arrived.UnixNano() <= w.launched+early {
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		return nil, s.changed
	}
	if e != nil {
		e.claimed = append(e.claimed, r)
	}
	return e, nil
}

// wanted is the log's request for which the proxy's is sought.
type wanted struct {
	*Logged
	reader          *Reader
	launched, ended int64
}

// byTimings returns the request whose end is nearest, of those with the same
// timings. Two are of requests that are alike, or of a simulator.
func (w *wanted) byTimings(same []*entry) (best *entry) {
	var least int64
	for _, e := range same {
		if slices.Contains(e.claimed, w.reader) {
			continue
		}
		off := abs(w.ended-e.ended) + max(e.arrived-w.launched, 0)
		if best == nil || off < least {
			best, least = e, off
		}
	}
	return best
}

// byTimes returns the request that fits best, of those that timings do not tell,
// and whether that is beyond doubt.
func (w *wanted) byTimes(s *server) (best *entry, sure bool) {
	consider := func(e *entry) {
		if w.canBe(e) && !slices.Contains(e.claimed, w.reader) && (best == nil || w.isRather(e, best)) {
			best = e
		}
	}
	for at := s.cut.Front(); at != nil; at = at.Next() {
		consider(at.Value.(*entry))
	}
	// These may be many. They are almost in the order of their ends.
	for at := s.whole.Back(); at != nil; at = at.Prev() {
		e := at.Value.(*entry)
		if w.ended-e.ended > 2*slack {
			break
		}
		consider(e)
	}
	return best, best != nil && best.Completed == w.Completed && abs(w.ended-best.ended) <= near
}

// canBe reports whether times and tokens allow that e is the request.
func (w *wanted) canBe(e *entry) bool {
	late := w.ended - e.ended
	if late < -slack || e.arrived > w.launched+early {
		return false
	}
	if !e.Completed {
		// The server notices that a client has left with its next token, which
		// may be the first of a long prompt, or when the request gets its slot.
		// It may be done before it notices, but then soon.
		return !w.Completed || w.launched <= e.ended && 0 <= late && late <= slack
	}
	return late <= slack && equalIfKnown(w.InputTokens, e.InputTokens) && equalIfKnown(w.OutputTokens, e.OutputTokens)
}

// isRather reports whether e is more likely to be the request than f.
func (w *wanted) isRather(e, f *entry) bool {
	if e.Completed != f.Completed {
		return e.Completed == w.Completed
	}
	off, other := abs(w.ended-e.ended), abs(w.ended-f.ended)
	if abs(off-other) > alike {
		return off < other
	}
	return e.arrived < f.arrived // it was the first to get a slot
}

func equalIfKnown(a, b int) bool { return a < 0 || b < 0 || a == b }

func abs(d int64) int64 { return max(d, -d) }
