// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command screenshots takes pictures of a live page that runs, such as that of
// `make demo`: light, dark and narrow.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetest"
)

func main() {
	url := flag.String("url", "http://localhost:9465", "address of the page")
	folder := flag.String("o", "screenshots", "folder for light.png, dark.png and narrow.png")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := pagetest.Pictures(ctx, *url, *folder); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}
