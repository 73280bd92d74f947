// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-journal installs systemd's tools for journals, for the tests.
// It needs Debian and root.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/journaltest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := journaltest.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-journal:", err)
		os.Exit(1)
	}
}
