// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"

import "time"

// wallWindow is how long a bound counts. It has to be long enough to hold a
// line that was read soon after it was written, and short enough to follow a
// clock that was set, or that stood still while the machine slept.
const wallWindow = time.Minute

// Wall places the clock of a process in time. Each line gives a bound: it was
// written before it was read, and before its file was last changed, so clock 0
// was earlier than that by at least what the line's clock shows. The earliest
// bound is late only by the shortest delay between writing and reading.
type Wall struct {
	// Zero is the earliest bound of the current window, and Before that of the
	// one before it, in nanoseconds of Unix time; 0 where there is none.
	Zero   int64 `json:"zero"`
	Before int64 `json:"before"`
	// Since is when the current window began, likewise.
	Since int64 `json:"since"`

	// restored says that the bounds are those of an earlier collector. They are
	// better than new ones: what it left unread is now read late, all at once.
	restored bool
}

// Observe takes in that the process's clock showed clock at a time, or before
// it.
func (w *Wall) Observe(at time.Time, clock time.Duration) {
	now := at.UnixNano()
	bound := now - int64(clock)
	switch {
	case w.restored && w.Zero != 0:
		*w = Wall{Zero: bound, Before: w.earliest(), Since: now}
	case w.Zero == 0 || now-w.Since > 2*int64(wallWindow) || now < w.Since-int64(wallWindow):
		*w = Wall{Zero: bound, Since: now}
	case now-w.Since > int64(wallWindow):
		*w = Wall{Zero: bound, Before: w.Zero, Since: now}
	default:
		w.Zero = min(w.Zero, bound)
	}
}

// At returns the time at which the process's clock showed clock.
func (w *Wall) At(clock time.Duration) time.Time {
	return time.Unix(0, w.earliest()+int64(clock))
}

func (w *Wall) earliest() int64 {
	if w.Before != 0 {
		return min(w.Zero, w.Before)
	}
	return w.Zero
}
