// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// arrival is when the nth byte of an answer arrives.
func arrival(n int) time.Time { return time.Unix(1000, 0).Add(time.Duration(n) * time.Millisecond) }

// watch passes an answer by a Watcher in pieces of a size.
func watch(e completion.Endpoint, status int, h http.Header, body []byte, size, limit int, end error) completion.Result {
	w := completion.NewWatcher(e, limit)
	w.Head(status, h, arrival(0))
	n := 0
	for piece := range slices.Chunk(body, size) {
		n += len(piece)
		passing := slices.Clone(piece)
		w.Add(passing, arrival(n))
		clear(passing) // they are the proxy's, and are overwritten
	}
	return w.End(end, arrival(n))
}

func TestWatcher_ReadsWhatTheClientReads(t *testing.T) {
	for name, e := range map[string]completion.Endpoint{
		"chat": completion.Chat, "chat_stream": completion.Chat, "chat_plain_stream": completion.Chat, "chat_progress_stream": completion.Chat,
		"completions": completion.Completions, "completions_stream": completion.Completions,
		"responses": completion.Responses, "responses_stream": completion.Responses,
		"messages": completion.Messages, "messages_stream": completion.Messages,
		"completion": completion.Native, "completion_stream": completion.Native, "completion_progress_stream": completion.Native,
		"embeddings": completion.Embeddings, "400_context": completion.Chat, "503_loading": completion.Chat,
	} {
		want := newClient(t, replay(t, name), completion.Options{}).Do(t.Context(), &completion.Request{Endpoint: e, Stream: strings.HasSuffix(name, "_stream")}, time.Now())
		file, err := os.ReadFile(filepath.Join("testdata", name+".http"))
		require.NoError(t, err)
		head, body, _ := bytes.Cut(file, []byte("\r\n\r\n"))
		answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(slices.Clone(head), "\r\n\r\n"...))), nil)
		require.NoError(t, err)
		_ = answer.Body.Close() // which is not there
		for _, size := range []int{1, 7, len(body) + 1} {
			got := watch(e, answer.StatusCode, answer.Header, body, size, 1<<20, io.EOF)
			assert.Equal(t, []any{want.Outcome, want.ErrorType, want.Status, want.Chunks}, []any{got.Outcome, got.ErrorType, got.Status, got.Chunks}, name)
			assert.Equal(t, []int{want.InputTokens, want.CachedTokens, want.OutputTokens, want.ReasoningTokens},
				[]int{got.InputTokens, got.CachedTokens, got.OutputTokens, got.ReasoningTokens}, name)
			assert.Equal(t, []any{want.Timings, want.ID, want.Model, want.FinishReason}, []any{got.Timings, got.ID, got.Model, got.FinishReason}, name)
			assert.Equal(t, want.FirstToken.IsZero(), got.FirstToken.IsZero(), name)
			assert.Equal(t, want.FirstAnswer.IsZero(), got.FirstAnswer.IsZero(), name)
			assert.Empty(t, got.Text)
		}
	}
}

func TestWatcher_TakesTheTimesOfThePiecesThatEndEvents(t *testing.T) {
	w := completion.NewWatcher(completion.Chat, 1<<20)
	w.Head(200, http.Header{"Content-Type": {"text/event-stream"}}, arrival(1))
	assert.True(t, w.Streamed())
	for _, p := range []struct {
		at   int
		text string
	}{
		{2, `data: {"choices":[{"delta":{"role":"assistant"}}]}` + "\n\n"},
		{10, `data: {"choices":[{"delta":{"reasoning_content":"h`},
		{20, `m"}}]}` + "\n\n"},
		{30, `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n"},
		{75, `data: {"choices":[{"delta":{"content":"b"}}]}` + "\n\n" + `data: {"choices":[{"delta":{"content":"c"}}]}` + "\n\n"},
		{80, `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"},
	} {
		w.Add([]byte(p.text), arrival(p.at))
	}
	r := w.End(nil, arrival(90))
	require.NoError(t, r.Err)
	assert.Equal(t, []time.Time{arrival(1), arrival(2), arrival(20), arrival(30), arrival(75), arrival(90)},
		[]time.Time{r.Headers, r.FirstChunk, r.FirstToken, r.FirstAnswer, r.LastToken, r.End})
	assert.Equal(t, 45*time.Millisecond, w.LongestGap())
}

func TestWatcher_Flaws(t *testing.T) {
	events := func(all ...string) []byte { return []byte("data: " + strings.Join(all, "\n\ndata: ") + "\n\n") }
	token := `{"choices":[{"delta":{"content":"a"}}]}`
	stream, whole := http.Header{"Content-Type": {"text/event-stream"}}, http.Header{"Content-Type": {"application/json"}}
	gzip := http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}
	reset := errors.New("connection reset")
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		body   []byte
		end    error
		want   string
	}{
		{"no end", 200, stream, events(token), nil, completion.StreamCut},
		{"cut", 200, stream, events(token), reset, completion.StreamCut},
		{"cut after the end", 200, stream, events(token, "[DONE]"), reset, ""},
		{"end without an empty line", 200, stream, []byte("data: " + token + "\n\ndata: [DONE]"), nil, ""},
		{"error event", 200, stream, events(token, `{"error":{"message":"x"}}`), nil, completion.ErrorEvent},
		{"no JSON", 200, stream, events("hello"), nil, completion.Malformed},
		{"a page", 200, whole, []byte("<html>"), nil, completion.Malformed},
		{"whole, cut", 200, whole, []byte(`{"choices":`), reset, completion.StreamCut},
		{"too large an event", 200, stream, events(`{"x":"` + strings.Repeat("a", 9000) + `"}`), nil, completion.TooLarge},
		{"too large a body", 200, whole, bytes.Repeat([]byte("a"), 9000), nil, completion.TooLarge},
		{"compressed", 200, gzip, []byte{1, 2, 3}, nil, completion.Encoded},
		{"refused", 429, whole, []byte("{}"), nil, "429"},
	} {
		for _, size := range []int{1, 1000, 10_000} {
			r := watch(completion.Chat, c.status, c.header, c.body, size, 8000, c.end)
			assert.Equal(t, c.want, r.ErrorType, "%s in pieces of %d", c.name, size)
			assert.Equal(t, c.want == "", r.Outcome == completion.OK, c.name)
		}
	}
}

// However the bytes of an answer are cut into pieces, they mean the same.
func FuzzWatcher(f *testing.F) {
	for _, name := range []string{"chat_stream", "responses_stream", "messages_stream", "completion_stream", "chat"} {
		file, err := os.ReadFile(filepath.Join("testdata", name+".http"))
		require.NoError(f, err)
		_, body, _ := bytes.Cut(file, []byte("\r\n\r\n"))
		f.Add(body, uint8(0), uint16(5))
	}
	f.Add([]byte("data: {}\r\n\r\n: ping\n\nevent: error\ndata: 1\ndata: 2\n\ndata: [DONE]"), uint8(4), uint16(1))
	f.Fuzz(func(t *testing.T, body []byte, endpoint uint8, size uint16) {
		e := completion.Endpoint(endpoint % (uint8(completion.Embeddings) + 1))
		for _, kind := range []string{"text/event-stream", "application/json"} {
			h := http.Header{"Content-Type": {kind}}
			one := watch(e, 200, h, body, len(body)+1, 1<<20, nil)
			pieces := watch(e, 200, h, body, int(size)+1, 1<<20, nil)
			assert.Equal(t, []any{one.Outcome, one.ErrorType, one.Chunks, one.InputTokens, one.OutputTokens, one.Timings, one.Model},
				[]any{pieces.Outcome, pieces.ErrorType, pieces.Chunks, pieces.InputTokens, pieces.OutputTokens, pieces.Timings, pieces.Model})
		}
	})
}
