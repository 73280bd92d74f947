// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// Encoded is the value of Result.ErrorType for an answer that a Watcher cannot read,
// since it is compressed.
const Encoded = "encoded"

// Watcher measures an answer whose bytes pass by on their way to a client. It keeps
// no text. It is not safe for concurrent use.
type Watcher struct {
	reading
	in      passing
	at      time.Time // when the bytes in hand arrived
	kind    kind
	done    bool // the answer has ended, or cannot be read any further
	flaw    error
	longest time.Duration
}

type kind uint8

const (
	ignored kind = iota // its status or encoding says that it is no answer to read
	streamed
	whole
)

// passing is the input of an eventReader: the bytes in hand, then errMore.
type passing struct{ bytes []byte }

var errMore = errors.New("no more bytes so far")

func (p *passing) Read(to []byte) (int, error) {
	if len(p.bytes) == 0 {
		return 0, errMore
	}
	n := copy(to, p.bytes)
	p.bytes = p.bytes[n:]
	return n, nil
}

// NewWatcher returns a Watcher of an answer of an endpoint. limit is the maximum size
// in bytes of an event, or of an answer that is not streamed; what is larger is not
// read.
func NewWatcher(e Endpoint, limit int) *Watcher {
	w := &Watcher{}
	w.answer.reset(e)
	w.events.in, w.events.limit = &w.in, limit
	w.events.now = func() time.Time { return w.at }
	return w
}

// Head takes in the head of the answer, which arrived at the given time.
func (w *Watcher) Head(status int, header http.Header, at time.Time) {
	w.result.Status, w.result.Headers = status, at
	switch t, _, err := mime.ParseMediaType(header.Get("Content-Type")); {
	case status != http.StatusOK:
		w.flaw = &flaw{strconv.Itoa(status), errors.New(http.StatusText(status))}
	case header.Get("Content-Encoding") != "" && header.Get("Content-Encoding") != "identity":
		w.flaw = &flaw{Encoded, errors.New("the answer is compressed")}
	case err == nil && t == "text/event-stream":
		w.kind = streamed
	default:
		w.kind = whole
	}
}

// Add takes in bytes of the body, which arrived at the given time. It does not keep p.
func (w *Watcher) Add(p []byte, at time.Time) {
	w.at = at
	if w.done || w.kind == ignored {
		return
	}
	w.in.bytes, w.events.err = p, nil
	if w.kind == whole || bytes.IndexByte(p, '\n') < 0 { // no event can end here
		for len(w.in.bytes) > 0 && w.events.fill() { //nolint:revive // fill does it.
		}
		if errors.Is(w.events.err, errTooLarge) {
			w.stop(w.unread(w.events.err))
		}
		return
	}
	if w.events.from < w.events.to || len(p) >= w.events.limit {
		w.add()
		return
	}
	// Nothing is left of the bytes before: events are read where they are, and only what
	// these bytes have of a next one is kept.
	own := w.events.buf
	w.events.buf, w.events.from, w.events.to, w.events.arrived, w.events.err = p, 0, len(p), at, errMore
	w.add()
	if w.done {
		return
	}
	rest := w.events.buf[w.events.from:w.events.to]
	if len(rest) > len(own) {
		own = make([]byte, max(len(rest), smallBuffer))
	}
	w.events.buf, w.events.from, w.events.to = own, 0, copy(own, rest)
}

// smallBuffer is enough for what is left of an event of one token.
const smallBuffer = 512

// add reads the events in hand.
func (w *Watcher) add() {
	for !w.done {
		e, err := w.events.next()
		if errors.Is(err, errMore) {
			return
		}
		if err != nil {
			w.stop(w.ended(err))
			return
		}
		w.event(e)
	}
}

func (w *Watcher) event(e event) {
	last := w.result.LastToken
	s, err := w.take(e)
	if !last.IsZero() {
		w.longest = max(w.longest, w.result.LastToken.Sub(last))
	}
	if err != nil || s&saidEnd != 0 {
		w.stop(err)
	}
}

// stop ends reading, and gives up what has been read.
func (w *Watcher) stop(err error) {
	w.done, w.flaw = true, err
	w.events = eventReader{}
}

// End ends the answer. err is nil or io.EOF if its body came to its end, or else why
// it did not. It returns the measurements: the outcome is OK if the whole answer came,
// or Failed. Times that concern the sending of the request are not set.
func (w *Watcher) End(err error, at time.Time) Result {
	w.at = at
	if errors.Is(err, io.EOF) {
		err = nil
	}
	switch {
	case w.done || w.kind == ignored:
	case w.kind == streamed && err == nil:
		w.events.in, w.events.err = bytes.NewReader(nil), nil
		w.add() // what there is, to its end
	case err == nil:
		_, wrong := w.takeWhole(w.events.buf[w.events.from:w.events.to])
		w.stop(wrong)
	default:
		w.stop(err)
	}
	w.answer.into(&w.result)
	w.result.End = at
	var f *flaw
	switch {
	case w.flaw == nil:
		return w.result
	case errors.As(w.flaw, &f):
		w.result.ErrorType = f.class
	default:
		w.result.ErrorType = StreamCut
	}
	w.result.Outcome, w.result.Err = Failed, w.flaw
	return w.result
}

// Streamed reports whether the answer is a stream of events.
func (w *Watcher) Streamed() bool { return w.kind == streamed }

// LongestGap returns the longest time between two chunks with text; 0 without a second
// one.
func (w *Watcher) LongestGap() time.Duration { return w.longest }
