// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package timings joins what a client and llama-server's log say about the same
// request.
//
// The log has neither trace context nor the answer's id, and the answer has no task
// id. Both have the server's own measurements of the request, to the microsecond in
// the answer and rounded to a hundredth of a millisecond in the log. Together with
// the numbers of tokens, hardly any two requests share them.
package timings // import "github.com/llamatelemetry/otelcol-llamacpp/internal/timings"

import (
	"strconv"
	"time"
)

// Attribute is the span attribute whose value is equal in the client's span and in
// the log's span of the same request.
const Attribute = "llamacpp.request.timings"

// String returns the timings as 24/1.38ms+8/1.42ms: the tokens of the prompt that
// were computed, and in what time, and the generated ones, and the time from the
// first to the last.
func String(promptTokens int, prompt time.Duration, generated int, generation time.Duration) string {
	b := make([]byte, 0, 40)
	b = appendPart(b, promptTokens, prompt)
	b = append(b, '+')
	b = appendPart(b, generated, generation)
	return string(b)
}

// appendPart rounds as the server's log does: the server holds whole microseconds
// as a float64 of milliseconds, and prints that with two decimals.
func appendPart(b []byte, tokens int, d time.Duration) []byte {
	b = strconv.AppendInt(b, int64(tokens), 10)
	b = append(b, '/')
	b = strconv.AppendFloat(b, float64(d.Microseconds())/1e3, 'f', 2, 64)
	return append(b, "ms"...)
}
