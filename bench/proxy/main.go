// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command proxy has clients ask the same server directly and through the built
// collector's llamaproxy, nginx and Caddy, in turn, and prints what each adds to the time
// to the first byte of an answer, what CPU time it takes, and the memory of open streams.
//
// The proxy has one core; the server and the clients share another. The server closes
// connections after an answer as llama-server does, so that each request has a new one to
// it; those of clients to a proxy are kept.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// bench holds the settings of all measurements.
type bench struct {
	collector            string // the built program
	rounds               int
	duration             time.Duration
	proxyCore, otherCore int
	open                 int
	proxies              []proxy
	profiles             string
}

// A part is one of the measurements.
type part struct {
	name    string
	measure func(*bench, context.Context) error
}

// parts are in the order in which they are measured.
var parts = []part{
	{"latency", (*bench).latency},
	{"requests", (*bench).requests},
	{"events", (*bench).events},
	{"memory", (*bench).memory},
}

func main() {
	eventserver.Main()
	clientMain()
	var b bench
	only := flag.String("only", "", "the `parts` to measure, separated by commas: latency, requests, events, memory; by default all")
	names := flag.String("proxies", "", "the `proxies` to measure, separated by commas: "+proxyNames()+"; by default all")
	flag.StringVar(&b.collector, "collector", "../bin/otelcol-llamacpp", "the built `program`")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each is measured; the figures are medians")
	flag.DurationVar(&b.duration, "duration", 6*time.Second, "how long each measurement of a round takes")
	flag.IntVar(&b.proxyCore, "proxy-core", 1, "`number` of the proxy's core")
	flag.IntVar(&b.otherCore, "other-core", 0, "`number` of the core of the server and the clients")
	flag.IntVar(&b.open, "open", 10_000, "`number` of open streams whose memory is measured")
	flag.StringVar(&b.profiles, "profiles", "", "`folder` for CPU and heap profiles of llamaproxy, taken while it is measured, which it then is not as it is else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx, split(*only), split(*names))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		os.Exit(1)
	}
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func (b *bench) run(ctx context.Context, only, names []string) error {
	for _, name := range only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-only %s: want latency, requests, events or memory", name)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(proxies, func(p proxy) bool { return p.name == name }) {
			return fmt.Errorf("-proxies %s: want some of %s", name, proxyNames())
		}
	}
	for _, p := range proxies {
		if len(names) == 0 || slices.Contains(names, p.name) {
			b.proxies = append(b.proxies, p)
		}
	}
	for _, p := range parts {
		if len(only) > 0 && !slices.Contains(only, p.name) {
			continue
		}
		if err := p.measure(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}
