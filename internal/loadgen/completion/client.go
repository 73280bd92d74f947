// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// Options define how requests are sent.
type Options struct {
	// APIKey is sent as a bearer token and, to Messages, also as x-api-key.
	APIKey string
	// Header is sent with each request.
	Header http.Header
	// Prepare, if not nil, may add headers to a request before it is sent, such
	// as the trace context of ctx.
	Prepare func(ctx context.Context, h http.Header)
	// ConnectTimeout, FirstTokenTimeout and Timeout limit the time from when a request
	// is sent until it has a connection, its first token (of a stream) and its whole
	// answer. 0 is no limit.
	ConnectTimeout, FirstTokenTimeout, Timeout time.Duration
	// RenameCure, if not nil, changes the names of settings in the cures of failures;
	// see netfailure.Server.
	RenameCure func(string) string
	// MaxEvent is the maximum size in bytes of an event, or of an answer that is not
	// streamed; 0 means 16 MiB.
	MaxEvent int
}

// Client sends requests to one server. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	options Options
	server  netfailure.Server
	urls    [len(endpoints)]url.URL
	headers [len(endpoints)]http.Header
	// keeps reports whether the server is known to keep connections open after a
	// stream. llama-server closes them although it announces to keep them, and the
	// next request on one would fail.
	keeps atomic.Bool
}

// New returns a client of the server at base, an absolute http or https URL
// that may have a path. The given client's transport determines TLS, proxies and the
// number of connections. Redirects are not followed, since they would pass the API
// key on.
func New(base string, client *http.Client, o Options) (*Client, error) {
	server, err := endpoint.Parse(base)
	if err != nil {
		return nil, err
	}
	o.MaxEvent = cmp.Or(o.MaxEvent, 16<<20)
	h := *client
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{http: &h, options: o, server: netfailure.Server{Base: *server.URL, Name: "the server", Rename: o.RenameCure}}
	for e := range endpoints {
		u := *server.URL
		u.Path += endpoints[e].path
		if u.RawPath != "" {
			u.RawPath += endpoints[e].path
		}
		c.urls[e] = u
		c.headers[e] = o.header(Endpoint(e))
	}
	return c, nil
}

func (o *Options) header(e Endpoint) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	// A compressed stream would not arrive in the pieces that the server wrote.
	h.Set("Accept-Encoding", "identity")
	// This header allows net/http to send the request again if the server closes a
	// reused connection at that moment. Without a value, it is not sent itself.
	h["Idempotency-Key"] = nil
	if o.APIKey != "" {
		h.Set("Authorization", "Bearer "+o.APIKey)
	}
	if e == Messages {
		h.Set("Anthropic-Version", "2023-06-01")
		if o.APIKey != "" {
			h.Set("X-Api-Key", o.APIKey)
		}
	}
	for name, values := range o.Header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h
}

// Do sends a request that was due at the given time, and returns when its answer is
// complete or it has failed. If ctx ends first, the request is cancelled.
func (c *Client) Do(ctx context.Context, r *Request, due time.Time) Result {
	x := newExchange(c, r, due)
	defer x.release()
	x.do(ctx)
	x.answer.into(&x.result)
	x.result.Text = x.kept.String()
	return x.result
}

// trail records what httptrace reports about a request, from any goroutine. Times
// are nanoseconds after it was sent; 0 if not yet reached.
type trail struct {
	sent             time.Time
	gotConn, headers atomic.Int64
	conns            atomic.Int32
	reused           atomic.Bool
	connecting       *time.Timer // nil without a limit
}

func (t *trail) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			t.gotConn.Store(int64(time.Since(t.sent)))
			t.conns.Add(1)
			t.reused.Store(i.Reused)
			if t.connecting != nil {
				t.connecting.Stop()
			}
		},
		GotFirstResponseByte: func() { t.headers.Store(int64(time.Since(t.sent))) },
	}
}

func (t *trail) into(r *Result) {
	if d := t.gotConn.Load(); d > 0 {
		r.GotConn = t.sent.Add(time.Duration(d))
	}
	if d := t.headers.Load(); d > 0 {
		r.Headers = t.sent.Add(time.Duration(d))
	}
	r.Reused = t.reused.Load()
	r.Resent = max(0, int(t.conns.Load())-1)
}

// do sends the request and reads the answer.
func (x *exchange) do(ctx context.Context) {
	body, err := x.request.Body()
	if err != nil {
		x.fail(InvalidRequest, err)
		return
	}
	q := x.client.request(x.request, body)
	q.Close = x.request.Stream && !x.client.keeps.Load()
	if prepare := x.client.options.Prepare; prepare != nil {
		prepare(ctx, q.Header)
	}
	x.caller = ctx
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	defer x.cancel(nil)

	x.result.Sent = time.Now()
	t := &trail{sent: x.result.Sent}
	t.connecting = x.limit(x.client.options.ConnectTimeout, errConnectTimeout)
	defer stop(t.connecting)
	if x.request.Stream {
		x.waiting = x.limit(x.client.options.FirstTokenTimeout, errFirstTokenTimeout)
		defer stop(x.waiting)
	}
	defer stop(x.limit(x.client.options.Timeout, errTimeout))

	response, err := x.client.http.Do(q.WithContext(httptrace.WithClientTrace(x.ctx, t.hooks())))
	t.into(&x.result)
	if err != nil {
		x.failBelow(err, false)
		return
	}
	defer response.Body.Close()
	x.client.server.Answered()
	x.read(response)
}

// request returns the HTTP request to send.
func (c *Client) request(r *Request, body []byte) *http.Request {
	return &http.Request{
		Method:        http.MethodPost,
		URL:           &c.urls[r.Endpoint],
		Host:          c.urls[r.Endpoint].Host,
		Header:        c.headers[r.Endpoint].Clone(),
		Body:          io.NopCloser(bytes.NewReader(body)),
		GetBody:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
		ContentLength: int64(len(body)),
	}
}
