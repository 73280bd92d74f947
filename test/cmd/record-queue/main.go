// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command record-queue simulates one llama-server and writes, as CSV, how many
// requests it has got, is at work on and lets wait, once in five seconds. The load
// comes from outside, as from llamaload. test/kubernetes scales by such a
// recording.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := record(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "record-queue:", err)
		os.Exit(1)
	}
}

func record(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("record-queue", flag.ContinueOnError)
	address := fs.String("address", "127.0.0.1:8080", "`address` to listen on")
	duration := fs.Duration("duration", 25*time.Minute, "how long to record")
	var o llamasim.Options
	fs.IntVar(&o.Slots, "parallel", 4, "number of slots")
	fs.Float64Var(&o.TokensPerSecond, "tokens-per-second", 25, "generation speed of each slot")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s := llamasim.New(o)
	defer s.Close()
	if _, err := s.Start(*address); err != nil {
		return err
	}
	fmt.Fprintln(out, "second,requests,processing,deferred")
	const interval = 5 * time.Second
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for second := 0; time.Duration(second)*time.Second <= *duration; second += int(interval.Seconds()) {
		_, finished, cancelled := s.Requests()
		processing, deferred := s.Processing(), s.Deferred()
		fmt.Fprintf(out, "%d,%d,%d,%d\n", second, int(finished+cancelled)+processing+deferred, processing, deferred)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}
