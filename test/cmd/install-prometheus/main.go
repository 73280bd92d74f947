// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-prometheus builds the Prometheus that tests run, into the
// user's cache folder and nowhere else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := promtest.Programs.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-prometheus:", err)
		os.Exit(1)
	}
}
