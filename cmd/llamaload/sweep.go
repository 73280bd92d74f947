// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

const sweepLong = `Makes a run with each combination of rates (or numbers of users), prompt lengths,
depths and answer lengths, and prints a table. Every run sends prompts of its own.

With --resume, finished runs are kept in a file, and the same command with the
same file goes on where it was interrupted. More elements may be added to its
lists, and more repeats.

Exit codes: 0 done, 1 interrupted, or a row of the table was not measured, 2 wrong
usage.`

const sweepExamples = `  # first token and speed at four rates
  llamaload sweep --url http://localhost:8080 --rates 1,2,4,8

  # 24 cells: users, prompts of 128 and 512 tokens after none and 4,096, answers of exactly 64 or 256
  llamaload sweep --users 1,4,8 --prompt-tokens 128,512 --depths 0,4096 --max-tokens 64,256 --ignore-eos

  # as often as it takes, and can be interrupted
  llamaload sweep --rates 1,2,4 --duration 1m --until 'ci<5%' --resume sweep.jsonl --markdown sweep.md`

// sweep holds the flags of a sweep. In options, promptTokens and maxTokens are lists.
type sweep struct {
	options
	repeats                       repetition
	rateList, userList, depthList string
	resume                        string
}

func sweepCommand(stdout, stderr io.Writer) *cobra.Command {
	var s sweep
	cmd := &cobra.Command{
		Use:     "sweep",
		Short:   "Measure a grid of loads",
		Long:    sweepLong,
		Example: sweepExamples,
		Args:    flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			s.chooseSeed(c.Flags())
			return s.run(c.Context(), c.Flags(), stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	s.target(f)
	f.StringVar(&s.rateList, "rates", "", "`list` of requests a second")
	f.StringVar(&s.userList, "users", "", "instead of rates, closed loops: `list` of numbers of users, each waiting for an answer before the next request")
	f.StringVar(&s.depthList, "depths", "", "`list` of tokens in context before those of each --prompt-tokens that has no @")
	s.span(f)
	s.limits(f, "constant")
	s.content(f)
	f.Lookup("prompt-tokens").Usage = "`list` of lengths of synthetic prompts, in tokens as llama-server counts: 128,512, ranges 100-500, or 512@4096 after 4,096 in context"
	f.Lookup("max-tokens").Usage = "`list` of most tokens to generate, numbers or ranges"
	s.repeats.flags(f)
	gridOutputs(f, &s.options, &s.resume)
	exclude(cmd)
	cmd.MarkFlagsMutuallyExclusive("rates", "users")
	return cmd
}

// gridOutputs defines the flags for the results of a grid.
func gridOutputs(f *pflag.FlagSet, o *options, resume *string) {
	f.StringVar(resume, "resume", "", "keep each finished run in this `file`; if it exists, go on where it ends")
	f.StringVar(&o.objective, "objective", "", "latency bounds that a good request meets, such as `'ttft<500ms && tpot<50ms'`")
	f.StringVar(&o.json, "json", "", "write the table and the reports of all runs as JSON to this `file`; - is standard output, as for the files below")
	f.StringVar(&o.csv, "csv", "", "write the table as CSV to this `file`")
	f.StringVar(&o.markdown, "markdown", "", "write the table as Markdown to this `file`")
	o.page(f)
}

func (s *sweep) run(ctx context.Context, f *pflag.FlagSet, stdout, stderr io.Writer) (err error) {
	rule, err := s.repeats.rule()
	if err != nil {
		return usageError{err}
	}
	axes, cells, err := s.cells(f)
	if err != nil {
		return usageError{err}
	}
	for _, c := range cells {
		if err := c.load.check(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.key(axes), err)
		}
	}
	from := &origin{Kind: "sweep", Seed: s.seed, Settings: settingsOf(f, append(axes, "depths")...)}
	g := &grid{axes: axes, cells: cells, rule: rule, lasts: s.duration, people: s.forPeople(stdout, stderr), stderr: stderr}
	if s.resume != "" {
		if g.journal, err = openJournal(s.resume, from, f.Changed("seed")); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.journal.close()) }()
	}
	transport, err := s.transport()
	if err != nil {
		return usageError{err}
	}
	defer transport.CloseIdleConnections()
	g.begin = func(_ context.Context, c *cell) (bench, error) {
		return &sweepBench{c.load, c.key(axes), from.Seed, transport, stderr}, nil
	}
	cause := g.run(ctx)
	return g.finish(&s.options, newGridDocument(g, from), cause, stdout)
}

// cells returns the names of what varies, and the combinations.
func (s *sweep) cells(f *pflag.FlagSet) (axes []string, cells []*cell, err error) {
	if s.rateList == "" && s.userList == "" {
		return nil, nil, errors.New("no load: want --rates 1,2,4 or --users 1,2,4")
	}
	lists := []struct {
		flag, list string
		set        func(o *options, v string) error
	}{
		{"rates", s.rateList, func(o *options, v string) (err error) {
			o.rate, err = strconv.ParseFloat(v, 64)
			return err
		}},
		{"users", s.userList, func(o *options, v string) (err error) {
			if o.users, err = strconv.Atoi(v); err == nil && o.users < 1 {
				err = errors.New("want 1 or more")
			}
			return err
		}},
		{"prompt-tokens", s.promptTokens, func(o *options, v string) error {
			o.promptTokens = v
			return nil
		}},
		{"max-tokens", s.maxTokens, func(o *options, v string) error {
			o.maxTokens = v
			return nil
		}},
	}
	lists[2].list, err = atDepths(s.promptTokens, s.depthList)
	if err != nil {
		return nil, nil, err
	}
	cells = []*cell{{load: &s.options}}
	for _, l := range lists {
		if !f.Changed(l.flag) {
			continue
		}
		values, err := splitList(l.flag, l.list)
		if err != nil {
			return nil, nil, err
		}
		axes = append(axes, l.flag)
		var all []*cell
		for _, c := range cells {
			for _, v := range values {
				o := *c.load
				if err := l.set(&o, v); err != nil {
					return nil, nil, fmt.Errorf("--%s %q: %w", l.flag, v, err)
				}
				all = append(all, &cell{values: append(c.values[:len(c.values):len(c.values)], v), load: &o})
			}
		}
		cells = all
	}
	return axes, cells, nil
}

// atDepths combines lengths of prompts with depths.
func atDepths(lengths, depths string) (string, error) {
	if depths == "" {
		return lengths, nil
	}
	if lengths == "" {
		return "", errors.New("--depths without the tokens after them: want --prompt-tokens as well")
	}
	deep, err := splitList("depths", depths)
	if err != nil {
		return "", err
	}
	var all []string
	for length := range strings.SplitSeq(lengths, ",") {
		if strings.Contains(length, "@") {
			all = append(all, length)
			continue
		}
		for _, d := range deep {
			if d == "0" {
				all = append(all, length)
				continue
			}
			all = append(all, length+"@"+d)
		}
	}
	return strings.Join(all, ","), nil
}

// sweepBench makes the runs of a cell of a sweep.
type sweepBench struct {
	o         *options
	part      string
	seed      uint64
	transport http.RoundTripper
	stderr    io.Writer
}

// All runs of a sweep are of one server, whose cache has the prompts of those before.
func (b *sweepBench) run(ctx context.Context, n int, label string) (*loadgen.Report, error) {
	return b.o.withSeed(repeat.Seed(b.seed, b.part, n)).measured(ctx, b.transport, label, b.stderr)
}

func (b *sweepBench) close() {}
