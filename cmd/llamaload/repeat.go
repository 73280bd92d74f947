// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

// repetition holds the flags for how often a run is repeated.
type repetition struct {
	times, most int
	until       []string
}

// fewestRuns is how many runs --until makes at least. An interval over fewer is
// narrow by chance too often.
const fewestRuns = 5

// mostRuns is after how many runs --until gives up.
const mostRuns = 30

func (r *repetition) flags(f *pflag.FlagSet) {
	f.IntVar(&r.times, "repeat", 0, "`number` of runs, each with a seed of its own; with --until the fewest (default 1, with --until 5)")
	f.StringArrayVar(&r.until, "until", nil, "repeat until the 95 % confidence interval over the runs is narrow enough: `'ci<2%'` is ±2 % of the means of p50(ttft) and p50(tpot), 'ci(p95(e2e))<5%' of another figure; may be repeated")
	f.IntVar(&r.most, "max-repeats", 0, fmt.Sprintf("`number` of runs after which --until gives up (default %d)", mostRuns))
}

func (r *repetition) rule() (*repeat.Rule, error) {
	if r.times < 0 {
		return nil, fmt.Errorf("--repeat %d: want 1 or more", r.times)
	}
	if len(r.until) == 0 {
		if r.most != 0 {
			return nil, fmt.Errorf("--max-repeats %d bounds --until, which is not given: want --until 'ci<2%%' as well, or --repeat %[1]d", r.most)
		}
		n := max(r.times, 1)
		return &repeat.Rule{Least: n, Most: n}, nil
	}
	rule := &repeat.Rule{Least: r.times, Most: r.most}
	for _, s := range r.until {
		p, err := repeat.ParsePrecision(s)
		if err != nil {
			return nil, fmt.Errorf("--until: %w", err)
		}
		rule.Until = append(rule.Until, p)
	}
	if rule.Least == 0 {
		rule.Least = fewestRuns
	}
	if rule.Most == 0 {
		rule.Most = mostRuns
	}
	if rule.Least < 2 || rule.Most < rule.Least {
		return nil, fmt.Errorf("--until from %d to %d runs: want a --repeat of 2 or more, and a --max-repeats that is not less", rule.Least, rule.Most)
	}
	return rule, nil
}

// repeat performs runs until there are enough. The error is the reason why that
// ended early; the set is nil if no run began.
func (o *options) repeat(ctx context.Context, rule *repeat.Rule, first *prepared, transport http.RoundTripper,
	record func(run int) func(loadgen.Sample), people, stderr io.Writer,
) (*repeat.Set, error) {
	var runs []*loadgen.Report
	for n := 0; ; n++ {
		p := first
		if n > 0 {
			var err error
			if p, err = o.withSeed(repeat.Seed(o.seed, "", n)).prepare(ctx, transport); err != nil {
				return repeat.NewSet(rule, runs), err
			}
		}
		if record != nil {
			p.config.Record = record(n)
		}
		report, cause := p.run(ctx, fmt.Sprintf("run %d of at most %d  ", n+1, rule.Most), stderr)
		if report == nil {
			return nil, cause // a wrong setting, which the first run would have had
		}
		runs = append(runs, report)
		if cause == nil {
			if cause = succeeded(report); cause != nil {
				report.Run.Ended = cause.Error() // its figures do not count
			}
		}
		set := repeat.NewSet(rule, runs)
		if cause != nil || rule.Enough(runs) {
			return set, cause
		}
		fmt.Fprintf(people, "after run %d  %s\n", n+1, soFar(set))
	}
}

// withSeed returns the same settings with another seed.
func (o *options) withSeed(seed uint64) *options {
	c := *o
	c.seed = seed
	return &c
}

// soFar says in one line what the runs of a set say together.
func soFar(s *repeat.Set) string {
	text := ""
	for _, f := range repeat.Brief {
		e, ok := s.Figures[f.String()]
		if !ok {
			continue
		}
		if text != "" {
			text += "  "
		}
		text += f.String() + " " + repeat.Text(f, e)
	}
	return text
}
