// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package logwriter writes the logs that benchmarks read: those of a
// llama-server with as many equal requests as one likes.
package logwriter

import (
	"bytes"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamalog"
)

// LinesPerRequest is how many lines a request has.
const LinesPerRequest = 8

// Start are the lines of a start.
func Start() []string {
	return lines(func(l *llamalog.Log) {
		l.Initializing(0, true)
		l.Loading(0, "/models/tiny.gguf")
		l.Slots(0, 8, 4096)
		l.Loaded(0)
		l.Listening(0, "http://127.0.0.1:8080")
	})
}

// Request are the lines of a request that ended when the process's clock
// showed so much: 200 prompt tokens in 100 ms and 50 tokens in half a second.
func Request(slot, task int, ended time.Duration) []string {
	return lines(func(l *llamalog.Log) {
		r := llamalog.Request{Slot: slot, Task: int64(task)}
		l.Launch(ended-600*time.Millisecond, r, llamalog.Slot{Prompt: 200, LastUsed: -1})
		l.Finish(ended, r, llamalog.Timings{
			PromptTokens: 200, Prompt: 100 * time.Millisecond,
			Tokens: 50, Generation: 500 * time.Millisecond, GraphsReused: 49, Sequence: 249,
		})
	})
}

func lines(write func(*llamalog.Log)) []string {
	var b bytes.Buffer
	write(llamalog.New(&b, 0))
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}
