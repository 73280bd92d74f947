// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package interval refuses intervals that were meant to be longer: a number
// without a unit is read as nanoseconds, and would keep a core and a server
// busy.
package interval // import "github.com/llamatelemetry/otelcol-llamacpp/internal/interval"

import (
	"fmt"
	"time"
)

// Shortest is the shortest interval.
const Shortest = 10 * time.Millisecond

// Check returns an error if d is shorter than Shortest.
func Check(d time.Duration) error {
	switch {
	case d >= Shortest:
		return nil
	case d > 0 && d < time.Millisecond:
		return fmt.Errorf("%v: has it a unit? e.g. 5s", d)
	default:
		return fmt.Errorf("%v: want %v or more", d, Shortest)
	}
}
