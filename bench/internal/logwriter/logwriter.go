// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package logwriter writes logs as llama-server b11669 writes them by default,
// of as many requests as one likes.
package logwriter

import (
	"fmt"
	"time"
)

// LinesPerRequest is how many lines a request has.
const LinesPerRequest = 8

// Start are the lines of a start.
func Start() []string {
	return []string{
		"0.00.000.890 I srv  llama_server: initializing ...",
		"0.00.015.972 I srv    load_model: loading model '/models/tiny.gguf'",
		"0.00.024.359 I srv    load_model: initializing, n_slots = 8, n_ctx_slot = 4096, kv_unified = 'false'",
		"0.00.025.929 I srv  llama_server: model loaded",
		"0.00.025.955 I srv  llama_server: listening on http://127.0.0.1:8080",
	}
}

// Request are the lines of a request that ended when the process's clock
// showed so much: 200 prompt tokens in 100 ms and 50 tokens in half a second.
func Request(slot, task int, ended time.Duration) []string {
	line := func(at time.Duration, format string, args ...any) string {
		us := at.Microseconds()
		return fmt.Sprintf("%d.%02d.%03d.%03d I slot ", us/60e6, us/1e6%60, us/1e3%1e3, us%1e3) + fmt.Sprintf(format, args...)
	}
	began := ended - 600*time.Millisecond
	return []string{
		line(began, "get_availabl: id %2d | task -1 | selected slot by LRU, n_tokens = 0, t_last = -1", slot),
		line(began, "launch_slot_: id %2d | task %d | processing task, is_child = 0", slot, task),
		line(ended, "print_timing: id %2d | task %d | prompt eval time =     100.00 ms /   200 tokens (    0.50 ms per token,  2000.00 tokens per second)", slot, task),
		line(ended, "print_timing: id %2d | task %d |        eval time =     500.00 ms /    50 tokens (   10.20 ms per token,    98.00 tokens per second)", slot, task),
		line(ended, "print_timing: id %2d | task %d |       total time =     600.00 ms /   250 tokens", slot, task),
		line(ended, "print_timing: id %2d | task %d |    graphs reused =         49", slot, task),
		line(ended, "print_timing: id %2d | task %d |   graph reallocs =          0    /     0        (same size) / (changed size)", slot, task),
		line(ended, "     release: id %2d | task %d | stop processing: n_tokens = 249, truncated = 0", slot, task),
	}
}
