// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command llamademo shows the collector at work: it finds or starts a
// llama-server, starts the collector on it, sends some requests and prints live
// what the collector reports.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/interval"
)

const usage = `Usage: llamademo [flags]

Starts the collector on a llama-server, has its load generator send that server
some chat requests through the collector's proxy and prints, once a second, what its
Prometheus endpoint reports.

The server is, in this order:
  1. the one at LLAMACPP_ENDPOINT, or one that answers at http://localhost:8080;
  2. llama-server on PATH, started with the model in MODEL (a .gguf file);
  3. the built-in simulator, which refuses a request now and then and starts again
     every five minutes, so that there is something to see.

LLAMACPP_API_KEY is the server's key, where it wants one. DEMO_GPU=1 shows a
simulated GPU, with made-up numbers.

Flags:
`

type options struct {
	duration    time.Duration
	concurrency int
	noLoad      bool
	simulator   bool
	gpu         bool // simulate one
	collector   string
	config      string
}

func main() {
	var o options
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.DurationVar(&o.duration, "duration", 0, "how long to run; 0 is until Ctrl-C")
	flag.IntVar(&o.concurrency, "concurrency", 6, "clients that send requests at the same time")
	flag.BoolVar(&o.noLoad, "no-load", false, "send no requests, only watch")
	flag.BoolVar(&o.simulator, "simulator", false, "use the simulator, whatever else there is")
	flag.StringVar(&o.collector, "collector", "bin/otelcol-llamacpp", "the collector, as make build leaves it")
	flag.StringVar(&o.config, "config", "collector-config.yaml", "the collector's configuration; its pipeline named metrics is shown")
	flag.Parse()
	if err := o.check(flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "llamademo: %v; see -h\n", err)
		os.Exit(2)
	}

	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "llamademo:", err)
		os.Exit(1)
	}
}

// check returns what is wrong with the command line.
func (o options) check(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only", args[0])
	}
	if o.duration != 0 {
		if err := interval.Check(o.duration); err != nil {
			return fmt.Errorf("-duration: %w", err)
		}
	}
	if o.concurrency < 1 {
		return fmt.Errorf("-concurrency: %d: want 1 or more", o.concurrency)
	}
	return nil
}

// run is the demo from start to end; what it started has stopped when it returns.
func run(ctx context.Context, o options, out io.Writer) error {
	withGPU := os.Getenv("DEMO_GPU")
	if !slices.Contains([]string{"", "0", "1"}, withGPU) {
		return fmt.Errorf("DEMO_GPU=%s: set it to 1 for a simulated GPU, or leave it out", withGPU)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{Proxy: nil}}
	defer client.CloseIdleConnections()

	server, err := chooser{client: client, getenv: os.Getenv, out: out, usual: usualEndpoint, quiet: o.noLoad}.choose(ctx, o.simulator)
	if err != nil {
		return orNil(ctx, err)
	}
	defer server.stop()
	var environment []string
	if o.gpu = withGPU == "1"; o.gpu {
		variable, stop, err := startGPU()
		if err != nil {
			return err
		}
		defer stop()
		environment = append(environment, variable)
	}
	if server.log != "" {
		environment = append(environment, "LLAMACPP_LOG="+server.log)
	}
	collector, err := startCollector(ctx, client, o, server.url, environment)
	if err != nil {
		return orNil(ctx, err)
	}
	defer collector.stop()
	fmt.Fprintf(out, "page       %s  <- open this in a browser\n", collector.pageURL)
	fmt.Fprintf(out, "server     %s, %s\n", server.url, server.what)
	if o.gpu {
		fmt.Fprintln(out, "gpu        simulated, with made-up numbers (DEMO_GPU=1)")
	}
	fmt.Fprintf(out, "proxy      %s, in front of the server, measures what its clients wait\n", collector.proxyURL)
	fmt.Fprintf(out, "metrics    %s\n", collector.metricsURL)
	fmt.Fprintf(out, "health     %s\n", collector.healthURL)

	load := &load{client: client, url: server.url, key: os.Getenv("LLAMACPP_API_KEY"), runs: collector.runsURL}
	var starting sync.WaitGroup
	defer starting.Wait()
	defer cancel() // runs before the wait
	if o.noLoad {
		fmt.Fprintln(out, "requests   none: -no-load")
	} else {
		fmt.Fprintf(out, "requests   from %d clients, through the proxy to this server only (-no-load sends none)\n", o.concurrency)
		fmt.Fprintf(out, "load       %s\n", collector.runsURL)
		starting.Go(func() { load.run(ctx) })
	}
	if o.duration == 0 {
		fmt.Fprintln(out, "stop       Ctrl-C")
	}
	fmt.Fprintln(out)

	return watch(ctx, client, collector, server, o, load, newDisplay(out))
}

// watch prints a summary each second until the duration is over, the context
// ends or something that was started dies.
func watch(ctx context.Context, client *http.Client, collector *collector, server *server, o options, load *load, d *display) error {
	var end <-chan time.Time
	if o.duration > 0 {
		timer := time.NewTimer(o.duration)
		defer timer.Stop()
		end = timer.C
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()

	var history history
	var last error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return verdict(&history, o, load, last)
		case <-collector.Exited():
			return ended(ctx, "the collector", collector.output.String())
		case <-server.exited:
			return ended(ctx, "llama-server", server.output.String())
		case now := <-ticker.C:
			var s sample
			if s, last = readSample(ctx, client, collector.metricsURL); last != nil {
				continue
			}
			s.at = now
			history.add(s)
			d.show(history.summary())
		}
	}
}

// verdict returns an error if the demo did not show what it is there to show.
func verdict(h *history, o options, load *load, last error) error {
	switch {
	case last != nil:
		return fmt.Errorf("the collector's metrics could not be read at the end: %w", last)
	case !h.seen():
		return errors.New("the collector served no llamacpp metrics: see its log with -collector and -config run by hand")
	case o.noLoad || h.moved():
		return nil
	}
	err := errors.New("no token was seen decoded: the numbers did not move")
	if cause := load.lastError(); cause != nil {
		return fmt.Errorf("%w; no requests were sent: %w", err, cause)
	}
	if failed := h.failed(); failed != "" {
		return fmt.Errorf("%w; requests ended with %s", err, failed)
	}
	return err
}

// ended reports a program that stopped by itself. Ctrl-C in a terminal reaches
// every program there, and another may end before this one sees the signal.
func ended(ctx context.Context, what, output string) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(500 * time.Millisecond):
		return fmt.Errorf("%s stopped by itself; its last words:\n%s", what, output)
	}
}

// orNil drops the error of something that was interrupted on purpose.
func orNil(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
