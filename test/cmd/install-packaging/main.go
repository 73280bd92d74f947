// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-packaging installs the Debian in which packages are tested.
// It needs Debian and root.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := machine.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-packaging:", err)
		os.Exit(1)
	}
}
