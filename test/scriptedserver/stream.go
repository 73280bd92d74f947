// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package scriptedserver

import (
	"fmt"
	"time"
)

// Chat returns a stream of chat completions as llama-server sends it: the role with
// the first token, one token per event, the finish reason, usage and timings, and
// [DONE]. The id identifies the answer. Each token is sent its gap after the one
// before; the first gap counts from the header of the answer.
func Chat(id string, promptTokens int, gaps ...time.Duration) Script {
	var events []Event
	for i, gap := range gaps {
		data := Chunk(id, `{"content":" word"}`, "null")
		if i == 0 {
			data = Chunk(id, `{"role":"assistant","content":null}`, "null") + data
		}
		events = append(events, Event{After: gap, Bytes: data})
	}
	events = append(events, Event{Bytes: Chunk(id, `{}`, `"length"`) + Usage(id, promptTokens, 0, len(gaps)) + Done})
	return Script{Events: events}
}

// Done is the last event of OpenAI's streams.
const Done = "data: [DONE]\n\n"

// Chunk returns an event of chat completions.
func Chunk(id, delta, reason string) string {
	return fmt.Sprintf(`data: {"choices":[{"finish_reason":%s,"index":0,"delta":%s}],"created":1795433559,"id":%q,`+
		`"model":"tiny","system_fingerprint":"b11669-Debian","object":"chat.completion.chunk"}`+"\n\n", reason, delta, id)
}

// Usage returns the event of chat completions with the numbers of tokens that the
// server counted.
func Usage(id string, prompt, cached, output int) string {
	return fmt.Sprintf(`data: {"choices":[],"created":1795433559,"id":%q,"model":"tiny","system_fingerprint":"b11669-Debian",`+
		`"object":"chat.completion.chunk","usage":{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":%d}},"timings":{"cache_n":%d,"prompt_n":%d,"prompt_ms":3.378,"prompt_per_token_ms":0.14,`+
		`"prompt_per_second":7104.7,"predicted_n":%d,"predicted_ms":0.767,"predicted_per_token_ms":0.109,"predicted_per_second":9126.4}}`+"\n\n",
		id, output, prompt, prompt+output, cached, cached, prompt-cached, output)
}

// Every returns n gaps, of which the first is the time to the first token.
func Every(first time.Duration, n int, gap time.Duration) []time.Duration {
	gaps := make([]time.Duration, n)
	for i := range gaps {
		gaps[i] = gap
	}
	gaps[0] = first
	return gaps
}

// JSON returns an answer that is not a stream.
func JSON(status int, body string) Script {
	return Script{Status: status, Header: map[string][]string{"Content-Type": {"application/json"}}, Events: []Event{{Bytes: body}}}
}
