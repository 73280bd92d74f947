// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// load is a few clients that chat with the server.
type load struct {
	client      *http.Client
	url, key    string
	concurrency int

	mu  sync.Mutex
	err error
}

// run sends requests until ctx ends.
func (l *load) run(ctx context.Context) {
	model, err := l.model(ctx)
	if err != nil {
		l.note(err)
		return
	}
	var clients sync.WaitGroup
	for i := range l.concurrency {
		clients.Go(func() {
			random := newRandom(i)
			for ctx.Err() == nil {
				pause := time.Duration(random.IntN(1500)) * time.Millisecond
				if err := l.chat(ctx, model, random); err != nil && ctx.Err() == nil {
					l.note(err)
					pause += 2 * time.Second
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	clients.Wait()
}

// newRandom is seeded by the client, so that every demo is alike.
func newRandom(i int) *rand.Rand {
	return rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // Sizes of requests are no secret.
}

// model is the name of a model that is loaded. A router would load any that is
// asked for, and evict another for it.
func (l *load) model(ctx context.Context) (string, error) {
	server, err := llamaserver.New(l.url, l.client, l.key, maxAnswer)
	if err != nil {
		return "", err
	}
	models, err := server.Models(ctx)
	if llamaserver.ReasonOf(err) == llamaserver.Unauthorized {
		err = fmt.Errorf("%w; for the demo, set LLAMACPP_API_KEY", err)
	}
	if err != nil {
		return "", err
	}
	for _, m := range models {
		if m.State == "" || m.State == llamaserver.ModelLoaded {
			return m.ID, nil
		}
	}
	return "", errors.New("no model is loaded: load one on the router, or only watch with -no-load")
}

// question is what every prompt begins with, so that the server finds it in its cache.
const question = "You are shown at work. Go on with this text, word for word, as long as you may: "

// chat sends one streaming request and reads its answer to the end.
func (l *load) chat(ctx context.Context, model string, random *rand.Rand) error {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	body, err := json.Marshal(map[string]any{
		"model":      model,
		"stream":     true,
		"max_tokens": 20 + random.IntN(180),
		"messages":   []message{{"user", question + strings.Repeat("time and water ", 5+random.IntN(120))}},
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if l.key != "" {
		request.Header.Set("Authorization", "Bearer "+l.key)
	}
	// llama-server closes the connection after a stream, although it announces to keep it.
	request.Close = true
	response, err := l.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return fmt.Errorf("POST %s: %s: %s", request.URL, response.Status, bytes.TrimSpace(answer))
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *load) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
