// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamatest

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Client sends completion requests to a llama-server, real or simulated, with
// the load generator's client.
type Client struct {
	BaseURL string
	APIKey  string
	// Model is needed in router mode.
	Model string
	// HTTP is the client to use. The default one makes a connection for each
	// request, so that none is left when a test ends.
	HTTP *http.Client
}

var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Request is a completion request in the terms of a test.
type Request struct {
	// Prompt is the prompt; where it is empty, PromptWords random words with
	// Seed are.
	Prompt      string
	PromptWords int
	Seed        uint64
	// MaxTokens is n_predict. llama-server makes one token even for 0; -1
	// fills the context.
	MaxTokens int
	Stream    bool
	// CancelAfterTokens is the number of tokens after which the client leaves the
	// stream; 0 reads it to its end.
	CancelAfterTokens int
}

// Complete sends a request to /completion and returns what was measured. A
// request that was left after CancelAfterTokens is no error.
func (c *Client) Complete(ctx context.Context, q Request) (completion.Result, error) {
	h := c.HTTP
	if h == nil {
		h = oneShot
	}
	client, err := completion.New(c.BaseURL, h, completion.Options{APIKey: c.APIKey})
	if err != nil {
		return completion.Result{}, err
	}
	if q.Prompt == "" {
		q.Prompt = Words(max(1, q.PromptWords), q.Seed)
	}
	r := client.Do(ctx, &completion.Request{
		Endpoint: completion.Native, Model: c.Model, Prompt: q.Prompt, Stream: q.Stream, CancelAfter: q.CancelAfterTokens,
		// Its MaxTokens has no 0 and no -1.
		Extra: map[string]json.RawMessage{"n_predict": []byte(strconv.Itoa(q.MaxTokens))},
	}, time.Now())
	return r, r.Err
}
