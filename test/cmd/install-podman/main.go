// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command install-podman installs Podman, and makes the images of Debian that
// tests build on, into the user's cache folder.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/podmantest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := podmantest.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-podman:", err)
		os.Exit(1)
	}
}
