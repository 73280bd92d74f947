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

var endpoints = [...]struct{ name, path string }{
	Chat:        {"chat", "/v1/chat/completions"},
	Completions: {"completions", "/v1/completions"},
	Responses:   {"responses", "/v1/responses"},
	Messages:    {"messages", "/v1/messages"},
	Native:      {"completion", "/completion"},
	Embeddings:  {"embeddings", "/v1/embeddings"},
}

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

// String is the endpoint's name: chat, completions, responses, messages,
// completion or embeddings.
func (e Endpoint) String() string { return endpoints[e].name }

// Path is what follows the server's base URL.
func (e Endpoint) Path() string { return endpoints[e].path }
