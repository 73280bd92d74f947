// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-jaeger builds the Jaeger that tests run, into the
// user's cache folder and nowhere else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/jaegertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := jaegertest.Programs.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-jaeger:", err)
		os.Exit(1)
	}
}
