// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import "time"

// Stream gives the start time of the points that a scraper emits of one server,
// or one model. The start time stays the same in the life of a process and
// differs from that of the process before. It lies neither after one of its points
// nor before one of the process before. The zero value is ready.
type Stream struct {
	process     int
	start, last time.Time
}

// At returns the start time of the points at now, which must not go back. The
// snapshot is nil where none has come. When nobody saw the process start, its
// first points have their own time as start time, which is how OTLP says that
// the true one is unknown.
func (s *Stream) At(now time.Time, snapshot *Snapshot) time.Time {
	switch {
	case snapshot != nil && snapshot.Process != s.process:
		start := now
		if !snapshot.Since.IsZero() {
			start = earlier(now, later(snapshot.Since, s.last))
		}
		if s.process != 0 && start.Equal(s.start) {
			start = now // the process before had one point, at its own start time
		}
		s.process, s.start = snapshot.Process, start
	case s.start.IsZero():
		s.start = now
	}
	s.last = now
	return s.start
}

// Restart begins anew at now, for a process without snapshots.
func (s *Stream) Restart(now time.Time) { *s = Stream{start: now, last: now} }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
