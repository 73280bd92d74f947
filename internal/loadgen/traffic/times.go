// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// times reads seconds from the start.
type times struct {
	window Window
	last   time.Duration
	rec    Recording
}

func (p *times) line(b []byte) error {
	s, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("%q is no number: want seconds from the start, one a line", b)
	}
	at, err := after(p.last, s)
	if err != nil {
		return err
	}
	if p.last = at; p.window.has(at) {
		p.rec.Requests = append(p.rec.Requests, Request{Due: at - p.window.From, From: -1})
	}
	return nil
}

func (p *times) end() (*Recording, error) {
	p.rec.Format = Times
	return &p.rec, nil
}

// after converts seconds, which have to be no earlier than the last ones.
func after(last time.Duration, seconds float64) (time.Duration, error) {
	ns := math.Round(seconds * 1e9)
	if !(ns >= 0 && ns < math.MaxInt64) || time.Duration(ns) < last {
		return 0, fmt.Errorf("%g s after %g s: want times from 0 on, in order", seconds, last.Seconds())
	}
	return time.Duration(ns), nil
}
