// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"
)

// Request is a request to send. Sending does not change it, so it can be sent any
// number of times, even concurrently.
type Request struct {
	Endpoint Endpoint
	// Model is the model to request; "" leaves it to the server.
	Model string
	// Messages is the conversation, a JSON array of messages in the endpoint's format.
	// It is sent unchanged, including tool calls, images and so on.
	Messages json.RawMessage
	// Prompt is a text instead of Messages: the prompt itself, the input of
	// Responses and Embeddings, the user's only message of Chat and Messages.
	Prompt string
	// PromptTokens is a prompt of token numbers instead of a text, for
	// Completions, Native and Embeddings.
	PromptTokens []int
	// MaxTokens is the maximum number of tokens to generate; 0 leaves it to the server.
	MaxTokens int
	// Temperature and Seed control the sampling; nil leaves them to the server.
	Temperature *float64
	Seed        *int64
	// Stream asks for the tokens one by one, as server-sent events.
	Stream bool
	// IgnoreEOS asks for MaxTokens tokens, even if the model would stop earlier.
	// llama.cpp and vLLM support it.
	IgnoreEOS bool
	// CachePrompt tells llama.cpp whether to reuse the part of the prompt that is in
	// its cache; nil leaves it to the server, which reuses it.
	CachePrompt *bool
	// CancelAfter cancels the request after this number of chunks with text; 0 is
	// never.
	CancelAfter int
	// KeepText keeps the text of the answer in Result.Text, for the next turn of a
	// conversation.
	KeepText bool
	// Extra are further members of the body, such as tools or
	// chat_template_kwargs. They replace those of the same name.
	Extra map[string]json.RawMessage
}

// Body returns the body to send, which is the same for equal requests. It returns an
// error if the endpoint does not support such a request.
func (r *Request) Body() ([]byte, error) {
	size := 512 + len(r.Messages) + len(r.Prompt) + len(r.Prompt)/8 + 7*len(r.PromptTokens)
	b := body{text: append(make([]byte, 0, size), '{'), extra: r.Extra}
	if r.Model != "" {
		b.string("model", r.Model)
	}
	if err := r.prompt(&b); err != nil {
		return nil, err
	}
	if r.Endpoint != Embeddings {
		r.sampling(&b)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Extra)) {
		b.name(name)
		b.text = append(b.text, r.Extra[name]...)
	}
	return append(b.text, '}'), nil
}

func (r *Request) prompt(b *body) error {
	name, conversation := endpoints[r.Endpoint].prompt, r.Endpoint.Conversation()
	switch {
	case b.extra[name] != nil:
	case r.Messages != nil && !conversation:
		return fmt.Errorf("endpoint %s takes a prompt, not messages: use chat, or a prompt", r.Endpoint)
	case r.PromptTokens != nil && conversation:
		return fmt.Errorf("endpoint %s takes messages, not token numbers: use completions or completion, or a text", r.Endpoint)
	case r.Messages != nil:
		b.raw(name, r.Messages)
	case r.PromptTokens != nil:
		b.name(name)
		b.text = append(b.text, '[')
		for i, t := range r.PromptTokens {
			if i > 0 {
				b.text = append(b.text, ',')
			}
			b.text = strconv.AppendInt(b.text, int64(t), 10)
		}
		b.text = append(b.text, ']')
	case name == "messages":
		b.name(name)
		b.text = append(b.text, `[{"role":"user","content":`...)
		b.text = append(gjson.AppendJSONString(b.text, r.Prompt), `}]`...)
	default:
		b.string(name, r.Prompt)
	}
	return nil
}

func (r *Request) sampling(b *body) {
	if r.MaxTokens > 0 {
		b.raw(endpoints[r.Endpoint].maxTokens, strconv.AppendInt(nil, int64(r.MaxTokens), 10))
	}
	if r.Temperature != nil {
		b.raw("temperature", strconv.AppendFloat(nil, *r.Temperature, 'g', -1, 64))
	}
	if r.Seed != nil {
		b.raw("seed", strconv.AppendInt(nil, *r.Seed, 10))
	}
	if r.IgnoreEOS {
		b.raw("ignore_eos", []byte("true"))
	}
	if r.CachePrompt != nil {
		b.raw("cache_prompt", strconv.AppendBool(nil, *r.CachePrompt))
	}
	if r.Stream {
		b.raw("stream", []byte("true"))
		if r.Endpoint == Chat || r.Endpoint == Completions {
			b.raw("stream_options", []byte(`{"include_usage":true}`))
		}
	}
}

// body builds a JSON object.
type body struct {
	text  []byte
	extra map[string]json.RawMessage
}

func (b *body) name(name string) {
	if len(b.text) > 1 {
		b.text = append(b.text, ',')
	}
	b.text = append(gjson.AppendJSONString(b.text, name), ':')
}

// raw adds a member, unless Extra has one of the same name.
func (b *body) raw(name string, value []byte) {
	if _, replaced := b.extra[name]; replaced {
		return
	}
	b.name(name)
	b.text = append(b.text, value...)
}

func (b *body) string(name, value string) {
	if _, replaced := b.extra[name]; replaced {
		return
	}
	b.name(name)
	b.text = gjson.AppendJSONString(b.text, value)
}
