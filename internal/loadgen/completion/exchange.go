// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// exchange is a request under way.
type exchange struct {
	reading
	client  *Client
	request *Request
	kept    strings.Builder // the answer's text

	caller  context.Context // the context that Do was called with
	ctx     context.Context // derived from caller; also ends with a time-out
	cancel  context.CancelCauseFunc
	waiting *time.Timer // for the first token; nil without a limit
}

var (
	errConnectTimeout    = errors.New("no connection in time: is the server overloaded or the address wrong? Else raise the connect time-out")
	errFirstTokenTimeout = errors.New("no first token in time: the server is overloaded, or the time-out too short for its prompts")
	errTimeout           = errors.New("not complete in time: the server hangs or is overloaded, or the time-out is too short for so many tokens")
	errEndless           = errors.New("nothing came after the end of the answer, not even the end of the stream")
)

// exchanges holds ended exchanges, so that their buffers are reused.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func newExchange(c *Client, r *Request, due time.Time) *exchange {
	x := exchanges.Get().(*exchange)
	x.client, x.request = c, r
	x.result = Result{Due: due}
	x.answer.reset(r.Endpoint)
	return x
}

// keepBuffer is the largest size of a buffer that is kept for other requests.
const keepBuffer = 64 << 10

func (x *exchange) release() {
	x.events = eventReader{buf: x.events.buf, joined: x.events.joined[:0]}
	if len(x.events.buf) > keepBuffer || cap(x.events.joined) > keepBuffer {
		x.events = eventReader{}
	}
	*x = exchange{reading: reading{events: x.events, answer: answer{timings: x.answer.timings}}}
	exchanges.Put(x)
}

// limit cancels the exchange with the cause after a time. It returns nil if there is
// no limit.
func (x *exchange) limit(d time.Duration, cause error) *time.Timer {
	if d <= 0 {
		return nil
	}
	cancel := x.cancel // x may serve another request when the timer fires
	return time.AfterFunc(d, func() { cancel(cause) })
}

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

// read reads the answer: an error, a stream or a whole body.
func (x *exchange) read(response *http.Response) {
	x.result.Status = response.StatusCode
	x.events.in, x.events.now, x.events.limit = response.Body, time.Now, x.client.options.MaxEvent
	if response.StatusCode != http.StatusOK {
		x.refused(response)
		return
	}
	if keeps := response.Header.Get("Server") != "llama.cpp"; keeps != x.client.keeps.Load() {
		x.client.keeps.Store(keeps)
	}
	if t, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err == nil && t == "text/event-stream" {
		if x.stream() {
			x.drain(response.Body)
		}
		return
	}
	x.whole()
}

// refused reads an answer whose status is not 200.
func (x *exchange) refused(response *http.Response) {
	late := x.limit(5*time.Second, errEndless)
	defer stop(late)
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	x.result.End = time.Now()
	if err != nil && x.caller.Err() != nil {
		x.failBelow(err, true)
		return
	}
	x.result.RetryAfter = retryAfter(response.Header.Get("Retry-After"), x.result.End)
	p := problem(response.StatusCode, body)
	cure, wantsTLS := x.client.server.WantsTLS(response.StatusCode, body)
	var told error = p
	switch {
	case wantsTLS:
		told = fmt.Errorf("%w: %s", p, cure)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		told = fmt.Errorf("%w: set the API key to one that the server knows", p)
	case response.StatusCode == http.StatusNotFound:
		told = fmt.Errorf("%w: does the server have this endpoint, and is the URL with its prefix (--api-prefix), if it has one?", p)
	case response.StatusCode >= 300 && response.StatusCode < 400:
		told = fmt.Errorf("redirects to %q: use the address of the server itself: %w", response.Header.Get("Location"), p)
	}
	x.fail(strconv.Itoa(response.StatusCode), told)
}

// retryAfter reads the header, which is seconds or a date; 0 for anything else.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.ParseFloat(value, 64); err == nil && s >= 0 && s < 1e9 {
		return time.Duration(s * float64(time.Second))
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// stream reads the events, and reports whether they included the end of the answer.
func (x *exchange) stream() bool {
	for {
		e, err := x.events.next()
		if err != nil {
			x.failed(x.ended(err))
			return false
		}
		last := x.result.LastToken
		s, err := x.take(e)
		if err != nil {
			x.failed(err)
			return false
		}
		if s&(saidThought|saidText) != 0 {
			x.text(e.arrived, last)
			if x.request.KeepText {
				x.kept.WriteString(textOf(x.request.Endpoint, e.data))
			}
		}
		if s&saidEnd != 0 {
			return true
		}
		if x.result.Chunks == x.request.CancelAfter && x.request.CancelAfter > 0 {
			x.result.Outcome = Cancelled
			return false
		}
	}
}

// text records that a chunk with text arrived after the last one.
func (x *exchange) text(arrived, last time.Time) {
	r := &x.result
	if r.Chunks > 1 {
		r.Gaps = append(r.Gaps, arrived.Sub(last))
		return
	}
	stop(x.waiting)
	if n := x.request.MaxTokens; n > 1 {
		r.Gaps = make([]time.Duration, 0, min(n-1, 1024))
	}
}

// failed records what is wrong with the answer; err may be nil.
func (x *exchange) failed(err error) {
	var f *flaw
	switch {
	case err == nil:
	case !errors.As(err, &f):
		x.failBelow(err, true)
	default:
		x.fail(f.class, f.error)
	}
}

// drain reads the rest of the stream after the end of the answer, so that the
// connection can be reused.
func (x *exchange) drain(body io.Reader) {
	late := x.limit(100*time.Millisecond, errEndless)
	defer stop(late)
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 64<<10)) // an error only costs the connection
}

// whole reads an answer that is not a stream.
func (x *exchange) whole() {
	body, err := x.events.rest()
	x.result.End = x.events.arrived
	if err != nil {
		x.failed(x.unread(err))
		return
	}
	s, err := x.takeWhole(body)
	x.failed(err)
	if x.request.KeepText && err == nil && s&saidPart != 0 {
		x.kept.WriteString(textOf(x.request.Endpoint, body))
	}
}
