// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"fmt"
	"strings"
)

// Endpoint is the API that a request is sent to.
type Endpoint uint8

const (
	Chat        Endpoint = iota // OpenAI's chat completions, /v1/chat/completions
	Completions                 // OpenAI's completions, /v1/completions
	Responses                   // OpenAI's responses, /v1/responses
	Messages                    // Anthropic's messages, /v1/messages
	Native                      // llama.cpp's own, /completion
	Embeddings                  // OpenAI's embeddings, /v1/embeddings
)

// endpoints has, for each endpoint, its name and path, and the members of a
// request's body that hold the prompt and the maximum number of tokens.
var endpoints = [...]struct{ name, path, prompt, maxTokens string }{
	Chat:        {"chat", "/v1/chat/completions", "messages", "max_tokens"},
	Completions: {"completions", "/v1/completions", "prompt", "max_tokens"},
	Responses:   {"responses", "/v1/responses", "input", "max_output_tokens"},
	Messages:    {"messages", "/v1/messages", "messages", "max_tokens"},
	Native:      {"completion", "/completion", "prompt", "n_predict"},
	Embeddings:  {"embeddings", "/v1/embeddings", "input", ""},
}

// Conversation reports whether the endpoint takes messages.
func (e Endpoint) Conversation() bool { return e == Chat || e == Responses || e == Messages }

// ParseEndpoint is the inverse of String.
func ParseEndpoint(name string) (Endpoint, error) {
	names := make([]string, len(endpoints))
	for i, e := range endpoints {
		if e.name == name {
			return Endpoint(i), nil
		}
		names[i] = e.name
	}
	return 0, fmt.Errorf("endpoint %q: want one of %s", name, strings.Join(names, ", "))
}

// String returns the endpoint's name: chat, completions, responses, messages,
// completion or embeddings.
func (e Endpoint) String() string { return endpoints[e].name }

// Path returns the path of the endpoint below the server's base URL.
func (e Endpoint) Path() string { return endpoints[e].path }
