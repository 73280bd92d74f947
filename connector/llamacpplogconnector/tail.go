// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"os"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

// tailSize is how much of a file's end is read: some fifty lines.
const tailSize = 4096

// written is the latest time at which a line with that clock can have been
// written: before the last line of the file by as much as the clocks differ,
// and that one when the file was changed. If another process has written the
// last line, which began later, the time is too late, but never too early.
func (f *file) written(child int, clock time.Duration) time.Time {
	if f.last == nil {
		f.last = f.clocks()
	}
	if last, ok := f.last[child]; ok && last > clock {
		return f.modified.Add(clock - last)
	}
	return f.modified
}

// clocks reads the end of the file as it was looked at; what was written since
// is younger than the time of its change.
func (f *file) clocks() map[int]time.Duration {
	out := map[int]time.Duration{}
	in, err := os.Open(f.path)
	if err != nil {
		return out
	}
	defer func() { _ = in.Close() }() // it was only read
	from := max(f.size-tailSize, 0)
	b := make([]byte, f.size-from)
	n, _ := in.ReadAt(b, from)
	text := string(b[:n])
	if from > 0 {
		_, text, _ = strings.Cut(text, "\n") // which began before
	}
	var parser serverlog.Parser
	parser.Parse(text, func(e *serverlog.Event) {
		if e.HasClock {
			out[e.Child] = e.Clock
		}
	})
	return out
}
