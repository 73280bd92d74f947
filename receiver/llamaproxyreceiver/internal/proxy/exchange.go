// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Exchange is a request and its answer, as they pass.
type Exchange struct {
	// Header is the request's, until it has ended.
	Header http.Header
	Method string
	// Route is the path of a known endpoint; "" for any other.
	Route string
	// Completion reports whether a model answers the request, on Endpoint.
	Completion bool
	Endpoint   completion.Endpoint

	// Arrived is when the head of the request was there.
	Arrived time.Time

	// The rest is known when it has ended.

	// Status is the answer's status, the proxy's own one included; 0 if the client
	// left before there was one.
	Status int
	// Result is what the answer of a completion says. Its End is the exchange's, also
	// of other requests.
	Result completion.Result
	// Streamed reports whether the answer of a completion was a stream of events.
	Streamed bool
	// LongestGap is the longest time between two chunks with text of a stream.
	LongestGap time.Duration
	Outcome    Outcome
	// ErrorType is the class of what went wrong, "" if nothing did: a status, a class
	// of package netfailure or completion, Cancelled or Stopped.
	ErrorType string
	// Unread reports whether the answer of a completion could not be read.
	Unread bool
	// Measurement is the observer's own.
	Measurement any

	writer  http.ResponseWriter
	ctx     context.Context
	watcher *completion.Watcher // nil unless there is an answer to read
	status  int
	failure string // of the proxy's own answer
	read    error  // how the answer's body ended; nil while it has not
	passed  bool   // the answer was passed on to its end
}

// Outcome is how a request ended, as its client saw it.
type Outcome uint8

const (
	Completed Outcome = iota // the whole answer came
	Cancelled                // the client left
	Rejected                 // the server refused it with a 4xx
	Failed                   // the server, or the way to it, failed
)

var outcomeNames = [...]string{Completed: "completed", Cancelled: "cancelled", Rejected: "rejected", Failed: "failed"}

// String returns completed, cancelled, rejected or failed.
func (o Outcome) String() string { return outcomeNames[o] }

// Stopped is the class of requests that the end of the proxy cut off.
const Stopped = "proxy_stopped"

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *Exchange { return ctx.Value(exchangeKey{}).(*Exchange) }

// routes are llama-server's endpoints of completions, and the API that each speaks. A
// longer one goes before one that it ends with.
var routes = []struct {
	path     string
	endpoint completion.Endpoint
}{
	{"/v1/chat/completions", completion.Chat},
	{"/chat/completions", completion.Chat},
	{"/v1/completions", completion.Completions},
	{"/completions", completion.Native},
	{"/completion", completion.Native},
	{"/infill", completion.Native},
	{"/v1/responses", completion.Responses},
	{"/responses", completion.Responses},
	{"/v1/messages", completion.Messages},
	{"/v1/embeddings", completion.Embeddings},
}

// others are endpoints that are only HTTP requests.
var others = []string{
	"/health", "/metrics", "/slots", "/props", "/models", "/v1/models", "/tokenize", "/detokenize", "/apply-template",
	"/embeddings", "/embedding", "/rerank", "/v1/rerank", "/lora-adapters", "/v1/messages/count_tokens", "/",
}

// unknown is the result of an answer that was not read.
var unknown = completion.Result{InputTokens: -1, CachedTokens: -1, OutputTokens: -1, ReasoningTokens: -1}

func newExchange(r *http.Request) *Exchange {
	x := &Exchange{Header: r.Header, Method: r.Method, Arrived: time.Now(), Result: unknown}
	for _, route := range routes {
		if strings.HasSuffix(r.URL.Path, route.path) {
			x.Route = route.path
			if r.Method == http.MethodPost {
				x.Completion, x.Endpoint = true, route.endpoint
			}
			return x
		}
	}
	for _, path := range others {
		if r.URL.Path == path {
			x.Route = path
			break
		}
	}
	return x
}

// head takes in the head of the answer.
func (x *Exchange) head(r *http.Response, limit int) {
	x.status = r.StatusCode
	if r.StatusCode == http.StatusSwitchingProtocols {
		return
	}
	if x.Completion {
		x.watcher = completion.NewWatcher(x.Endpoint, limit)
		x.watcher.Head(r.StatusCode, r.Header, time.Now())
	}
	r.Body = &body{ReadCloser: r.Body, exchange: x}
}

// body is an answer's body on its way to the client. What was read is looked at when the
// next read begins: it has been passed on by then, and is still in the buffer, which
// the proxy uses for nothing else in between.
type body struct {
	io.ReadCloser
	exchange *Exchange
	last     []byte
	at       time.Time
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	x := b.exchange
	b.look()
	n, err := b.ReadCloser.Read(p)
	if x.watcher != nil && n > 0 {
		b.last, b.at = p[:n], time.Now()
	}
	if err != nil {
		b.look() // there will be no other read
		x.read = err
	}
	return n, err
}

func (b *body) look() {
	if len(b.last) > 0 {
		b.exchange.watcher.Add(b.last, b.at)
		b.last = nil
	}
}

// end says how the exchange ended.
func (x *Exchange) end(now time.Time) {
	defer func() { x.Header, x.writer, x.ctx, x.watcher = nil, nil, nil, nil }() // it may be kept for a while
	x.Status = x.status
	complete := x.passed && (errors.Is(x.read, io.EOF) || x.status == http.StatusSwitchingProtocols)
	if x.watcher != nil {
		x.Streamed, x.LongestGap = x.watcher.Streamed(), x.watcher.LongestGap()
		err := x.read
		if err == nil {
			err = context.Canceled
		}
		x.Result = x.watcher.End(err, now)
	}
	x.Result.End = now
	class := x.Result.ErrorType
	switch class {
	case completion.Encoded, completion.TooLarge, completion.Malformed:
		x.Unread, class = true, ""
	}
	cause := context.Cause(x.ctx)
	switch {
	case x.failure != "":
		x.Outcome, x.ErrorType = Failed, x.failure
		if x.status < 500 {
			x.Outcome = Rejected
		}
	case x.status >= 500:
		x.Outcome, x.ErrorType = Failed, strconv.Itoa(x.status)
	case x.status >= 400:
		x.Outcome, x.ErrorType = Rejected, strconv.Itoa(x.status)
	case complete && class == "":
		x.Outcome = Completed
	case complete:
		x.Outcome, x.ErrorType = Failed, class
	case errors.Is(cause, errStopped):
		x.Outcome, x.ErrorType = Failed, Stopped
	case x.watcher != nil && x.Result.ErrorType == "": // it had all of the answer
		x.Outcome = Completed
	case cause != nil || x.read == nil:
		x.Outcome, x.ErrorType = Cancelled, Cancelled.String()
	default:
		x.Outcome, x.ErrorType = Failed, completion.StreamCut
	}
}

// Waited returns how long a request waited before the server began on it, which
// follows from the server's own timings, and false without them.
//
// That is from its arrival until its first token, less the time of its prompt. The
// first token of an answer that is not streamed came when its generation began.
func (x *Exchange) Waited() (time.Duration, bool) {
	first, ok := x.FirstToken()
	t := x.Result.Timings
	if !ok || t == nil {
		return 0, false
	}
	return max(0, first.Sub(x.Arrived)-t.Prompt), true
}

// FirstToken returns when the first token came, and false if none has or if that is not
// known.
func (x *Exchange) FirstToken() (time.Time, bool) {
	r := &x.Result
	switch {
	case !r.FirstToken.IsZero():
		return r.FirstToken, true
	case !x.Streamed && x.Outcome == Completed && r.Timings != nil && r.Timings.PredictedTokens > 0:
		return r.End.Add(-r.Timings.Predicted), true
	}
	return time.Time{}, false
}

// TimePerOutputToken returns the mean time between two tokens after the first, and false
// if there was no second one or if that is not known.
func (x *Exchange) TimePerOutputToken() (time.Duration, bool) {
	if d, ok := x.Result.TPOT(); ok {
		return d, true
	}
	if t := x.Result.Timings; t != nil && t.PredictedTokens > 1 {
		return t.Predicted / time.Duration(t.PredictedTokens-1), true
	}
	return 0, false
}
