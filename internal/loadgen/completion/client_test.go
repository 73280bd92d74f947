// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// newClient returns a client with its own connections.
func newClient(tb testing.TB, url string, o completion.Options) *completion.Client {
	tb.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 1000
	c, err := completion.New(url, &http.Client{Transport: transport}, o)
	require.NoError(tb, err)
	tb.Cleanup(transport.CloseIdleConnections)
	return c
}

// send sends a streaming chat request to a server that answers with the script.
func send(t *testing.T, script scriptedserver.Script, o completion.Options) completion.Result {
	t.Helper()
	s := scriptedserver.Start(t, scriptedserver.Always(script))
	return newClient(t, s.URL, o).Do(t.Context(), chat, time.Now())
}

var (
	chat  = &completion.Request{Prompt: "hello", Stream: true, MaxTokens: 8}
	plain = &completion.Request{Prompt: "hello", MaxTokens: 8}
)

const ms = time.Millisecond

func TestClient_MeasuresWhatTheServerDid(t *testing.T) {
	s := scriptedserver.Start(t, func(n int, _ *http.Request, _ []byte) scriptedserver.Script {
		script := scriptedserver.Chat(fmt.Sprint("answer-", n), 5, 60*ms, 20*ms, 0, 50*ms)
		script.Delay = 30 * ms
		return script
	})
	c := newClient(t, s.URL, completion.Options{})
	due := time.Now().Add(-10 * ms)
	r := c.Do(t.Context(), chat, due)
	require.NoError(t, r.Err)
	assert.Equal(t, completion.OK, r.Outcome)
	assert.Equal(t, "answer-0", r.ID)
	assert.Equal(t, "tiny", r.Model)
	assert.Equal(t, "length", r.FinishReason)
	assert.Equal(t, 200, r.Status)
	assert.Equal(t, []int{5, 0, 4, -1}, []int{r.InputTokens, r.CachedTokens, r.OutputTokens, r.ReasoningTokens})
	assert.Equal(t, &completion.Timings{PromptTokens: 5, Prompt: 3378 * time.Microsecond, PredictedTokens: 4, Predicted: 767 * time.Microsecond}, r.Timings)
	assert.Equal(t, 4, r.Chunks)

	x := s.Exchanges()[0]
	const late = 20 * ms // a busy machine
	assert.Equal(t, due, r.Due)
	for name, c := range map[string]struct{ measured, true time.Time }{
		"first chunk": {r.FirstChunk, x.Sent[0]}, "first token": {r.FirstToken, x.Sent[0]}, "first answer": {r.FirstAnswer, x.Sent[0]},
		"last token": {r.LastToken, x.Sent[3]}, "end": {r.End, x.Sent[4]}, "headers": {r.Headers, x.Arrived.Add(30 * ms)},
	} {
		assert.WithinRange(t, c.measured, c.true, c.true.Add(late), name)
	}
	assert.WithinRange(t, x.Arrived, r.GotConn, r.GotConn.Add(late), "the request leaves when there is a connection")
	assert.False(t, r.GotConn.Before(r.Sent))
	require.Len(t, r.Gaps, 3)
	sum := time.Duration(0)
	for i, gap := range r.Gaps {
		assert.InDelta(t, x.Sent[i+1].Sub(x.Sent[i]), gap, float64(late), "gap %d", i)
		sum += gap
	}
	assert.Equal(t, r.LastToken.Sub(r.FirstToken), sum)

	ttft, ok := r.TTFT(due)
	assert.True(t, ok)
	assert.Equal(t, r.FirstToken.Sub(due), ttft)
	tpot, ok := r.TPOT()
	assert.True(t, ok)
	assert.Equal(t, sum/3, tpot)
	perChunk, ok := r.TokensPerChunk()
	assert.True(t, ok)
	assert.InDelta(t, 1, perChunk, 0)
}

func TestClient_ReasoningIsAFirstTokenButNoAnswer(t *testing.T) {
	const apart = 200 * ms // enough that even a busy machine reads one before the next is sent
	for field, reasons := range map[string]bool{"reasoning_content": true, "reasoning": true, "content": false, "refusal": false} {
		events := []scriptedserver.Event{
			{Bytes: scriptedserver.Chunk("1", `{"role":"assistant","content":null}`, "null")},
			{After: apart, Bytes: scriptedserver.Chunk("1", `{"content":"","reasoning_content":null,"tool_calls":[]}`, "null")},
			{After: apart, Bytes: scriptedserver.Chunk("1", `{"`+field+`":"hm"}`, "null")},
			{After: apart, Bytes: scriptedserver.Chunk("1", `{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}`, "null")},
			{Bytes: scriptedserver.Chunk("1", `{}`, `"tool_calls"`) + scriptedserver.Done},
		}
		s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Script{Events: events}))
		r := newClient(t, s.URL, completion.Options{}).Do(t.Context(), chat, time.Now())
		require.NoError(t, r.Err)
		sent := s.Exchanges()[0].Sent
		assert.Less(t, r.FirstChunk, sent[1], "the role is a chunk")
		assert.WithinRange(t, r.FirstToken, sent[2], sent[3], field)
		if reasons {
			assert.WithinRange(t, r.FirstAnswer, sent[3], r.End, "a tool call is an answer")
		} else {
			assert.Equal(t, r.FirstToken, r.FirstAnswer, field)
		}
		assert.Equal(t, 2, r.Chunks, "with text")
		assert.Equal(t, "tool_calls", r.FinishReason)
	}
}

func TestClient_TokensThatComeTogetherHaveNoGap(t *testing.T) {
	word := scriptedserver.Chunk("1", `{"content":" word"}`, "null")
	r := send(t, scriptedserver.Script{Events: []scriptedserver.Event{
		{Bytes: word + word + word}, {After: 20 * ms, Bytes: word + scriptedserver.Chunk("1", `{}`, `"stop"`) + scriptedserver.Usage("1", 3, 0, 8) + scriptedserver.Done},
	}}, completion.Options{})
	require.NoError(t, r.Err)
	require.Len(t, r.Gaps, 3)
	assert.Equal(t, []time.Duration{0, 0}, r.Gaps[:2])
	assert.Greater(t, r.Gaps[2], 10*ms)
	perChunk, _ := r.TokensPerChunk()
	assert.InDelta(t, 2, perChunk, 0, "a chunk is not a token")
}

func TestClient_HowAStreamEnds(t *testing.T) {
	word := scriptedserver.Chunk("1", `{"content":" word"}`, "null")
	finish := scriptedserver.Chunk("1", `{}`, `"stop"`)
	for name, c := range map[string]struct {
		bytes   string
		end     scriptedserver.End
		class   string
		message string
	}{
		"[DONE]":                                {bytes: word + finish + scriptedserver.Done},
		"[DONE] without an empty line":          {bytes: word + finish + "data: [DONE]"},
		"[DONE], then cut":                      {bytes: word + finish + scriptedserver.Done, end: scriptedserver.Cut},
		"[DONE], then nothing":                  {bytes: word + finish + scriptedserver.Done, end: scriptedserver.Never},
		"reason to finish, without [DONE]":      {bytes: word + finish},
		"no text at all":                        {bytes: finish + scriptedserver.Done},
		"closed in order without a reason":      {bytes: word, class: completion.StreamCut},
		"cut":                                   {bytes: word, end: scriptedserver.Cut, class: completion.StreamCut},
		"cut after the reason to finish":        {bytes: word + finish, end: scriptedserver.Cut, class: completion.StreamCut},
		"reset":                                 {bytes: word, end: scriptedserver.Reset, class: completion.StreamCut},
		"cut within an event":                   {bytes: word + `data: {"choices":[{"finish_`, class: completion.StreamCut},
		"SIGTERM: a ping, then cut":             {bytes: word + ":\n\n", end: scriptedserver.Cut, class: completion.StreamCut},
		"nothing":                               {bytes: "", end: scriptedserver.Cut, class: completion.StreamCut},
		"[DONE] alone":                          {bytes: scriptedserver.Done, class: completion.Malformed},
		"not JSON":                              {bytes: word + "data: nonsense\n\n" + finish + scriptedserver.Done, class: completion.Malformed},
		"broken JSON":                           {bytes: word + "data: {\"choices\":[{]}\n\n" + finish + scriptedserver.Done, class: completion.Malformed},
		"error event":                           {bytes: word + `data: {"error":{"code":500,"message":"out of memory","type":"server_error"}}` + "\n\n", class: completion.ErrorEvent, message: "server_error: out of memory"},
		"error event of an older llama-server":  {bytes: word + `error: {"code":500,"message":"out of memory","type":"server_error"}` + "\n\n", class: completion.ErrorEvent, message: "server_error: out of memory"},
		"error event of few words":              {bytes: word + `data: {"error":"out of memory"}` + "\n\n" + finish + scriptedserver.Done, class: completion.ErrorEvent, message: "200: out of memory"},
		"error: null is none":                   {bytes: word + strings.Replace(finish, `"created"`, `"error":null,"created"`, 1) + scriptedserver.Done},
		"an event of more bytes than are taken": {bytes: "data: " + strings.Repeat("x", 20_000) + "\n\n", class: completion.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := []scriptedserver.Event{{Bytes: c.bytes}}
			r := send(t, scriptedserver.Script{Events: events, End: c.end}, completion.Options{MaxEvent: 10_000})
			assert.Equal(t, c.class, r.ErrorType, "%v", r.Err)
			if c.class == "" {
				assert.Equal(t, completion.OK, r.Outcome)
				assert.NoError(t, r.Err)
			} else {
				assert.Equal(t, completion.Failed, r.Outcome)
				assert.ErrorContains(t, r.Err, c.message)
				assert.ErrorContains(t, r.Err, "/v1/chat/completions: ")
			}
			assert.False(t, r.End.IsZero())
		})
	}
}

func TestClient_EventOfMegabytes(t *testing.T) {
	word := scriptedserver.Chunk("1", `{"content":"`+strings.Repeat("word ", 1<<20)+`"}`, "null")
	r := send(t, scriptedserver.Script{Events: []scriptedserver.Event{{Bytes: word + word + scriptedserver.Chunk("1", `{}`, `"stop"`) + scriptedserver.Done}}}, completion.Options{})
	require.NoError(t, r.Err)
	assert.Equal(t, 2, r.Chunks)
}

func TestClient_Refusals(t *testing.T) {
	for name, c := range map[string]struct {
		script  scriptedserver.Script
		class   string
		message string
		after   time.Duration
	}{
		"too many requests": {scriptedserver.Script{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, "429", "429: ", 7 * time.Second},
		"out of service until a date": {
			scriptedserver.Script{Status: 503, Header: http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}},
			"503", "503: ", time.Hour,
		},
		"redirect": {scriptedserver.Script{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, "307", `redirects to "http://127.0.0.1:1/": use the address`, 0},
		"HTML": {
			scriptedserver.Script{Header: http.Header{"Content-Type": {"text/html"}}, Events: []scriptedserver.Event{{Bytes: "<html>"}}},
			completion.Malformed, "is this the address of an inference server?", 0,
		},
		"a page of errors":              {scriptedserver.JSON(502, strings.Repeat("<p>bad gateway</p>", 1000)), "502", "502: <p>bad gateway</p>", 0},
		"cut within a character":        {scriptedserver.JSON(400, `{"error":{"message":"a`+strings.Repeat("é", 1000)+`"}}`), "400", "400: aé", 0},
		"JSON of something else":        {scriptedserver.JSON(200, `{"hello":"world"}`), completion.Malformed, "not an answer of the endpoint chat", 0},
		"JSON that is cut":              {scriptedserver.JSON(200, `{"choices":[{"message"`), completion.Malformed, "not an answer", 0},
		"error with status 200":         {scriptedserver.JSON(200, `{"error":{"message":"no"}}`), completion.ErrorEvent, "no", 0},
		"closed without an answer":      {scriptedserver.Script{End: scriptedserver.Cut}, netfailure.ConnectionClosed, "EOF", 0},
		"a body that does not end well": {scriptedserver.Script{Header: http.Header{"Content-Type": {"application/json"}}, Events: []scriptedserver.Event{{Bytes: `{"choices":[`}}, End: scriptedserver.Cut}, completion.StreamCut, "cut", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := send(t, c.script, completion.Options{})
			assert.Equal(t, completion.Failed, r.Outcome)
			assert.Equal(t, c.class, r.ErrorType)
			assert.ErrorContains(t, r.Err, c.message)
			assert.Less(t, len(r.Err.Error()), 500)
			assert.True(t, utf8.ValidString(r.Err.Error()))
			assert.InDelta(t, c.after, r.RetryAfter, float64(2*time.Second))
			assert.True(t, r.FirstToken.IsZero())
			assert.Equal(t, -1, r.OutputTokens)
		})
	}
}

func TestClient_NobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := "http://" + ln.Addr().String()
	require.NoError(t, ln.Close())
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs the clients' handshake errors
	tlsServer.StartTLS()
	defer tlsServer.Close()
	plainServer := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Script{}))
	for url, want := range map[string]struct{ class, cure string }{
		gone:                          {netfailure.ConnectionRefused, "is the server running there?"},
		"http://no-such-host.invalid": {netfailure.NoSuchHost, "?"},
		tlsServer.URL:                 {netfailure.TLS, "set tls::ca_file"},
		strings.Replace(plainServer.URL, "http", "https", 1): {netfailure.TLS, "it speaks no TLS: set endpoint to " + plainServer.URL},
	} {
		r := newClient(t, url, completion.Options{}).Do(t.Context(), chat, time.Now())
		assert.Equal(t, completion.Failed, r.Outcome)
		assert.Equal(t, want.class, r.ErrorType, "%v", r.Err)
		assert.ErrorContains(t, r.Err, want.cure)
		assert.Zero(t, r.Status)
		assert.True(t, r.Headers.IsZero())
	}
}

// Go's server answers 400 to a request without TLS.
func TestClient_PlainRequestToAPortWithTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	r := newClient(t, strings.Replace(s.URL, "https", "http", 1), completion.Options{}).Do(t.Context(), chat, time.Now())
	assert.Equal(t, "400", r.ErrorType)
	assert.ErrorContains(t, r.Err, "it speaks TLS: set endpoint to "+s.URL)
}

func TestClient_TrustsWhatTheTransportTrusts(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}`)
	}))
	defer s.Close()
	c, err := completion.New(s.URL, s.Client(), completion.Options{})
	require.NoError(t, err)
	r := c.Do(t.Context(), plain, time.Now())
	assert.NoError(t, r.Err)
}

func TestClient_Timeouts(t *testing.T) {
	never := scriptedserver.Script{Delay: time.Hour}
	silent := scriptedserver.Script{Events: []scriptedserver.Event{{Bytes: ":\n\n"}}, End: scriptedserver.Never}
	endless := scriptedserver.Chat("1", 3, 0, 0)
	endless.Events, endless.End = endless.Events[:2], scriptedserver.Never
	body := scriptedserver.JSON(200, `{"choices":[`)
	body.End = scriptedserver.Never
	for name, c := range map[string]struct {
		script  scriptedserver.Script
		request *completion.Request
		o       completion.Options
		class   string
	}{
		"no header":                      {never, chat, completion.Options{FirstTokenTimeout: 50 * ms, Timeout: time.Hour}, completion.FirstTokenTimeout},
		"pings but no token":             {silent, chat, completion.Options{FirstTokenTimeout: 50 * ms}, completion.FirstTokenTimeout},
		"no end":                         {endless, chat, completion.Options{FirstTokenTimeout: 50 * ms, Timeout: 200 * ms}, netfailure.Timeout},
		"no header of a plain answer":    {never, plain, completion.Options{FirstTokenTimeout: 50 * ms, Timeout: 200 * ms}, netfailure.Timeout},
		"a plain answer that never ends": {body, plain, completion.Options{Timeout: 200 * ms}, netfailure.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scriptedserver.Start(t, scriptedserver.Always(c.script))
			began := time.Now()
			r := newClient(t, s.URL, c.o).Do(t.Context(), c.request, began)
			assert.Equal(t, completion.Failed, r.Outcome)
			assert.Equal(t, c.class, r.ErrorType, "%v", r.Err)
			assert.ErrorContains(t, r.Err, "in time")
			assert.WithinRange(t, r.End, began.Add(40*ms), began.Add(5*time.Second))
			assert.Less(t, time.Since(began), 5*time.Second)
		})
	}
}

func TestClient_ConnectTimeout(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	hang := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		<-over
		return nil, errors.New("over")
	}}
	c, err := completion.New("http://127.0.0.1:1", &http.Client{Transport: hang}, completion.Options{ConnectTimeout: 30 * ms, Timeout: time.Hour})
	require.NoError(t, err)
	r := c.Do(t.Context(), chat, time.Now())
	assert.Equal(t, netfailure.ConnectTimeout, r.ErrorType, "%v", r.Err)
	assert.True(t, r.GotConn.IsZero())
}

func TestClient_TimeoutsThatAreNotReachedDoNothing(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("1", 3, 10*ms, 150*ms)))
	c := newClient(t, s.URL, completion.Options{ConnectTimeout: 100 * ms, FirstTokenTimeout: 100 * ms, Timeout: time.Minute})
	for range 2 {
		r := c.Do(t.Context(), chat, time.Now())
		assert.NoError(t, r.Err)
		assert.Equal(t, 2, r.OutputTokens)
	}
}

func TestClient_LeavesAfterSoManyChunks(t *testing.T) {
	left := make(chan struct{})
	gaps := scriptedserver.Every(0, 100, 5*ms)
	s := scriptedserver.Start(t, func(_ int, q *http.Request, _ []byte) scriptedserver.Script {
		context.AfterFunc(q.Context(), func() { close(left) })
		return scriptedserver.Chat("1", 3, gaps...)
	})
	q := *chat
	q.CancelAfter = 3
	r := newClient(t, s.URL, completion.Options{}).Do(t.Context(), &q, time.Now())
	assert.Equal(t, completion.Cancelled, r.Outcome)
	assert.NoError(t, r.Err)
	assert.Empty(t, r.ErrorType)
	assert.Equal(t, 3, r.Chunks)
	assert.Equal(t, -1, r.OutputTokens, "the server did not come to say")
	<-left
	assert.Less(t, len(s.Exchanges()[0].Sent), 50)
}

func TestClient_LeavesWhenTheContextEnds(t *testing.T) {
	stopped := errors.New("the run was stopped")
	endless := scriptedserver.Chat("1", 3, 0)
	endless.Events, endless.End = endless.Events[:1], scriptedserver.Never
	for name, script := range map[string]scriptedserver.Script{"before the answer": {Delay: time.Hour}, "within the answer": endless} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*ms, func() { cancel(stopped) })
			s := scriptedserver.Start(t, scriptedserver.Always(script))
			r := newClient(t, s.URL, completion.Options{Timeout: time.Hour}).Do(ctx, chat, time.Now())
			assert.Equal(t, completion.Cancelled, r.Outcome)
			assert.Empty(t, r.ErrorType)
			assert.ErrorIs(t, r.Err, stopped)
		})
	}
}

// A server may close a kept connection just when a request is sent on it. The client
// sends the request again, which is not an error of the server.
func TestClient_SendsAgainWhereAKeptConnectionWasClosed(t *testing.T) {
	answer := scriptedserver.Chat("1", 3, 0, 0)
	s := scriptedserver.Start(t, func(n int, _ *http.Request, _ []byte) scriptedserver.Script {
		if n == 2 {
			return scriptedserver.Script{End: scriptedserver.Cut, Delay: 30 * ms}
		}
		return answer
	})
	c := newClient(t, s.URL, completion.Options{})
	for range 2 { // from the first, the client learns that the server keeps connections
		r := c.Do(t.Context(), chat, time.Now())
		require.NoError(t, r.Err)
		assert.False(t, r.Reused)
	}

	r := c.Do(t.Context(), chat, time.Now())
	require.NoError(t, r.Err)
	assert.Equal(t, 1, r.Resent)
	assert.False(t, r.Reused, "the second time it has a connection of its own")
	assert.Len(t, s.Exchanges(), 4)
	ttft, _ := r.TTFT(r.Sent)
	assert.Greater(t, ttft, 30*ms, "the time counts")

	r = c.Do(t.Context(), chat, time.Now())
	require.NoError(t, r.Err)
	assert.True(t, r.Reused)
	assert.Zero(t, r.Resent)
}

func TestClient_DoesNotSendAgainOnANewConnection(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Script{End: scriptedserver.Cut}))
	r := newClient(t, s.URL, completion.Options{}).Do(t.Context(), chat, time.Now())
	assert.Equal(t, netfailure.ConnectionClosed, r.ErrorType)
	assert.Zero(t, r.Resent)
	assert.Len(t, s.Exchanges(), 1)
}

// llama-server closes the connection of a stream although it announces to keep it.
func TestClient_DoesNotKeepTheConnectionOfALlamaServersStream(t *testing.T) {
	script := scriptedserver.Chat("1", 3, 0, 0)
	script.Header = http.Header{"Server": {"llama.cpp"}}
	s := scriptedserver.Start(t, scriptedserver.Always(script))
	c := newClient(t, s.URL, completion.Options{})
	for range 5 {
		r := c.Do(t.Context(), chat, time.Now())
		assert.NoError(t, r.Err)
		assert.False(t, r.Reused)
		assert.Zero(t, r.Resent)
	}
}

func TestClient_WhatIsSent(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.JSON(200, `{"choices":[{}],"output":[],"content":[],"stop":true}`)))
	type key struct{}
	c := newClient(t, s.URL+"/prefix/", completion.Options{
		APIKey: "secret", Header: http.Header{"x-tenant": {"a"}},
		Prepare: func(ctx context.Context, h http.Header) { h.Set("Traceparent", ctx.Value(key{}).(string)) },
	})
	temperature, seed, no := 0.25, int64(7), false
	q := completion.Request{
		Model: "m", Prompt: "say \"hi\"\n", MaxTokens: 5, Temperature: &temperature, Seed: &seed, Stream: true, IgnoreEOS: true, CachePrompt: &no,
		Extra: map[string]json.RawMessage{"top_k": json.RawMessage("3"), "temperature": json.RawMessage("0")},
	}
	common := `"temperature":0,"seed":7,"ignore_eos":true,"cache_prompt":false,"stream":true,"top_k":3`
	for e, want := range map[completion.Endpoint]string{
		completion.Chat:        `{"model":"m","messages":[{"role":"user","content":"say \"hi\"\n"}],"max_tokens":5,"stream_options":{"include_usage":true},` + common + `}`,
		completion.Completions: `{"model":"m","prompt":"say \"hi\"\n","max_tokens":5,"stream_options":{"include_usage":true},` + common + `}`,
		completion.Responses:   `{"model":"m","input":"say \"hi\"\n","max_output_tokens":5,` + common + `}`,
		completion.Messages:    `{"model":"m","messages":[{"role":"user","content":"say \"hi\"\n"}],"max_tokens":5,` + common + `}`,
		completion.Native:      `{"model":"m","prompt":"say \"hi\"\n","n_predict":5,` + common + `}`,
		completion.Embeddings:  `{"model":"m","input":"say \"hi\"\n","temperature":0,"top_k":3}`,
	} {
		q.Endpoint = e
		n := len(s.Exchanges())
		c.Do(context.WithValue(t.Context(), key{}, "00-trace"), &q, time.Now())
		x := s.Exchanges()[n]
		assert.JSONEq(t, want, string(x.Body), e.String())
		assert.Equal(t, "application/json", x.Header.Get("Content-Type"))
		assert.Equal(t, "Bearer secret", x.Header.Get("Authorization"))
		assert.Equal(t, "a", x.Header.Get("X-Tenant"))
		assert.Equal(t, "00-trace", x.Header.Get("Traceparent"))
		assert.NotContains(t, x.Header, "Idempotency-Key")
		assert.Equal(t, e == completion.Messages, x.Header.Get("X-Api-Key") == "secret")
	}
}

func TestRequest_Body(t *testing.T) {
	messages := json.RawMessage(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]`)
	for name, c := range map[string]struct {
		request completion.Request
		want    string
	}{
		"messages":         {completion.Request{Messages: messages}, `{"messages":` + string(messages) + `}`},
		"responses":        {completion.Request{Endpoint: completion.Responses, Messages: messages}, `{"input":` + string(messages) + `}`},
		"tokens":           {completion.Request{Endpoint: completion.Native, PromptTokens: []int{1, 20}}, `{"prompt":[1,20]}`},
		"tokens to embed":  {completion.Request{Endpoint: completion.Embeddings, PromptTokens: []int{1}}, `{"input":[1]}`},
		"prompt as extra":  {completion.Request{Extra: map[string]json.RawMessage{"messages": messages}}, `{"messages":` + string(messages) + `}`},
		"nothing but this": {completion.Request{Endpoint: completion.Native}, `{"prompt":""}`},
	} {
		got, err := c.request.Body()
		assert.NoError(t, err, name)
		assert.Equal(t, c.want, string(got), name)
	}
	for _, q := range []completion.Request{
		{Endpoint: completion.Native, Messages: messages}, {Endpoint: completion.Embeddings, Messages: messages}, {Endpoint: completion.Chat, PromptTokens: []int{1}},
	} {
		_, err := q.Body()
		assert.ErrorContains(t, err, "endpoint "+q.Endpoint.String()+" takes")
	}
	r := newClient(t, "http://127.0.0.1:1", completion.Options{}).Do(t.Context(), &completion.Request{PromptTokens: []int{1}}, time.Now())
	assert.Equal(t, completion.InvalidRequest, r.ErrorType)
}

func TestNew_RefusesWhatIsNoURL(t *testing.T) {
	_, err := completion.New("localhost:8080", http.DefaultClient, completion.Options{})
	assert.ErrorContains(t, err, "want http://host:port")
}

func TestParseEndpoint(t *testing.T) {
	for _, e := range []completion.Endpoint{completion.Chat, completion.Completions, completion.Responses, completion.Messages, completion.Native, completion.Embeddings} {
		got, err := completion.ParseEndpoint(e.String())
		assert.NoError(t, err)
		assert.Equal(t, e, got)
	}
	_, err := completion.ParseEndpoint("chats")
	assert.ErrorContains(t, err, "want one of chat, completions, responses, messages, completion, embeddings")
}

// Exchanges are reused, but no data of one may appear in another.
func TestClient_ManyAtOnceDoNotMix(t *testing.T) {
	s := scriptedserver.Start(t, func(_ int, _ *http.Request, body []byte) scriptedserver.Script {
		var q struct{ Messages []struct{ Content string } }
		assert.NoError(t, json.Unmarshal(body, &q))
		id := q.Messages[0].Content
		i, err := strconv.Atoi(id)
		assert.NoError(t, err)
		script := scriptedserver.Chat(id, i, scriptedserver.Every(0, 1+i%7, time.Duration(i%3)*ms)...)
		if i%5 == 0 {
			script.Events, script.End = script.Events[:len(script.Events)-1], scriptedserver.Cut
		}
		return script
	})
	c := newClient(t, s.URL, completion.Options{Timeout: time.Minute})
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for i := worker; i < 800; i += 16 {
				r := c.Do(t.Context(), &completion.Request{Prompt: fmt.Sprint(i), Stream: true}, time.Now())
				assert.Equal(t, fmt.Sprint(i), r.ID)
				assert.Equal(t, 1+i%7, r.Chunks)
				if i%5 == 0 {
					assert.Equal(t, completion.StreamCut, r.ErrorType, "%v", r.Err)
					assert.Equal(t, -1, r.InputTokens)
				} else {
					assert.NoError(t, r.Err)
					assert.Equal(t, i, r.InputTokens)
				}
			}
		})
	}
	all.Wait()
}
