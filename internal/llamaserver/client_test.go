// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded answers every request with one of the real server's answers.
type recorded string

func (r recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	raw, err := os.ReadFile(filepath.Join("testdata", "recorded", string(r)+".http"))
	if err != nil {
		return nil, err
	}
	head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	// Recorded bodies are de-chunked.
	head = bytes.ReplaceAll(head, []byte("\r\nTransfer-Encoding: chunked"), nil)
	raw = append(append(head, "\r\n\r\n"...), body...)
	return http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), req)
}

func body(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "recorded", name+".http"))
	require.NoError(t, err)
	_, b, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	return b
}

func newClient(t *testing.T, base string, rt http.RoundTripper) *Client {
	t.Helper()
	c, err := New(base, &http.Client{Transport: rt}, "", 1<<20)
	require.NoError(t, err)
	return c
}

func TestClient_ReadsWhatTheRealServerAnswers(t *testing.T) {
	client := func(name string) *Client { return newClient(t, "http://h:8080", recorded(name)) }
	ctx := t.Context()

	m, err := client("idle/metrics_after").Metrics(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, "10167755560", m.Process)
	v, ok := m.Value("tokens_predicted_total")
	assert.True(t, ok)
	assert.InDelta(t, 52, v, 0)

	s, err := client("load/slots_mid_prompt").Slots(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, []Slot{
		{ID: 0, Context: 8192, Busy: true, Task: 0, Tokens: 2048, Processed: 0, Decoded: 0, Remaining: 20},
		{ID: 1, Context: 8192, Task: Unknown, Tokens: Unknown, Processed: Unknown, Decoded: Unknown, Remaining: Unknown},
	}, s)

	p, err := client("idle/props").Props(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, &Props{
		Build: "b11669-Debian", ModelName: "tiny.gguf", ModelPath: "/models/tiny.gguf",
		ModelType: "all F32", Slots: 4, Context: 2048, CanSleep: true,
	}, p)

	p, err = client("sleep/props_sleeping").Props(ctx, "")
	require.NoError(t, err)
	assert.True(t, p.Sleeping)

	p, err = client("router/props").Props(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, &Props{Router: true, Build: "b11669-Debian", Slots: Unknown, Context: Unknown}, p)

	ms, err := client("router/models_failed").Models(ctx)
	require.NoError(t, err)
	assert.Equal(t, []Model{{"broken", ModelFailed}, {"other", ModelUnloaded}, {"slow", ModelLoaded}, {"tiny", ModelUnloaded}}, ms)

	ms, err = client("idle/models").Models(ctx)
	require.NoError(t, err)
	assert.Equal(t, []Model{{ID: "/models/tiny.gguf"}}, ms, "a server that is no router reports no state")

	assert.NoError(t, client("idle/health").Health(ctx))
}

func TestClient_ErrorsNameAddressCauseAndCure(t *testing.T) {
	metrics := func(c *Client) error { _, err := c.Metrics(t.Context(), ""); return err }
	slots := func(c *Client) error { _, err := c.Slots(t.Context(), ""); return err }
	health := func(c *Client) error { return c.Health(t.Context()) }
	for _, tt := range []struct {
		answer string
		call   func(*Client) error
		reason Reason
		text   string
	}{
		{"disabled/metrics_501", metrics, Disabled, "GET http://h:8080/metrics: 501: start llama-server with --metrics"},
		{"disabled/slots_501", slots, Disabled, "GET http://h:8080/slots: 501: start llama-server with --slots, without --no-slots, or leave the slots scraper out"},
		{"apikey/nokey_metrics", metrics, Unauthorized, "GET http://h:8080/metrics: 401: set api_key to the key that llama-server was started with (--api-key)"},
		{"loading/metrics", metrics, Loading, "GET http://h:8080/metrics: 503: the model is being loaded"},
		{"loading/health", health, Loading, "GET http://h:8080/health: 503: the model is being loaded"},
		{"errors/404", metrics, Unexpected, "GET http://h:8080/metrics: 404: no such page: is endpoint llama-server's address, with its prefix (--api-prefix) if it has one, and without /v1?"},
		{"router/metrics_no_model", metrics, NeedsModel, "GET http://h:8080/metrics: 400: the server is a router"},
		{"router/metrics_not_loaded_autoload_false", metrics, NotLoaded, "GET http://h:8080/metrics: 400: the model is not loaded"},
		{"router/metrics_while_loading_autoload_false", metrics, NotLoaded, "GET http://h:8080/metrics: 500: the model is not loaded"},
		{"router/metrics_while_loading_503", metrics, Loading, "GET http://h:8080/metrics: 503: the model is being loaded"},
		{"idle/props", metrics, Malformed, "GET http://h:8080/metrics: not in Prometheus' text format: is endpoint llama-server's address?"},
		{"idle/props", slots, Malformed, "GET http://h:8080/slots: not a list of slots: is endpoint llama-server's address?"},
		{"idle/metrics", health, Malformed, `GET http://h:8080/health: not {"status":"ok"}: is endpoint llama-server's address?`},
	} {
		t.Run(tt.answer, func(t *testing.T) {
			err := tt.call(newClient(t, "http://h:8080", recorded(tt.answer)))
			require.EqualError(t, err, tt.text)
			assert.Equal(t, tt.reason, ReasonOf(err))
		})
	}
}

func TestClient_FailuresOnTheWayAreToldApart(t *testing.T) {
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang/metrics":
			<-hang
		case "/short/metrics":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		case "/huge/metrics":
			_, _ = w.Write(bytes.Repeat([]byte("x"), 2<<20))
		case "/elsewhere/metrics":
			http.Redirect(w, r, "http://other:1/login?secret=1", http.StatusFound)
		case "/plain/metrics":
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}
	}))
	defer srv.Close()
	defer close(hang)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refusing := "http://" + closed.Addr().String()
	require.NoError(t, closed.Close())

	for _, tt := range []struct {
		name, base string
		reason     Reason
		text       string
	}{
		{"hangs", srv.URL + "/hang", Late, "no answer in time"},
		{"closes early", srv.URL + "/short", NoAnswer, "answer cut short: unexpected EOF"},
		{"sends too much", srv.URL + "/huge", TooLarge, "answer of more than 1048576 bytes: raise max_response_size"},
		{"redirects", srv.URL + "/elsewhere", Unexpected, "302: redirects to http://other:1/login: set endpoint"},
		{"is a proxy without a server", srv.URL + "/plain", Unexpected, "502: not an answer of llama-server"},
		{"refuses", refusing, NoAnswer, "connection refused: is llama-server running there?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			timeout := time.Minute // on a busy machine a megabyte may take long
			if tt.reason == Late {
				timeout = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			_, err := newClient(t, tt.base, transport).Metrics(ctx, "")
			require.ErrorContains(t, err, tt.text)
			assert.Equal(t, tt.reason, ReasonOf(err))
			assert.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestClient_SendsKeyAndModelAndNeverLoadsOne(t *testing.T) {
	var got *http.Request
	c, err := New("http://user:pw@h:8080/llama/", &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		got = r
		return nil, errors.New("enough")
	})}, "key", 1<<20)
	require.NoError(t, err)

	_, err = c.Metrics(t.Context(), "a/b c")
	require.EqualError(t, err, "GET http://h:8080/llama/metrics?autoload=false&model=a%2Fb+c: enough: is llama-server running there?")
	assert.Equal(t, "/llama/metrics", got.URL.Path)
	assert.Equal(t, "a/b c", got.URL.Query().Get("model"))
	assert.Equal(t, "false", got.URL.Query().Get("autoload"))
	assert.Equal(t, "Bearer key", got.Header.Get("Authorization"))
}

func TestClient_CountsConnectionsNotCalls(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"ok"}`) }))
	defer srv.Close()
	c := newClient(t, srv.URL, &http.Transport{})
	defer c.CloseIdle()
	for range 3 {
		require.NoError(t, c.Health(t.Context()))
	}
	assert.EqualValues(t, 1, c.Dials())
	srv.CloseClientConnections()
	require.NoError(t, c.Health(t.Context()))
	assert.EqualValues(t, 2, c.Dials())
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestErrorMessage_IsCutBetweenCharacters(t *testing.T) {
	assert.Equal(t, "a"+strings.Repeat("é", 99), errorMessage([]byte(`{"error":{"message":"a`+strings.Repeat("é", 1000)+`"}}`)))
}
