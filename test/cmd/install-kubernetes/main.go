// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command install-kubernetes builds the Kubernetes API server that tests
// run, with etcd and kubectl, into the
// user's cache folder and nowhere else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/kubetest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := kubetest.Install(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "install-kubernetes:", err)
		os.Exit(1)
	}
}
