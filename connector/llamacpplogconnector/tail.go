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

// written returns the latest time at which a line that shows clock can have been
// written. The last line of the file was written when the file was last changed,
// and this one before it by the difference of their clocks. The time is too late,
// but never too early, if the last line is that of a process that began later.
func (f *file) written(child int, clock time.Duration) time.Time {
	if f.last == nil {
		f.last = f.clocks()
	}
	if last, ok := f.last[child]; ok && last > clock {
		return f.modified.Add(clock - last)
	}
	return f.modified
}

// clocks reads the end of the file, as far as the file went when it was looked
// at: lines written since are younger than the time of its change.
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
