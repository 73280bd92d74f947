// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Objective is a set of latency bounds, all of which a request has to meet.
type Objective []bound

type bound struct {
	metric string
	below  time.Duration
}

// latencies are the latencies of a request that an objective can bound. TTFT and
// E2E are measured from when the request was due.
var latencies = map[string]func(*completion.Result) (time.Duration, bool){
	"ttft": func(r *completion.Result) (time.Duration, bool) { return r.TTFT(r.Due) },
	"tpot": (*completion.Result).TPOT,
	"e2e":  func(r *completion.Result) (time.Duration, bool) { return r.End.Sub(r.Due), true },
}

var boundPattern = regexp.MustCompile(`^\s*(\w+)\s*<\s*(\S+)\s*$`)

// ParseObjective parses bounds on ttft, tpot and e2e, such as
// ttft<500ms && tpot<50ms.
func ParseObjective(s string) (Objective, error) {
	var o Objective
	for part := range strings.SplitSeq(s, "&&") {
		m := boundPattern.FindStringSubmatch(part)
		if len(m) == 0 || latencies[m[1]] == nil {
			return nil, fmt.Errorf("objective %q: want bounds on ttft, tpot or e2e, such as ttft<500ms && tpot<50ms", s)
		}
		d, err := time.ParseDuration(m[2])
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("objective %q: %s is no time: want one such as 500ms or 2s", s, m[2])
		}
		o = append(o, bound{m[1], d})
	}
	return o, nil
}

// String returns the objective in the form that ParseObjective parses.
func (o Objective) String() string {
	parts := make([]string, len(o))
	for i, b := range o {
		parts[i] = fmt.Sprintf("%s<%s", b.metric, b.below)
	}
	return strings.Join(parts, " && ")
}

// met reports whether a request succeeded within the bounds. An answer of fewer
// than two tokens has no time per token and meets any bound on it. An answer that
// was not streamed has no first token and meets no bound on the time to it.
func (o Objective) met(r *completion.Result) bool {
	if r.Outcome != completion.OK {
		return false
	}
	for _, b := range o {
		d, ok := latencies[b.metric](r)
		if !ok && b.metric == "tpot" {
			continue
		}
		if !ok || d >= b.below {
			return false
		}
	}
	return true
}

// Condition is a condition on the results of a run. If it holds, the run counts as
// failed.
type Condition struct {
	text  string
	value func(*Results) (float64, bool)
	above bool
	bound float64
}

var (
	conditionPattern = regexp.MustCompile(`^\s*(?:(p\d{1,2}(?:\.\d+)?|max|mean)\((\w+)\)|(\w+))\s*([<>])\s*(\S+)\s*$`)

	histograms = map[string]func(*Results) *Histogram{
		"ttft":           func(r *Results) *Histogram { return r.TTFT },
		"tpot":           func(r *Results) *Histogram { return r.TPOT },
		"e2e":            func(r *Results) *Histogram { return r.E2E },
		"lag":            func(r *Results) *Histogram { return r.Lag },
		"ttft_from_send": func(r *Results) *Histogram { return r.TTFTFromSend },
		"e2e_from_send":  func(r *Results) *Histogram { return r.E2EFromSend },
	}
	shares = map[string]func(*Results) (float64, bool){
		"error_rate":     func(r *Results) (float64, bool) { return share(r.Counts.Failed, r.Counts.Sent) },
		"drop_rate":      func(r *Results) (float64, bool) { return share(r.Counts.Dropped, r.Counts.Due) },
		"goodput":        func(r *Results) (float64, bool) { return share(r.Good, r.Counts.Due) },
		"cache_hit_rate": func(r *Results) (float64, bool) { return r.Tokens.HitRate() },
	}
)

func share(n, of int) (float64, bool) { return float64(n) / float64(max(of, 1)), of > 0 }

const conditionWant = "want p95(ttft)>2s with p0 to p99.9, max or mean of ttft, tpot, e2e, lag, ttft_from_send or e2e_from_send, " +
	"or error_rate>1% with error_rate, drop_rate, goodput or cache_hit_rate"

// ParseCondition parses a condition such as p95(ttft)>2s, error_rate>1% or
// goodput<0.95.
func ParseCondition(s string) (Condition, error) {
	m := conditionPattern.FindStringSubmatch(s)
	c := Condition{text: strings.TrimSpace(s)}
	wrong := fmt.Errorf("condition %q: %s", s, conditionWant)
	if m == nil {
		return c, wrong
	}
	c.above = m[4] == ">"
	if name := m[3]; name != "" {
		c.value = shares[name]
		number, percent := strings.CutSuffix(m[5], "%")
		v, err := strconv.ParseFloat(number, 64)
		if c.value == nil || err != nil {
			return c, wrong
		}
		if c.bound = v; percent {
			c.bound /= 100
		}
		return c, nil
	}
	histogram := histograms[m[2]]
	d, err := time.ParseDuration(m[5])
	if histogram == nil || err != nil {
		return c, wrong
	}
	c.bound = d.Seconds()
	c.value = func(r *Results) (float64, bool) {
		h := histogram(r)
		return statistic(h, m[1]).Seconds(), h.Count() > 0
	}
	return c, nil
}

func statistic(h *Histogram, name string) time.Duration {
	switch name {
	case "max":
		return h.Max()
	case "mean":
		return h.Mean()
	}
	p, err := strconv.ParseFloat(name[1:], 64)
	if err != nil {
		panic(err) // unreachable: the pattern accepts only numbers
	}
	return h.Percentile(p)
}

// Holds reports whether the condition is true of the results. If its value is
// unknown, because nothing was measured, it holds, so that a run without
// measurements does not pass.
func (c *Condition) Holds(r *Results) bool {
	v, ok := c.value(r)
	if !ok {
		return true
	}
	if c.above {
		return v > c.bound
	}
	return v < c.bound
}

// String returns the condition as the user wrote it.
func (c *Condition) String() string { return c.text }
