// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command tinygguf writes a very small language model with random weights.
//
//	tinygguf -o tiny.gguf
//	tinygguf -model slow -o slow.gguf
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func main() {
	out := flag.String("o", "tiny.gguf", "file to write")
	name := flag.String("model", "tiny", "model to write: tiny (0.8 MB) or slow (138 MB)")
	seed := flag.Uint64("seed", 1, "seed of the weights")
	flag.Parse()

	m, ok := map[string]tinygguf.Model{"tiny": tinygguf.Tiny, "slow": tinygguf.Slow}[*name]
	if !ok {
		fmt.Fprintf(os.Stderr, "tinygguf: no model %q: use tiny or slow\n", *name)
		os.Exit(2)
	}
	m.Seed = *seed
	if err := m.WriteFile(*out); err != nil {
		fmt.Fprintln(os.Stderr, "tinygguf:", err)
		os.Exit(1)
	}
}
