// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serveOnce returns the URL of a server that does this with one connection.
func serveOnce(t *testing.T, converse func(conn net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		converse(conn)
		_ = conn.Close()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String() + "/v1/chat/completions"
}

func newSingleFor(t *testing.T, at string) *single {
	t.Helper()
	base, err := url.Parse(at)
	require.NoError(t, err)
	s := newSingle(&Options{Base: base, Transport: &http.Transport{}})
	require.NotNil(t, s)
	return s
}

func post(t *testing.T, ctx context.Context, at string, body io.Reader) *http.Request { //nolint:revive // a test comes first
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, body)
	require.NoError(t, err)
	r.Close = true
	return r
}

func TestSingle_PassesOnWhatComesBeforeTheAnswer(t *testing.T) {
	at := serveOnce(t, func(conn net.Conn) {
		q, err := http.ReadRequest(bufio.NewReader(conn))
		if assert.NoError(t, err) {
			assert.True(t, q.Close)
			_, _ = io.Copy(io.Discard, q.Body)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	var early []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		assert.Equal(t, "</a>", h.Get("Link"))
		early = append(early, status)
		return nil
	}})
	answer, err := newSingleFor(t, at).RoundTrip(post(t, ctx, at, strings.NewReader("{}")))
	require.NoError(t, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	assert.Equal(t, "ok", string(body))
	assert.Equal(t, []int{103}, early)
	require.Error(t, answer.Body.Close(), "its connection has ended with it")
}

func TestSingle_AnAnswerMayComeBeforeTheWholeRequest(t *testing.T) {
	at := serveOnce(t, func(conn net.Conn) {
		_, err := http.ReadRequest(bufio.NewReader(conn))
		assert.NoError(t, err)
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn) // until the proxy closes it
	})
	unfinished, end := io.Pipe()
	defer func() { _ = end.Close() }()
	answer, err := newSingleFor(t, at).RoundTrip(post(t, t.Context(), at, unfinished)) //nolint:bodyclose // it ends by itself
	require.NoError(t, err)
	assert.Equal(t, 413, answer.StatusCode)
	_, err = io.ReadAll(answer.Body)
	require.NoError(t, err)
}

func TestSingle_ACancelledRequestEndsTheConnection(t *testing.T) {
	for name, head := range map[string]string{"waiting": "", "answering": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"} {
		t.Run(name, func(t *testing.T) {
			arrived, closed := make(chan struct{}), make(chan struct{})
			at := serveOnce(t, func(conn net.Conn) {
				_, _ = http.ReadRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, head)
				close(arrived)
				_, _ = io.Copy(io.Discard, conn)
				close(closed)
			})
			gone := errors.New("the client has gone")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() { <-arrived; cancel(gone) }()
			answer, err := newSingleFor(t, at).RoundTrip(post(t, ctx, at, strings.NewReader("{}"))) //nolint:bodyclose // it ends by itself
			if err == nil {
				_, err = io.ReadAll(answer.Body)
			}
			require.ErrorIs(t, err, gone)
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Fatal("the connection to the server is still open")
			}
		})
	}
}

func TestSingle_ABodyThatBreaksOffIsTheClients(t *testing.T) {
	at := serveOnce(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	broken, end := io.Pipe()
	go func() { _ = end.CloseWithError(errors.New("connection reset")) }()
	_, err := newSingleFor(t, at).RoundTrip(post(t, t.Context(), at, &clientBody{ReadCloser: broken})) //nolint:bodyclose // there is no answer
	require.ErrorIs(t, err, errClientBody)
}

func TestSingle_LeavesTheRestToTheTransport(t *testing.T) {
	plain := func() *Options {
		return &Options{Base: &url.URL{Scheme: "http", Host: "localhost:8080"}, Transport: &http.Transport{}}
	}
	assert.NotNil(t, newSingle(plain()))
	for name, change := range map[string]func(*Options){
		"TLS":          func(o *Options) { o.Base.Scheme = "https" },
		"a proxy":      func(o *Options) { o.ForwardProxy = true },
		"an extension": func(o *Options) { o.Transport = &upstream{} },
		"a limit":      func(o *Options) { o.Transport = &http.Transport{MaxConnsPerHost: 1} },
	} {
		o := plain()
		change(o)
		assert.Nil(t, newSingle(o), name)
	}
	s := newSingle(plain())
	assert.True(t, s.can(&http.Request{Header: http.Header{}}))
	assert.False(t, s.can(&http.Request{Header: http.Header{"Upgrade": {"websocket"}}}))
	assert.False(t, s.can(&http.Request{Header: http.Header{"Expect": {"100-continue"}}}))
}
