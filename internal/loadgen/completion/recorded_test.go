// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// replay answers one request with what llama-server b11669 answered.
func replay(t *testing.T, name string) string {
	t.Helper()
	answer, err := os.ReadFile(filepath.Join("testdata", name+".http"))
	require.NoError(t, err)
	head, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	if bytes.Contains(head, []byte("chunked")) && !strings.Contains(name, "raw") { // its chunks were joined
		answer = fmt.Appendf(nil, "%s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(body), body)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		q, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		_, err = conn.Write(answer)
		assert.NoError(t, err)
	}()
	return "http://" + ln.Addr().String()
}

func TestClient_RecordedAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint              completion.Endpoint
		chunks                int
		input, cached, output int
		finish                string
		timings               bool
	}{
		"chat":                       {completion.Chat, 0, 24, 0, 8, "length", true},
		"chat_stream":                {completion.Chat, 4, 25, 24, 4, "length", true},
		"chat_plain_stream":          {completion.Chat, 6, 29, 11, 6, "length", true},
		"chat_progress_stream":       {completion.Chat, 6, 71, 0, 6, "length", true},
		"chat_raw_stream":            {completion.Chat, 3, 20, 5, 3, "length", true},
		"completions":                {completion.Completions, 0, 5, 4, 8, "length", true},
		"completions_stream":         {completion.Completions, 4, 6, 5, 4, "length", true},
		"responses":                  {completion.Responses, 0, 25, 24, 4, "completed", false},
		"responses_stream":           {completion.Responses, 4, 25, 24, 4, "completed", true},
		"messages":                   {completion.Messages, 0, 25, 24, 4, "max_tokens", false},
		"messages_stream":            {completion.Messages, 4, 25, 24, 4, "max_tokens", false},
		"completion":                 {completion.Native, 0, 5, 1, 8, "limit", true},
		"completion_stream":          {completion.Native, 2, 3, 2, 2, "limit", true},
		"completion_progress_stream": {completion.Native, 6, 5, 4, 6, "limit", true},
		"embeddings":                 {completion.Embeddings, 0, 6, -1, -1, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			stream := strings.HasSuffix(name, "_stream")
			r := newClient(t, replay(t, name), completion.Options{}).Do(t.Context(), &completion.Request{Endpoint: c.endpoint, Stream: stream}, time.Now())
			require.NoError(t, r.Err)
			assert.Equal(t, completion.OK, r.Outcome)
			assert.Equal(t, []int{c.input, c.cached, c.output}, []int{r.InputTokens, r.CachedTokens, r.OutputTokens})
			assert.Equal(t, c.chunks, r.Chunks)
			assert.Equal(t, c.finish, r.FinishReason)
			assert.Equal(t, c.timings, r.Timings != nil)
			if c.timings {
				assert.Equal(t, []int{c.input, c.output}, []int{r.Timings.PromptTokens + r.Timings.CachedTokens, r.Timings.PredictedTokens})
			}
			assert.Equal(t, stream, !r.FirstToken.IsZero())
			assert.Equal(t, stream, !r.FirstChunk.IsZero())
			if c.endpoint != completion.Embeddings && c.endpoint != completion.Native {
				assert.NotEmpty(t, r.ID)
			}
		})
	}
}

func TestClient_KeepsTheTextOfAnAnswerOnlyIfAsked(t *testing.T) {
	for e, name := range map[completion.Endpoint]string{
		completion.Chat: "chat", completion.Completions: "completions", completion.Responses: "responses", completion.Messages: "messages", completion.Native: "completion",
	} {
		for _, suffix := range []string{"", "_stream"} {
			q := &completion.Request{Endpoint: e, Stream: suffix != ""}
			r := newClient(t, replay(t, name+suffix), completion.Options{}).Do(t.Context(), q, time.Now())
			assert.Empty(t, r.Text, name)
			q.KeepText = true
			r = newClient(t, replay(t, name+suffix), completion.Options{}).Do(t.Context(), q, time.Now())
			assert.Len(t, strings.Fields(r.Text), r.OutputTokens, "%s%s: a word is a token to this model: %q", name, suffix, r.Text)
		}
	}
}

func TestClient_RecordedRefusals(t *testing.T) {
	for name, want := range map[string]string{
		"400_context":    "400: exceed_context_size_error: request (5019 tokens) exceeds the available context size (2048 tokens)",
		"400_bad_json":   "400: invalid_request_error: ",
		"401_key":        "401: authentication_error: Invalid API Key: set the API key to one that the server knows",
		"501_embeddings": "501: not_supported_error: This server does not support embeddings. Start it with `--embeddings`",
		"503_loading":    "503: unavailable_error: Loading model",
	} {
		r := newClient(t, replay(t, name), completion.Options{}).Do(t.Context(), chat, time.Now())
		assert.Equal(t, completion.Failed, r.Outcome)
		assert.Equal(t, name[:3], r.ErrorType)
		assert.ErrorContains(t, r.Err, want)
		var e *completion.ServerError
		require.ErrorAs(t, r.Err, &e)
		assert.Equal(t, r.Status, e.Status)
		assert.NotEmpty(t, e.Type)
	}
}
