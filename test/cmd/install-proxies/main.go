// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-proxies gets nginx and Caddy, for the benchmarks. It needs Debian, and root
// only where a library is missing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/plainproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := plainproxy.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-proxies:", err)
		os.Exit(1)
	}
}
