// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamatest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Client sends completion requests to a llama-server, real or simulated.
type Client struct {
	BaseURL string
	APIKey  string
	// Model is needed in router mode.
	Model string
	// HTTP is the client to use. The default one makes a connection for each
	// request: llama-server closes the connection of a stream although it
	// announces the contrary, and the next request on it fails.
	HTTP *http.Client
}

var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Request is a completion request.
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
	IgnoreEOS         bool
}

// Result is how a request went.
type Result struct {
	// PromptTokens were evaluated, CachedTokens taken from the cache and
	// PredictedTokens generated, says the server. After a cancelled stream
	// they are unknown: 0.
	PromptTokens, CachedTokens, PredictedTokens int
	// Received is the number of tokens that came in a stream.
	Received int
	// TTFT is the time to the first token, or to the whole answer where it
	// was not streamed.
	TTFT, Duration time.Duration
	// Ended is when the answer had come to its end.
	Ended     time.Time
	Cancelled bool
	// Timings are what the server says that it measured; zero where it did not
	// say so, as after a cancelled stream.
	Timings Timings
}

// Timings are the server's own measurements of a request: prompt tokens from
// the cache and computed, tokens generated, and the milliseconds that the
// latter two took.
type Timings struct {
	CacheN      int     `json:"cache_n"`
	PromptN     int     `json:"prompt_n"`
	PromptMS    float64 `json:"prompt_ms"`
	PredictedN  int     `json:"predicted_n"`
	PredictedMS float64 `json:"predicted_ms"`
}

// StatusError is an answer that is not 200.
type StatusError struct {
	Code int
	Body string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Code, e.Body) }

type event struct {
	Stop            bool
	TokensPredicted int `json:"tokens_predicted"`
	Timings         Timings
}

// Complete sends a request to /completion and reads its answer. A stream that
// the server cut short gives io.ErrUnexpectedEOF.
func (c *Client) Complete(ctx context.Context, q Request) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := c.complete(ctx, cancel, q)
	if err != nil {
		return res, fmt.Errorf("POST %s/completion: %w", c.BaseURL, err)
	}
	return res, nil
}

func (c *Client) complete(ctx context.Context, cancel func(), q Request) (res Result, err error) {
	if q.Prompt == "" {
		q.Prompt = Words(max(1, q.PromptWords), q.Seed)
	}
	body := map[string]any{"prompt": q.Prompt, "n_predict": q.MaxTokens, "stream": q.Stream, "cache_prompt": true}
	if q.IgnoreEOS {
		body["ignore_eos"] = true
	}
	if c.Model != "" {
		body["model"] = c.Model
	}
	b, err := json.Marshal(body)
	if err != nil {
		return res, err
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, c.BaseURL+"/completion", bytes.NewReader(b))
	if err != nil {
		return res, err
	}
	hr.Header.Set("Content-Type", "application/json")
	if c.APIKey != "" {
		hr.Header.Set("Authorization", "Bearer "+c.APIKey)
	}
	client := c.HTTP
	if client == nil {
		client = oneShot
	}
	began := time.Now()
	defer func() {
		res.Ended = time.Now()
		res.Duration = res.Ended.Sub(began)
	}()
	r, err := client.Do(hr)
	if err != nil {
		return res, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(r.Body, 4096))
		return res, errors.Join(&StatusError{r.StatusCode, string(b)}, err)
	}
	var e event
	if !q.Stream {
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			return res, err
		}
		res.finish(e)
		res.TTFT = time.Since(began)
		return res, nil
	}
	in := bufio.NewReader(r.Body)
	for {
		line, err := in.ReadString('\n')
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			e = event{}
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return res, err
			}
			if e.Stop {
				res.finish(e)
				return res, nil
			}
			if res.Received++; res.Received == 1 {
				res.TTFT = time.Since(began)
			}
			if res.Received == q.CancelAfterTokens {
				cancel()
				res.Cancelled = true
				return res, nil
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return res, err
		}
	}
}

func (r *Result) finish(e event) {
	r.Timings = e.Timings
	r.PromptTokens, r.CachedTokens, r.PredictedTokens = e.Timings.PromptN, e.Timings.CacheN, e.TokensPredicted
}
