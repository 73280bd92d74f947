// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ended is an Observer that keeps the requests that have ended.
type ended struct{ all []*Exchange }

func (*ended) Arrived(*Exchange)   {}
func (*ended) Answering(*Exchange) {}
func (e *ended) Ended(x *Exchange) { e.all = append(e.all, x) }

// What stands in the path of every request is logged when it changes, not each time.
func TestProxy_LogsOnceThatTheServerIsDown(t *testing.T) {
	up := false
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	server.Start()
	defer server.Close()
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	core, logs := observer.New(zapcore.InfoLevel)
	transport := &http.Transport{}
	p := New(Options{Base: base, Observer: &ended{}, Log: zap.New(core), Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if !up {
			r = r.Clone(r.Context())
			r.URL.Host = "127.0.0.1:1"
		}
		return transport.RoundTrip(r)
	})})
	defer transport.CloseIdleConnections()
	get := func() int {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/slots", http.NoBody))
		return w.Code
	}
	for _, want := range []int{502, 502, 200, 200, 502} {
		up = want == 200
		assert.Equal(t, want, get())
	}
	var lines []string
	for _, l := range logs.All() {
		lines = append(lines, l.Message)
	}
	assert.Equal(t, "llama-server gives no answer: clients get an error in its place|llama-server answers again|llama-server gives no answer: clients get an error in its place", strings.Join(lines, "|"))
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNewExchange_KnowsLlamaServersEndpoints(t *testing.T) {
	for _, c := range []struct {
		method, path, route string
		completion          bool
		endpoint            completion.Endpoint
	}{
		{"POST", "/v1/chat/completions", "/v1/chat/completions", true, completion.Chat},
		{"POST", "/chat/completions", "/chat/completions", true, completion.Chat},
		{"POST", "/prefix/v1/completions", "/v1/completions", true, completion.Completions},
		{"POST", "/completions", "/completions", true, completion.Native},
		{"POST", "/completion", "/completion", true, completion.Native},
		{"POST", "/v1/responses", "/v1/responses", true, completion.Responses},
		{"POST", "/v1/messages", "/v1/messages", true, completion.Messages},
		{"POST", "/v1/embeddings", "/v1/embeddings", true, completion.Embeddings},
		{"OPTIONS", "/v1/chat/completions", "/v1/chat/completions", false, 0},
		{"GET", "/slots", "/slots", false, 0},
		{"POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens", false, 0},
		{"GET", "/assets/index.js", "", false, 0},
		{"POST", "/mycompletion", "", false, 0},
	} {
		x := newExchange(httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody))
		assert.Equal(t, []any{c.route, c.completion, c.endpoint}, []any{x.Route, x.Completion, x.Endpoint}, c.path)
	}
}
