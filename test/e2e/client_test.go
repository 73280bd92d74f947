// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// clients are users of a server; they know what they have got, and when.
type clients struct {
	t      testing.TB
	client *llamatest.Client
	wg     sync.WaitGroup

	mu       sync.Mutex
	arrivals []time.Time // of each token of a stream
	results  []completion.Result
}

func clientsOf(t testing.TB, s *llamatest.Server) *clients {
	t.Helper()
	c := &clients{t: t, client: s.Client()}
	c.client.HTTP = &http.Client{Transport: &tally{
		RoundTripper: &http.Transport{DisableKeepAlives: true},
		got: func(tokens int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for range tokens {
				c.arrivals = append(c.arrivals, time.Now())
			}
		},
	}}
	t.Cleanup(c.wg.Wait)
	return c
}

// send makes a request and waits for its end.
func (c *clients) send(q llamatest.Request) {
	c.t.Helper()
	r, err := c.client.Complete(c.t.Context(), q)
	require.NoError(c.t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results = append(c.results, r)
}

// start makes a request without waiting for its end.
func (c *clients) start(q llamatest.Request) {
	c.wg.Go(func() {
		r, err := c.client.Complete(c.t.Context(), q)
		if !assert.NoError(c.t, err) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.results = append(c.results, r)
	})
}

// finished is the number of requests that have ended.
func (c *clients) finished() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.results)
}

// counts are what the answers say of all requests together.
func (c *clients) counts() (prompt, cached, predicted float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.results {
		if t := r.Timings; t != nil { // a stream that was left has none
			prompt += float64(t.PromptTokens)
			cached += float64(t.CachedTokens)
			predicted += float64(t.PredictedTokens)
		}
	}
	return prompt, cached, predicted
}

// received is the number of tokens that had come at a time.
func (c *clients) received(at time.Time) (n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.arrivals {
		if !t.After(at) {
			n++
		}
	}
	return n
}

// tally counts the tokens of streams as they come; a result tells them only at
// the end.
type tally struct {
	http.RoundTripper
	got func(tokens int)
}

func (t *tally) RoundTrip(q *http.Request) (*http.Response, error) {
	r, err := t.RoundTripper.RoundTrip(q)
	if err == nil {
		r.Body = &talliedBody{ReadCloser: r.Body, got: t.got}
	}
	return r, err
}

type talliedBody struct {
	io.ReadCloser
	got  func(tokens int)
	rest []byte // of an event that has not come whole
}

// tokenEvent stands in each event of a stream but the last, which holds no token.
var tokenEvent = []byte(`"stop":false`)

func (b *talliedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.rest = append(b.rest, p[:n]...)
	if end := bytes.LastIndex(b.rest, []byte("\n\n")); end >= 0 {
		b.got(bytes.Count(b.rest[:end], tokenEvent))
		b.rest = b.rest[end:]
	}
	return n, err
}

// get reads a page of a server.
func get(t testing.TB, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	q.Close = true
	r, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

// counted is what the server itself says of a counter or gauge.
func counted(t testing.TB, s *llamatest.Server, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^llamacpp:` + name + ` (\S+)$`).FindStringSubmatch(get(t, s.URL()+"/metrics"))
	require.NotNil(t, m, name)
	v, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	return v
}
