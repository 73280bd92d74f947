// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// showProgress prints the progress of a run, after a label, until it is done: on a
// terminal in one line that is redrawn, elsewhere in a new line every ten seconds.
func showProgress(r *loadgen.Run, c *loadgen.Config, label string, w io.Writer) {
	f, ok := w.(*os.File)
	bar := ok && term.IsTerminal(int(f.Fd()))
	every := 10 * time.Second
	if bar {
		every = 250 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var p meter
	for {
		select {
		case <-r.Done():
			if bar {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		case <-tick.C:
		}
		line := label + p.line(r.Progress(), r.Elapsed(), r.InFlight(), c)
		if bar {
			fmt.Fprint(w, "\r\x1b[K"+line)
		} else {
			fmt.Fprintln(w, line)
		}
	}
}

// meter measures the current rate, over about the last second.
type meter struct {
	at    time.Duration
	ended int
	rate  float64
}

func (m *meter) line(p loadgen.Progress, elapsed time.Duration, inFlight int, c *loadgen.Config) string {
	if n := p.Counts.Sent; elapsed-m.at >= time.Second {
		m.rate = float64(n-m.ended) / (elapsed - m.at).Seconds()
		m.at, m.ended = elapsed, n
	}
	var b strings.Builder
	if c.Duration > 0 {
		const width = 20
		done := min(int(width*elapsed/c.Duration), width)
		fmt.Fprintf(&b, "[%s%s] %s/%s", strings.Repeat("#", done), strings.Repeat(".", width-done), elapsed.Truncate(time.Second), c.Duration)
	} else {
		fmt.Fprintf(&b, "%s, %d/%d requests", elapsed.Truncate(time.Second), p.Counts.Due, c.Requests)
	}
	fmt.Fprintf(&b, "  %.1f/s ended  %d in flight  %d ok  %d error", m.rate, inFlight, p.Counts.OK, p.Counts.Failed)
	if p.Counts.Dropped > 0 {
		fmt.Fprintf(&b, "  %d dropped", p.Counts.Dropped)
	}
	if p.TTFT50 > 0 {
		fmt.Fprintf(&b, "  ttft p50 %s p95 %s", p.TTFT50.Round(time.Millisecond), p.TTFT95.Round(time.Millisecond))
	}
	return b.String()
}
