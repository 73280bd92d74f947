// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-llama-server installs the real llama-server for the tests, in
// the user's cache folder and nowhere else. It needs Debian and root.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "install-llama-server:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b, err := llamatest.Find()
	if err != nil {
		if err := llamatest.Install(ctx, os.Stdout); err != nil {
			return err
		}
		if b, err = llamatest.Find(); err != nil {
			return err
		}
	}
	version, err := b.Version(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s: %s\n", b.Root, b.Path, version)
	return nil
}
