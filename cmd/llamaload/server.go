// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// serverState is what is known of a server that was started.
type serverState struct {
	// Load is the time in seconds from its start until it was healthy.
	Load float64 `json:"load_seconds"`
	// PeakMemory is the most resident memory of the process so far, in bytes, with
	// the pages of the model's file that it mapped. Memory of GPUs is not in it. 0
	// where it is unknown.
	PeakMemory int64  `json:"peak_memory_bytes,omitempty"`
	Build      string `json:"build,omitempty"`
	Model      string `json:"model,omitempty"`
	ModelType  string `json:"model_type,omitempty"`
	Slots      int    `json:"slots,omitempty"`
	Context    int    `json:"context_per_slot,omitempty"`
}

// startedServer is a llama-server that llamaload started.
type startedServer struct {
	process   *child.Process
	output    child.Tail
	url       string
	transport *http.Transport
	state     serverState
}

const (
	stopTimeout = 10 * time.Second
	healthEvery = 20 * time.Millisecond
)

// startServer starts a llama-server on a free port and waits until it is healthy.
func startServer(ctx context.Context, command []string, o *options, limit time.Duration) (*startedServer, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s := &startedServer{url: "http://127.0.0.1:" + port}
	if s.transport, err = o.transport(); err != nil {
		return nil, usageError{err}
	}
	args := slices.Concat(command[1:], []string{"--host", "127.0.0.1", "--port", port})
	began := time.Now()
	// Not bound to ctx, which would kill it: stop ends it in order.
	if s.process, err = child.Start(exec.Command(command[0], args...), &s.output); err != nil { //nolint:gosec,noctx // The user names the server.
		return nil, err
	}
	if err := s.await(ctx, o.apiKey, limit); err != nil {
		s.stop()
		return nil, err
	}
	s.state.Load = time.Since(began).Seconds()
	s.readProps(ctx, o.apiKey)
	return s, nil
}

// freePort returns a port that nobody listens on. Another program may take it before
// the server does, which then says so and ends.
func freePort(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("free port: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// await waits until the server is healthy.
func (s *startedServer) await(ctx context.Context, key string, limit time.Duration) error {
	client, err := s.client(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		fmt.Errorf("the server is not healthy after %s: --start-timeout gives it more time", limit))
	defer cancel()
	for {
		if client.Health(ctx) == nil {
			return nil
		}
		select {
		case <-s.process.Exited():
			return s.orEnd(nil)
		case <-ctx.Done():
			return s.withOutput(context.Cause(ctx))
		case <-time.After(healthEvery):
		}
	}
}

func (s *startedServer) client(key string) (*llamaserver.Client, error) {
	const maxAnswer = 4 << 20
	return llamaserver.New(s.url, &http.Client{Transport: s.transport}, key, maxAnswer)
}

// orEnd returns the error, or that the server has ended.
func (s *startedServer) orEnd(err error) error {
	select {
	case <-s.process.Exited():
		return s.withOutput(fmt.Errorf("the server ended by itself: %s", s.process.State()))
	default:
		return err
	}
}

func (s *startedServer) withOutput(err error) error { return &serverError{err, s.output.String()} }

// serverError is what went wrong with a server that was started.
type serverError struct {
	error
	log string // its last lines
}

func (e *serverError) Unwrap() error { return e.error }

// readProps asks the server for its settings. One that does not tell is measured all
// the same.
func (s *startedServer) readProps(ctx context.Context, key string) {
	client, err := s.client(key)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countersTimeout)
	defer cancel()
	p, err := client.Props(ctx, "")
	if err != nil {
		return
	}
	s.state.Build, s.state.Model, s.state.ModelType = p.Build, p.ModelName, p.ModelType
	s.state.Slots, s.state.Context = max(p.Slots, 0), max(p.Context, 0)
}

// readMemory reads the peak of the process's memory, where the system has it.
func (s *startedServer) readMemory() {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.PID()))
	if err != nil {
		return
	}
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), "VmHWM:"); ok {
			if kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
				s.state.PeakMemory = kB << 10
			}
		}
	}
}

// stop ends the server. How it ended, its output says.
func (s *startedServer) stop() {
	s.transport.CloseIdleConnections()
	_ = s.process.Terminate(stopTimeout)
}
