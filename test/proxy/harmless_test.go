// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// completions are requests whose answers are streams of five tokens; they return how
// long each took.
func completions(t testing.TB, url string, n int) []time.Duration {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	t.Cleanup(client.CloseIdleConnections)
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		status, body := do(t, client, "POST", url+chatPath, chatBody)
		took[i] = time.Since(began)
		require.Equal(t, 200, status)
		require.Contains(t, body, "[DONE]")
	}
	slices.Sort(took)
	return took
}

func tokens() *scriptedserver.Script {
	s := scriptedserver.Chat("chatcmpl-1", 20, scriptedserver.Every(0, 5, 0)...)
	return &s
}

// A backend for spans that never answers, or refuses them, is none of the clients'
// business: their requests take as long as before, and the spans that are lost are
// counted.
func TestTelemetry_ThatHangsOrFailsSlowsNobody(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(w http.ResponseWriter, ended <-chan struct{}){
		"hangs":   func(_ http.ResponseWriter, ended <-chan struct{}) { <-ended },
		"refuses": func(w http.ResponseWriter, _ <-chan struct{}) { w.WriteHeader(http.StatusBadRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scriptedserver.Start(t, scriptedserver.Always(*tokens()))
			ended := make(chan struct{})
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				answer(w, ended)
			}))
			t.Cleanup(backend.Close)
			healthy := start(t, server.URL, settings{})
			p := start(t, server.URL, settings{traces: backend.URL})
			t.Cleanup(func() { close(ended) })

			const n = 300
			usual := completions(t, healthy.URL(), n)
			healthy.eventually(func() bool { return len(healthy.Spans(otlpsink.Kind("Server"))) == n }, "each request has a span")
			perRequest := float64(len(healthy.Spans())) / n

			sent, slowest := 0, time.Duration(0)
			dropped := func() float64 { return p.total("llamacpp.proxy.spans.dropped") }
			for end := time.Now().Add(patience); dropped() == 0 && time.Now().Before(end); {
				took := completions(t, p.URL(), n)
				sent += n
				slowest = max(slowest, took[n-1])
				assert.Less(t, took[n/2], 3*usual[n/2]+time.Millisecond)
			}
			assert.Less(t, slowest, 2*time.Second, "none waits for the backend, which has 5 s")
			p.awaitTotal(float64(sent), "llamacpp.proxy.requests", outcome("completed"))
			if name == "refuses" {
				p.awaitTotal(perRequest*float64(sent), "llamacpp.proxy.spans.dropped")
			} else {
				assert.Positive(t, dropped())
			}
		})
	}
}

// Streams that run when the collector is told to end are finished, while new
// connections are refused.
func TestSIGTERM_LetsStreamsFinish(t *testing.T) {
	t.Parallel()
	script := scriptedserver.Chat("chatcmpl-1", 20, scriptedserver.Every(0, 60, 50*time.Millisecond)...)
	server := scriptedserver.Start(t, scriptedserver.Always(script))
	p := start(t, server.URL, settings{receiver: []string{"drain_timeout: 30s"}})
	const streams = 5
	bodies := make(chan string, streams)
	for range streams {
		conn := dial(t, p.address)
		io.WriteString(conn, chat)
		in := bufio.NewReader(conn)
		m, err := readHead(in)
		require.NoError(t, err)
		go func() {
			if err := m.readBody(in, false); err != nil {
				t.Error(err)
			}
			bodies <- string(m.body)
		}()
	}
	ended := make(chan time.Time)
	go func() {
		p.Terminate()
		ended <- time.Now()
	}()
	otlpsink.Eventually(t, patience, func() bool { return refused(p.address) }, "new connections are refused")
	assert.Empty(t, bodies, "while the streams run")
	for range streams {
		assert.True(t, strings.HasSuffix(<-bodies, scriptedserver.Done))
	}
	last := time.Now()
	assert.Less(t, (<-ended).Sub(last), 5*time.Second, "then it ends at once")
	p.awaitOutcomes(map[string]int{"completed": streams})
	assert.Len(t, p.Spans(otlpsink.Kind("Server")), streams)
}

// What is not finished within the limit is cut, so that the client sees it, and
// counted.
func TestSIGTERM_HasALimit(t *testing.T) {
	t.Parallel()
	script := scriptedserver.Chat("chatcmpl-1", 20, scriptedserver.Every(0, 3, 10*time.Millisecond)...)
	script.Events, script.End = script.Events[:3], scriptedserver.Never
	server := scriptedserver.Start(t, scriptedserver.Always(script))
	p := start(t, server.URL, settings{receiver: []string{"drain_timeout: 1s"}})
	conn := dial(t, p.address)
	io.WriteString(conn, chat)
	in := bufio.NewReader(conn)
	m, err := readHead(in)
	require.NoError(t, err)
	for came := 0; came < 3; {
		chunk, err := m.nextChunk(in)
		require.NoError(t, err)
		came += strings.Count(string(chunk), `" word"`)
	}
	began := time.Now()
	p.Terminate()
	took := time.Since(began)
	assert.Greater(t, took, 900*time.Millisecond)
	assert.Less(t, took, 10*time.Second)
	require.Error(t, m.readBody(in, false), "an answer that is cut has no end")
	p.awaitOutcomes(map[string]int{"failed": 1})
	assert.Len(t, p.Spans(otlpsink.Kind("Server")), 1)
}

// No word of a prompt or an answer, no key and no query is in what the collector
// exports or logs, whatever goes wrong.
func TestText_IsNotPassedOn(t *testing.T) {
	t.Parallel()
	const canary = "zyxwvutsrq"
	answer := func(text string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Secret: %s\r\nContent-Length: %d\r\n\r\n%s", canary, len(text), text)
	}
	chunk := fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"%[1]s\"},\"finish_reason\":null,\"index\":0}],\"model\":\"tiny\"}\n\n", canary)
	streamed := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	answers := map[string]string{
		"whole":     answer(`{"choices":[{"message":{"content":"` + canary + `","reasoning_content":"` + canary + `"},"finish_reason":"stop","index":0}],"model":"tiny","usage":{"prompt_tokens":5,"completion_tokens":3}}`),
		"malformed": answer(`{"choices":[{"message":{"content":"` + canary),
		"text":      answer(canary),
		"error":     strings.Replace(answer(`{"error":{"code":400,"message":"cannot read `+canary+`","type":"`+canary+`"}}`), "200 OK", "400 "+canary, 1),
		"failure":   strings.Replace(answer(canary), "200 OK", "500 "+canary, 1),
		"stream":    streamed + fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk) + "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
		"in stream": streamed + fmt.Sprintf("%x\r\n%s\r\n", len("error: ")+len(canary)+2, "error: "+canary+"\n\n") + "0\r\n\r\n",
		"cut":       streamed + fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk),
		"nonsense":  canary + "\r\n\r\n",
		"odd":       "HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n",
		"none":      "",
	}
	u := listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		p.say("%s", answers[q.values("X-Answer")[0]])
		return false
	})
	p := start(t, u.URL(), settings{
		level:    "debug",
		receiver: []string{"clients:", "  names: {alice: " + canary + "-key}", "  hash_secret: " + canary + "-secret"},
	})
	prompts := []string{
		`{"model":"tiny","messages":[{"role":"user","content":"` + canary + `"}],"stream":true}`,
		`{"model":"tiny","prompt":"` + canary + `","input":"` + canary + `","stop":["` + canary + `"]}`,
		`{"messages":[{"role":"` + canary,
		canary,
	}
	n := 0
	for name := range answers {
		for _, path := range []string{chatPath, "/v1/completions", "/completion", "/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize", "/files/" + canary} {
			for _, body := range prompts {
				conn := dial(t, p.address)
				fmt.Fprintf(conn, "POST %s?q=%s HTTP/1.1\r\nHost: a\r\nX-Answer: %s\r\nAuthorization: Bearer %s-key\r\nCookie: a=%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
					path, canary, name, canary, canary, len(body), body)
				readAnswer(bufio.NewReader(conn), "POST")
				conn.Close()
				n++
			}
		}
	}
	// Clients that send nonsense, or leave.
	for _, request := range []string{canary + "\r\n\r\n", "GET /" + canary + "\r\n\r\n", "GET / HTTP/1.1\r\nHost: " + canary + " x\r\n\r\n", "POST /" + canary + " HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n" + canary[:5]} {
		conn := dial(t, p.address)
		io.WriteString(conn, request)
		time.Sleep(20 * time.Millisecond)
		conn.Close()
	}
	u.cut()
	p.eventually(func() bool { return p.total("http.server.request.duration") >= float64(n) }, "all requests are counted")
	p.Terminate()
	require.NotEmpty(t, p.Spans())
	require.True(t, p.Holds("alice"), "whose requests they are is told")
	assert.False(t, p.Holds(canary), "telemetry")
	for line := range strings.Lines(p.Log()) {
		assert.NotContains(t, line, canary, "log")
	}
	p.Start() // so that it ends well with the test
}
