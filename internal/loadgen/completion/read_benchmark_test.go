// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Events as llama-server b11669 sends them.
const (
	chatEvent = `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" could"}}],"created":1795433559,` +
		`"id":"chatcmpl-UNQ65NJZ6S2A1ItypYLg8NSJpHHG8qdh","model":"/models/tiny.gguf","system_fingerprint":"b11669-Debian","object":"chat.completion.chunk"`
	timingsMember = `,"timings":{"cache_n":0,"prompt_n":71,"prompt_ms":0.994,"prompt_per_token_ms":0.014,"prompt_per_second":71428.57142857142,` +
		`"predicted_n":2,"predicted_ms":0.21,"predicted_per_token_ms":0.21,"predicted_per_second":4761.904761904762}`
	responsesEvent = "event: response.output_text.delta\n" +
		`data: {"type":"response.output_text.delta","item_id":"msg_sdUAxCPb3Uce20QE2mdJ1SZ5FgVkXKjX","delta":" name"`
	messagesEvent = "event: content_block_delta\n" +
		`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" learn"}`
	nativeEvent = `data: {"index":0,"content":" two","tokens":[499],"stop":false,"id_slot":-1,"tokens_predicted":1,"tokens_evaluated":3`
)

// again reads the same bytes n times, a segment of the network at a time.
type again struct {
	text string
	n    int
	at   int
}

func (r *again) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1448)], r.text[r.at:])
	if r.at += n; r.at == len(r.text) {
		r.at = 0
		r.n--
	}
	return n, nil
}

// The cost of an event from reading to measuring it, without the network.
func BenchmarkReadEvent(b *testing.B) {
	for _, c := range []struct {
		name     string
		endpoint Endpoint
		event    string
	}{
		{"chat", Chat, chatEvent + "}\n\n"},
		{"chat with timings", Chat, chatEvent + timingsMember + "}\n\n"},
		{"completion", Native, nativeEvent + "}\n\n"},
		{"responses", Responses, responsesEvent + "}\n\n"},
		{"messages", Messages, messagesEvent + "}\n\n"},
	} {
		b.Run(c.name, func(b *testing.B) {
			const batch = 100
			x := newExchange(&Client{}, &Request{Endpoint: c.endpoint, MaxTokens: 1 << 10}, time.Now())
			x.events.in, x.events.now, x.events.limit = &again{text: strings.Repeat(c.event, batch), n: (b.N + batch - 1) / batch}, time.Now, 1<<20
			b.SetBytes(int64(len(c.event)))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				e, err := x.events.next()
				if err != nil {
					b.Fatal(err)
				}
				last := x.result.LastToken
				if s, err := x.take(e); err != nil || s&saidText == 0 {
					b.Fatalf("%s: no text: %v", e.data, err)
				}
				x.text(e.arrived, last)
				if len(x.result.Gaps) == cap(x.result.Gaps) {
					x.result.Gaps = x.result.Gaps[:0]
				}
			}
		})
	}
}

// The cost of an event that passes by, in a segment of its own.
func BenchmarkWatcher(b *testing.B) {
	for _, c := range []struct {
		name     string
		endpoint Endpoint
		event    string
	}{
		{"chat", Chat, chatEvent + "}\n\n"},
		{"chat with timings", Chat, chatEvent + timingsMember + "}\n\n"},
		{"completion", Native, nativeEvent + "}\n\n"},
		{"responses", Responses, responsesEvent + "}\n\n"},
		{"messages", Messages, messagesEvent + "}\n\n"},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := NewWatcher(c.endpoint, 1<<20)
			w.Head(http.StatusOK, http.Header{"Content-Type": {"text/event-stream"}}, time.Now())
			text := []byte(c.event)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				w.Add(text, time.Now())
				n++
			}
			if w.result.Chunks != n {
				b.Fatalf("%d of %d events were read", w.result.Chunks, n)
			}
		})
	}
}

func BenchmarkRequestBody(b *testing.B) {
	for _, c := range []struct {
		name string
		r    Request
	}{
		{"100 words", Request{Prompt: strings.Repeat("word ", 100), MaxTokens: 100, Stream: true}},
		{"4000 words", Request{Prompt: strings.Repeat("word ", 4000), MaxTokens: 100, Stream: true}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.r.Body(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
