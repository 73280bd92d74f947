// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command load has llamaload, vegeta and k6 put the same loads on the same server, in
// turn, and prints what that costs each and how well each keeps to its schedule. The
// generator has one core and the server another. It compares llamaload with the
// collector's extension as well.
//
// vegeta and k6 read an answer to its end, but do not look at the events in it.
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

	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// bench holds the settings of all measurements.
type bench struct {
	programs                  string // the folder of the generators
	rounds                    int
	serverCore, generatorCore int
	open                      int
}

// A part is one of the measurements.
type part struct {
	name    string
	measure func(*bench, context.Context) error
}

// parts are in the order in which they are measured.
var parts = []part{
	{"requests", (*bench).newRequests},
	{"events", (*bench).longStreams},
	{"send", (*bench).sendTimes},
	{"memory", (*bench).openStreams},
	{"collector", (*bench).fromInside},
}

func main() {
	eventserver.Main()
	var b bench
	only := flag.String("only", "", "the `parts` to measure, separated by commas: requests, events, send, memory, collector; by default all")
	flag.StringVar(&b.programs, "programs", "../bin", "`folder` of llamaload, vegeta, k6 and otelcol-llamacpp")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each generator is measured; the figures are medians")
	flag.IntVar(&b.serverCore, "server-core", 0, "`number` of the server's core")
	flag.IntVar(&b.generatorCore, "generator-core", 1, "`number` of the generators' core")
	flag.IntVar(&b.open, "open", 10_000, "`number` of open streams whose memory is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	chosen := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	for _, name := range chosen {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-only %s: want requests, events, send, memory or collector", name)
		}
	}
	for _, p := range parts {
		if len(chosen) > 0 && !slices.Contains(chosen, p.name) {
			continue
		}
		if err := p.measure(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}
