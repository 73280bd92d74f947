// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../tools/go.mod mdatagen metadata.yaml

// Package llamacppreceiver watches one llama.cpp server and turns what its
// monitoring endpoints report into metrics.
//
// Each scraper has a clock of its own, so that one that waits never delays
// another; all share one internal/watch.Server, which keeps the load
// on the server as small as it can be.
package llamacppreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"
