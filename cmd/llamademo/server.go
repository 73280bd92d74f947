// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

const (
	usualEndpoint = "http://localhost:8080"
	// maxAnswer is the most that is read of an answer, in bytes.
	maxAnswer = 1 << 22
)

// server is the llama-server of this demo.
type server struct {
	url    string
	what   string
	exited <-chan struct{} // nil, which never ends, where it is not ours
	output *child.Tail
	log    string // the file with its log, "" where it is not ours
	stop   func()
}

// chooser finds the server. Its fields stand for the world outside.
type chooser struct {
	client *http.Client
	getenv func(string) string
	out    io.Writer
	usual  string // where a server is looked for that nobody named
	quiet  bool   // the simulator gets no requests
}

func (c chooser) choose(ctx context.Context, simulator bool) (*server, error) {
	if simulator {
		return c.startSimulator()
	}
	running, err := c.running(ctx)
	if running != nil || err != nil {
		return running, err
	}
	model := c.getenv("MODEL")
	program, lookErr := exec.LookPath("llama-server")
	switch {
	case model != "" && lookErr != nil:
		return nil, fmt.Errorf("MODEL=%s is set, but there is no llama-server on PATH: install llama.cpp, or unset MODEL to use the simulator", model)
	case model != "":
		return c.startLlamaServer(ctx, program, model)
	case lookErr == nil:
		fmt.Fprintf(c.out, "There is %s: MODEL=file.gguf would use it.\n", program)
	}
	return c.startSimulator()
}

// running returns the server that the user runs already, or nil.
func (c chooser) running(ctx context.Context) (*server, error) {
	endpoint := c.getenv("LLAMACPP_ENDPOINT")
	named := endpoint != ""
	if !named {
		endpoint = c.usual
	}
	endpoint = strings.TrimSuffix(endpoint, "/")
	err := c.checkHealth(ctx, endpoint)
	switch {
	case err == nil:
		return &server{url: endpoint, what: "a llama-server that was running", output: &child.Tail{}, stop: func() {}}, nil
	case named:
		// Falling back would show numbers of another server than the one that was asked for.
		return nil, fmt.Errorf("LLAMACPP_ENDPOINT=%s: %w: start llama-server there, or unset the variable to use the simulator", endpoint, err)
	}
	return nil, nil
}

// checkHealth returns nil where a llama-server answers, if only that it is
// loading its model.
func (c chooser) checkHealth(ctx context.Context, endpoint string) error {
	server, err := llamaserver.New(endpoint, c.client, "", maxAnswer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := server.Health(ctx); llamaserver.ReasonOf(err) != llamaserver.Loading {
		return err
	}
	return nil
}

func (c chooser) startLlamaServer(ctx context.Context, program, model string) (*server, error) {
	if _, err := os.Stat(model); err != nil {
		return nil, fmt.Errorf("MODEL: %w: give the path of a .gguf file", err)
	}
	port, err := freeport.Find(0)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c.out, "starting %s with %s\n", program, model)
	args := []string{"-m", model, "--metrics", "--host", "127.0.0.1", "--port", strconv.Itoa(port)}
	key := c.getenv("LLAMACPP_API_KEY")
	if key != "" {
		args = append(args, "--api-key", key)
	}
	log, removeLog, err := temporaryLog()
	if err != nil {
		return nil, err
	}
	// Not bound to ctx, which would kill it: stop ends it in order.
	p, err := startProcess(exec.Command(program, args...), log) //nolint:gosec,noctx // The user names the model.
	if err != nil {
		removeLog()
		return nil, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	if err := waitReady(ctx, c.client, p, url+"/health", 5*time.Minute); err != nil {
		p.stop()
		removeLog()
		return nil, fmt.Errorf("llama-server did not get ready: %w; its last words:\n%s", err, p.output)
	}
	return &server{
		url:    url,
		what:   "llama-server from PATH with " + model,
		exited: p.Exited(),
		output: p.output,
		log:    log.Name(),
		stop:   func() { p.stop(); removeLog() },
	}, nil
}

func (c chooser) startSimulator() (*server, error) {
	log, removeLog, err := temporaryLog()
	if err != nil {
		return nil, err
	}
	sim := llamasim.New(llamasim.Options{
		TokensPerSecond:       28, // and as many again that were drafted
		PromptTokensPerSecond: 1500,
		ContextPerSlot:        simulatedContext,
		Draft:                 3,
		APIKey:                c.getenv("LLAMACPP_API_KEY"),
		Log:                   log,
	})
	url, err := sim.Start("127.0.0.1:0")
	if err != nil {
		removeLog()
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	end := make(chan struct{})
	var troubling sync.WaitGroup
	if !c.quiet {
		// A client that never learns: its prompt does not fit, so it is refused.
		sim.AddLoad(llamasim.Load{Concurrency: 1, PromptTokens: simulatedContext, ThinkTime: 20 * time.Second})
		troubling.Go(func() { restartNowAndThen(sim, end) })
	}
	return &server{
		url:    url,
		what:   "the built-in simulator, not a real llama-server",
		output: &child.Tail{},
		log:    log.Name(),
		stop: func() {
			close(end)
			troubling.Wait()
			sim.Close()
			removeLog()
		},
	}, nil
}

// simulatedContext is the context of each slot, in tokens.
const simulatedContext = 2048

// restartNowAndThen has the simulator end in the middle of its work, and start
// again, until end is closed: what a monitor is there to show.
func restartNowAndThen(sim *llamasim.Server, end <-chan struct{}) {
	const every, downtime = 5 * time.Minute, 4 * time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-end:
			return
		case <-ticker.C:
			sim.RestartAfter(downtime)
		}
	}
}

// temporaryLog is a file for a server's log.
func temporaryLog() (log *os.File, remove func(), err error) {
	log, err = os.CreateTemp("", "llama-server-*.log")
	if err != nil {
		return nil, nil, fmt.Errorf("file for the server's log: %w", err)
	}
	// Nothing is to be done where the end of a temporary file fails.
	return log, func() { _, _ = log.Close(), os.Remove(log.Name()) }, nil
}
