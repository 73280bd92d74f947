// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import "encoding/json"

// Request is a request as it is sent. It is not changed by being sent and can
// be sent any number of times, also at once.
type Request struct {
	Endpoint Endpoint
	// Model is the model to ask for; "" leaves it to the server.
	Model string
	// Messages is the conversation, a JSON array of messages as the endpoint
	// wants them. Tool calls, images and whatever else they hold go along as
	// they are.
	Messages json.RawMessage
	// Prompt is a text instead of Messages: the prompt itself, the input of
	// Responses and Embeddings, the user's only message of Chat and Messages.
	Prompt string
	// PromptTokens is a prompt of token numbers instead of a text, for
	// Completions, Native and Embeddings.
	PromptTokens []int
	// MaxTokens is the most tokens to generate; 0 leaves it to the server.
	MaxTokens int
	// Temperature and Seed of the sampling; nil leaves them to the server.
	Temperature *float64
	Seed        *int64
	// Stream asks for the tokens one by one, as server-sent events.
	Stream bool
	// IgnoreEOS asks for MaxTokens tokens, even if the model wants to stop
	// earlier. Known to llama.cpp and vLLM.
	IgnoreEOS bool
	// CachePrompt tells llama.cpp whether to reuse what its cache has of the
	// prompt; nil leaves it to the server, which does.
	CachePrompt *bool
	// CancelAfter leaves the stream when so many chunks with text have come;
	// 0 is never.
	CancelAfter int
	// Extra are further members of the body, such as tools or
	// chat_template_kwargs. They come last and win over those above.
	Extra map[string]json.RawMessage
}
