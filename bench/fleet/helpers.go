// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
)

var errStopped = errors.New("stopped")

// pause waits, but not longer than until the user has had enough.
func pause(d time.Duration, stop <-chan os.Signal) error {
	select {
	case <-time.After(d):
		return nil
	case <-stop:
		return errStopped
	}
}

// usage is the CPU time, in seconds, of the collector, of what it works with,
// and of everything else on the machine.
func usage(collector, simulator int) (used [3]float64, err error) {
	all, err1 := process.Machine()
	col, err2 := process.CPU(collector)
	sim, err3 := process.CPU(simulator)
	self, err4 := process.Self()
	return [3]float64{col.Seconds(), (sim + self).Seconds(), (all - col - sim - self).Seconds()}, errors.Join(err1, err2, err3, err4)
}

func median(xs []int64) int64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
