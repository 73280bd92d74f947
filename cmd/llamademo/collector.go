// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// gpuConfig shows all of the simulated GPU.
//
//go:embed gpu.yaml
var gpuConfig string

// collector is the collector under way.
type collector struct {
	*process
	pageURL    string // of the live page
	metricsURL string
	healthURL  string
	runsURL    string // of the load generator
	proxyURL   string // in front of the server
	state      string // its folder
}

// stop ends the collector and removes its state.
func (c *collector) stop() {
	c.process.stop()
	_ = os.RemoveAll(c.state) // at worst it stays in the system's temporary folder
}

// startCollector starts the collector on the server, with further variables in
// its environment, and waits until it is ready.
func startCollector(ctx context.Context, client *http.Client, o options, serverURL string, environment []string) (*collector, error) {
	if _, err := os.Stat(o.collector); err != nil {
		return nil, fmt.Errorf("the collector is not there: %w: run make build", err)
	}
	metrics, metricsPort, err := portVariable("PROMETHEUS_PORT", 9464)
	if err != nil {
		return nil, err
	}
	health, healthPort, err := portVariable("HEALTH_CHECK_PORT", 13133)
	if err != nil {
		return nil, err
	}
	telemetry, _, err := portVariable("TELEMETRY_PORT", 8888)
	if err != nil {
		return nil, err
	}
	page, pagePort, err := portVariable("DASHBOARD_PORT", 9465)
	if err != nil {
		return nil, err
	}
	loadgen, loadgenPort, err := portVariable("LOADGEN_PORT", 9466)
	if err != nil {
		return nil, err
	}
	proxy := os.Getenv("LLAMAPROXY_ENDPOINT")
	if proxy == "" {
		port, err := freeport.Find(9467)
		if err != nil {
			return nil, err
		}
		proxy = fmt.Sprintf("localhost:%d", port)
	}
	proxyURL := "http://" + proxy
	// A demo leaves nothing behind, and counts from 0.
	state, err := os.MkdirTemp("", "llamademo-state")
	if err != nil {
		return nil, fmt.Errorf("start the collector: %w", err)
	}
	// Not bound to ctx, which would kill it: stop ends it in order.
	cmd := exec.Command(o.collector, "--config", o.config) //nolint:gosec,noctx // The user names the program.
	if o.gpu {
		cmd.Args = append(cmd.Args, "--config", "yaml:"+gpuConfig)
	}
	if !o.noLoad {
		cmd.Args = append(cmd.Args, "--config", "yaml:"+loadConfig, "--feature-gates", "confmap.enableMergeAppendOption")
	}
	cmd.Env = append(os.Environ(), "LLAMACPP_ENDPOINT="+serverURL, "STATE_DIRECTORY="+state, metrics, health, telemetry,
		page, loadgen, "LLAMAPROXY_ENDPOINT="+proxy, "DEMO_TARGET="+proxyURL, fmt.Sprintf("DEMO_CONCURRENCY=%d", o.concurrency))
	cmd.Env = append(cmd.Env, environment...)
	p, err := startProcess(cmd, nil)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(state))
	}
	c := &collector{
		process:    p,
		state:      state,
		pageURL:    fmt.Sprintf("http://localhost:%d", pagePort),
		metricsURL: fmt.Sprintf("http://localhost:%d/metrics", metricsPort),
		healthURL:  fmt.Sprintf("http://localhost:%d/", healthPort),
		runsURL:    fmt.Sprintf("http://localhost:%d/api/v1/runs", loadgenPort),
		proxyURL:   proxyURL,
	}
	if err := waitReady(ctx, client, p, c.healthURL, 30*time.Second); err != nil {
		c.stop()
		return nil, fmt.Errorf("the collector did not get ready: %w; its last words:\n%s", err, c.output)
	}
	return c, nil
}

// waitReady waits until url answers 200, and no longer than the program lives.
func waitReady(ctx context.Context, client *http.Client, p *process, url string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := fmt.Errorf("no answer from %s in %v", url, limit)
	for {
		status, err := probe(ctx, client, url)
		if err == nil && status == http.StatusOK {
			return nil
		}
		if err == nil {
			last = fmt.Errorf("GET %s: %d %s", url, status, http.StatusText(status))
		}
		select {
		case <-ctx.Done():
			return last
		case <-p.Exited():
			return fmt.Errorf("it ended: %v", p.State())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func probe(ctx context.Context, client *http.Client, url string) (int, error) {
	response, err := get(ctx, client, url)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}
