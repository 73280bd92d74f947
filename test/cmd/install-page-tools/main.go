// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-page-tools installs Node, npm and Chromium, for the tests of the live page.
// It needs Debian and root, unless they are there.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := pagetools.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-page-tools:", err)
		os.Exit(1)
	}
}
