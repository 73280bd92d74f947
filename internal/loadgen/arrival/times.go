// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseTimes parses times in seconds from the start, one per line, such as 0.25.
// Empty lines are skipped. The name of the file is for errors.
func ParseTimes(content []byte, name string) ([]time.Duration, error) {
	var times []time.Duration
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		seconds, err := strconv.ParseFloat(line, 64)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %q is no number: want seconds from the start, such as 0.25", name, n, line)
		}
		ns := math.Round(seconds * 1e9)
		if !(ns >= 0 && ns < math.MaxInt64) {
			return nil, fmt.Errorf("%s:%d: %s: want seconds from the start, 0 or more", name, n, line)
		}
		times = append(times, time.Duration(ns))
	}
	if len(times) == 0 {
		return nil, fmt.Errorf("%s has no times: want seconds from the start, one a line", name)
	}
	return times, nil
}

// Peak returns the greatest number of arrivals within any one second.
func (r Replay) Peak() int {
	most, first := 0, 0
	for i, at := range r {
		for at-r[first] >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
