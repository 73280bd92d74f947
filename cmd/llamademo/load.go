// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// loadConfig adds the load generator to the collector's configuration.
//
//go:embed load.yaml
var loadConfig string

// load starts a run of the collector's load generator.
type load struct {
	client   *http.Client
	url, key string // of the server
	runs     string // the URL of the generator's runs

	mu  sync.Mutex
	err error
}

// run starts the run as soon as the server can take requests. It returns when the
// run has begun or ctx ends.
func (l *load) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.start(ctx)
		l.note(err)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (l *load) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	model, err := l.model(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"profile": "demo", "model": model})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.runs, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := l.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		var problem struct{ Error string }
		_ = json.NewDecoder(response.Body).Decode(&problem) // without it, the status has to do
		return fmt.Errorf("POST %s: %s: %s", l.runs, response.Status, problem.Error)
	}
	return nil
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
