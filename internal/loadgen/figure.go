// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Figure is a number that sums up a run, such as p95(ttft).
type Figure struct {
	name  string
	unit  Unit
	more  bool
	value func(*Report) (float64, bool)
}

// Unit is the unit of a figure.
type Unit int

const (
	Seconds   Unit = iota
	PerSecond      // requests or tokens per second
	Share          // from 0 to 1
)

// Format returns a text with about three significant digits.
func (u Unit) Format(v float64) string {
	switch u {
	case PerSecond:
		decimals := 2
		if v >= 10 {
			decimals = 1
		}
		return strconv.FormatFloat(v, 'f', decimals, 64) + "/s"
	case Share:
		return fmt.Sprintf("%.1f %%", v*100)
	default:
		return seconds(v)
	}
}

var (
	histograms = map[string]func(*Report) *Histogram{
		"ttft":           func(p *Report) *Histogram { return p.Latency.TTFT },
		"tpot":           func(p *Report) *Histogram { return p.Latency.TPOT },
		"e2e":            func(p *Report) *Histogram { return p.Latency.E2E },
		"itl":            func(p *Report) *Histogram { return p.Latency.ITL },
		"lag":            func(p *Report) *Histogram { return p.Latency.Lag },
		"ttft_from_send": func(p *Report) *Histogram { return p.FromSend.TTFT },
		"e2e_from_send":  func(p *Report) *Histogram { return p.FromSend.E2E },
	}
	numbers = map[string]Figure{
		"requests_per_second":      {unit: PerSecond, more: true, value: func(p *Report) (float64, bool) { return p.Rates.Requests, p.Rates.Seconds > 0 }},
		"input_tokens_per_second":  {unit: PerSecond, more: true, value: func(p *Report) (float64, bool) { return p.Rates.InputTokens, p.Rates.Seconds > 0 }},
		"output_tokens_per_second": {unit: PerSecond, more: true, value: func(p *Report) (float64, bool) { return p.Rates.OutputTokens, p.Rates.Seconds > 0 }},
		"error_rate":               {unit: Share, value: func(p *Report) (float64, bool) { return share(p.Requests.Failed, p.Requests.Sent) }},
		"drop_rate":                {unit: Share, value: func(p *Report) (float64, bool) { return share(p.Requests.Dropped, p.Requests.Due) }},
		"goodput": {unit: Share, more: true, value: func(p *Report) (float64, bool) {
			if p.Goodput == nil {
				return 0, false
			}
			return p.Goodput.Share, p.Requests.Due > 0
		}},
		"cache_hit_rate": {unit: Share, more: true, value: func(p *Report) (float64, bool) {
			if p.Tokens.CacheHitRate == nil {
				return 0, false
			}
			return *p.Tokens.CacheHitRate, true
		}},
	}
)

func share(n, of int) (float64, bool) { return float64(n) / float64(max(of, 1)), of > 0 }

const figureWant = "p0 to p99.9, max or mean of ttft, tpot, itl, e2e, lag, ttft_from_send or e2e_from_send, " +
	"or requests_per_second, input_tokens_per_second, output_tokens_per_second, error_rate, drop_rate, goodput or cache_hit_rate"

var figurePattern = regexp.MustCompile(`^(?:(p\d{1,2}(?:\.\d+)?|max|mean)\((\w+)\)|(\w+))$`)

// ParseFigure parses the name of a figure: a statistic of a latency such as
// p95(ttft), mean(e2e) or max(tpot), or a number such as error_rate.
func ParseFigure(s string) (Figure, error) {
	wrong := fmt.Errorf("figure %q: want %s", s, figureWant)
	m := figurePattern.FindStringSubmatch(s)
	if m == nil {
		return Figure{}, wrong
	}
	if m[3] != "" {
		f, ok := numbers[m[3]]
		if !ok {
			return Figure{}, wrong
		}
		f.name = s
		return f, nil
	}
	histogram := histograms[m[2]]
	if histogram == nil {
		return Figure{}, wrong
	}
	return Figure{name: s, unit: Seconds, value: func(p *Report) (float64, bool) {
		h := histogram(p)
		if h == nil || h.Count() == 0 {
			return 0, false
		}
		return statistic(h, m[1]).Seconds(), true
	}}, nil
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

// Of returns the figure of a run, and false if it was not measured.
func (f Figure) Of(p *Report) (float64, bool) { return f.value(p) }

// Unit returns the unit of the figure.
func (f Figure) Unit() Unit { return f.unit }

// MoreIsBetter reports whether a greater value is a better one.
func (f Figure) MoreIsBetter() bool { return f.more }

// String returns the name of the figure.
func (f Figure) String() string { return f.name }

// Condition is a condition on a figure. If it holds, the run counts as failed.
type Condition struct {
	text   string
	figure Figure
	above  bool
	bound  float64
}

var conditionPattern = regexp.MustCompile(`^\s*(\S+?)\s*([<>])\s*(\S+)\s*$`)

const conditionWant = "want p95(ttft)>2s or error_rate>1% with " + figureWant

// ParseCondition parses a condition such as p95(ttft)>2s, error_rate>1%,
// goodput<0.95 or output_tokens_per_second<100.
func ParseCondition(s string) (Condition, error) {
	c := Condition{text: strings.TrimSpace(s)}
	wrong := fmt.Errorf("condition %q: %s", s, conditionWant)
	m := conditionPattern.FindStringSubmatch(s)
	if m == nil {
		return c, wrong
	}
	var err error
	if c.figure, err = ParseFigure(m[1]); err != nil {
		return c, wrong
	}
	c.above = m[2] == ">"
	if c.figure.unit == Seconds {
		d, err := time.ParseDuration(m[3])
		if err != nil {
			return c, wrong
		}
		c.bound = d.Seconds()
		return c, nil
	}
	number, percent := strings.CutSuffix(m[3], "%")
	if c.bound, err = strconv.ParseFloat(number, 64); err != nil || percent && c.figure.unit != Share {
		return c, wrong
	}
	if percent {
		c.bound /= 100
	}
	return c, nil
}

// Holds reports whether the condition is true of the figure's mean over the runs.
// If the figure of a run is unknown, because nothing was measured, it holds, so that
// a run without measurements does not pass.
func (c *Condition) Holds(runs ...*Report) bool {
	sum := 0.0
	for _, p := range runs {
		v, ok := c.figure.Of(p)
		if !ok {
			return true
		}
		sum += v
	}
	mean := sum / float64(len(runs))
	if c.above {
		return mean > c.bound
	}
	return mean < c.bound
}

// String returns the condition as the user wrote it.
func (c *Condition) String() string { return c.text }
