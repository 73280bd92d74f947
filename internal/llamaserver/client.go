// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package llamaserver is a typed client of the endpoints with which
// llama.cpp's llama-server reports on itself: /metrics, /slots, /health, /props
// and /models. It only reads, and knows no OpenTelemetry.
//
// The answers of /slots, /props and /models hold prompts, generated text, chat
// templates and command lines. None of them leaves this package: its parsers
// pick out the fields that the exported types have and drop the rest.
//
// Old and future builds are read as far as they go: a missing field is not
// taken for a zero, and an unknown one is skipped.
package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// Client asks one server. It is safe for concurrent use. Every error that its
// methods return is an *Error.
type Client struct {
	server  netfailure.Server
	http    *http.Client
	key     string
	maxBody int64
	dials   atomic.Uint64
	trace   *httptrace.ClientTrace
	parser  metricsParser
}

// New returns a client of the server at base, an absolute http or https URL
// that may have a path (llama-server's --api-prefix, or a reverse proxy's).
// A non-empty key is sent as a bearer token. An answer of more than maxBody
// bytes is refused. Redirects are not followed, since the key would go along.
func New(base string, client *http.Client, key string, maxBody int64) (*Client, error) {
	e, err := endpoint.Parse(base)
	if err != nil {
		return nil, err
	}
	h := *client
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{server: netfailure.Server{Base: *e.URL, Name: "llama-server"}, http: &h, key: key, maxBody: maxBody}
	c.trace = &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			c.dials.Add(1)
		}
	}}
	return c, nil
}

// RenameCures changes the names of settings in the cures of failures; see
// netfailure.Server. It may be called before the first request only.
func (c *Client) RenameCures(rename func(string) string) { c.server.Rename = rename }

// Address is the base URL without credentials.
func (c *Client) Address() string {
	shown := c.server.Base
	shown.User = nil
	return shown.String()
}

// Dials counts the connections opened so far. As long as it does not change,
// all answers came over a connection that existed before, and so from the same
// process where the server is reached directly: a connection does not outlive
// the process behind it.
func (c *Client) Dials() uint64 { return c.dials.Load() }

// CloseIdle closes the connection that waits for the next call.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// Health reads /health. It returns nil when the server can take requests, and
// an Error with reason Loading when its model is being loaded. The endpoint
// needs no key and never waits for the decode loop; it does not show
// whether the server is busy or asleep.
func (c *Client) Health(ctx context.Context) error {
	_, _, err := read(ctx, c, "/health", "", func(body []byte) (struct{}, error) { return struct{}{}, checkHealth(body) })
	return err
}

// Metrics reads /metrics, in router mode those of one loaded model.
func (c *Client) Metrics(ctx context.Context, model string) (*Metrics, error) {
	m, header, err := read(ctx, c, "/metrics", model, c.parser.parse)
	if err != nil {
		return nil, err
	}
	m.Process = header.Get("Process-Start-Time-Unix")
	return m, nil
}

// Slots reads /slots, in router mode those of one loaded model. Beware: it
// wakes a sleeping server, and counts as activity that keeps one awake.
func (c *Client) Slots(ctx context.Context, model string) ([]Slot, error) {
	s, _, err := read(ctx, c, "/slots", model, ParseSlots)
	return s, err
}

// Props reads /props, in router mode those of the router, or of one loaded
// model. It neither wakes a sleeping server nor keeps one awake.
func (c *Client) Props(ctx context.Context, model string) (*Props, error) {
	p, _, err := read(ctx, c, "/props", model, ParseProps)
	return p, err
}

// Models reads /models, which in router mode lists every model and its state.
// It loads none.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	m, _, err := read(ctx, c, "/models", "", ParseModels)
	return m, err
}

// read returns what parse makes of the answer to one GET, with the answer's
// header. It returns nothing of an answer that parse finds malformed.
func read[T any](ctx context.Context, c *Client, path, model string, parse func(body []byte) (T, error)) (v T, header http.Header, err error) {
	a, err := c.get(ctx, path, model)
	if err != nil {
		return v, nil, err
	}
	defer a.free()
	parsed, err := parse(a.body.Bytes())
	if err != nil {
		return v, nil, &Error{URL: a.url, Status: http.StatusOK, Reason: Malformed, Err: err}
	}
	return parsed, a.header, nil
}

type answer struct {
	url    string
	header http.Header
	body   *bytes.Buffer
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (a *answer) free() { bodies.Put(a.body) }

// get returns the answer to one GET. A status other than 200 is an error.
func (c *Client) get(ctx context.Context, path, model string) (*answer, error) {
	u := c.server.Base
	u.Path += path
	if u.RawPath != "" {
		u.RawPath += path
	}
	if model != "" {
		// A router would otherwise load a model that it has unloaded since it
		// was listed, and maybe throw out another.
		u.RawQuery = url.Values{"model": {model}, "autoload": {"false"}}.Encode()
	}
	shown := u
	shown.User = nil
	a := &answer{url: shown.String()}

	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, c.trace), http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, &Error{URL: a.url, Reason: NoAnswer, Err: err}
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.noAnswer(a.url, err)
	}
	defer resp.Body.Close()
	c.server.Answered()

	a.header = resp.Header
	a.body = bodies.Get().(*bytes.Buffer)
	a.body.Reset()
	if n := resp.ContentLength; n > 0 && n <= c.maxBody {
		a.body.Grow(int(n) + bytes.MinRead) // read whole without growing again
	}
	_, err = a.body.ReadFrom(io.LimitReader(resp.Body, c.maxBody+1))
	switch {
	case err != nil:
		err = c.noAnswer(a.url, fmt.Errorf("answer cut short: %w", err))
	case int64(a.body.Len()) > c.maxBody:
		err = &Error{
			URL: a.url, Status: resp.StatusCode, Reason: TooLarge,
			Err: fmt.Errorf("answer of more than %d bytes: raise max_response_size if this is a llama-server", c.maxBody),
		}
	case resp.StatusCode != http.StatusOK:
		err = c.refused(a.url, resp, a.body.Bytes())
	}
	if err != nil {
		a.free()
		return nil, err
	}
	return a, nil
}
