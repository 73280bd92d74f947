// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

const matrixLong = `Starts a llama-server with each combination of flags, waits until it is healthy, warms
it up, measures it under the same load as the others, and stops it. The command
after -- is the server's, without what varies; llamaload adds --host and --port.

  --vary -c=2048,4096                  one value after another
  --vary --no-kv-offload               without the flag, and with it
  --vary '-fa on -ctk q8_0 | -fa off'  whole alternatives, which may be empty

A combination whose server does not start is a row with the reason, and the others
go on. With --resume, finished runs are kept in a file, and the same command with
the same file goes on where it was interrupted; what failed is tried again. More
alternatives may be added, and more repeats.

All combinations get the same requests. With --repeat or --until, those that may be
the best are marked in each column: the others are shown to be worse than another,
at a confidence of 95 % for the column as a whole.

Exit codes: 0 done, 1 interrupted, or a row of the table was not measured, 2 wrong
usage.`

const matrixExamples = `  # two contexts, two numbers of slots: four servers
  llamaload matrix --vary -c=8192,16384 --vary -np=2,4 --users 4 --repeat 5 -- llama-server -m model.gguf --metrics

  # batch sizes, flash attention, and the type of the cache, which needs it
  llamaload matrix --vary -b=1024,2048 --vary -ub=256,512 \
    --vary '-fa off | -fa on | -fa on -ctk q8_0 -ctv q8_0' --prompt-tokens 2000 --max-tokens 128 --ignore-eos \
    --until 'ci<2%' --resume matrix.jsonl --markdown matrix.md -- llama-server -m model.gguf -ngl 99 --metrics`

// matrix holds the flags of a matrix.
type matrix struct {
	options
	repeats      repetition
	vary         []string
	startTimeout time.Duration
	prime        int
	restart      bool
	resume       string

	command []string
	stderr  io.Writer
	build   string // of the servers so far
}

func matrixCommand(stdout, stderr io.Writer) *cobra.Command {
	var m matrix
	cmd := &cobra.Command{
		Use:     "matrix [flags] -- llama-server [flags of the server]",
		Short:   "Measure llama-server with each combination of its flags",
		Long:    matrixLong,
		Example: matrixExamples,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || c.ArgsLenAtDash() != 0 {
				return fmt.Errorf("want the server's command after --, such as -- llama-server -m model.gguf; see %s --help", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			m.chooseSeed(c.Flags())
			m.command = args
			return m.run(c.Context(), c.Flags(), stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&m.vary, "vary", nil, "`flag` of the server and its values, -c=2048,4096; a flag without a value; or alternatives separated by |; may be repeated")
	f.DurationVar(&m.startTimeout, "start-timeout", 10*time.Minute, "longest time until a server is healthy")
	f.IntVar(&m.prime, "prime", 0, "`number` of requests to warm each server up with; by default two for each slot")
	f.BoolVar(&m.restart, "restart", false, "start a server for each run, and take the combinations in turns, so that neither what differs from start to start nor a machine that gets slower looks like a difference")
	m.target(f)
	if err := f.MarkHidden("url"); err != nil {
		panic(err) // unreachable: target defines it
	}
	m.pace(f)
	m.limits(f, "constant")
	m.content(f)
	m.repeats.flags(f)
	gridOutputs(f, &m.options, &m.resume)
	exclude(cmd)
	return cmd
}

func (m *matrix) run(ctx context.Context, f *pflag.FlagSet, stdout, stderr io.Writer) (err error) {
	m.stderr = stderr
	rule, err := m.repeats.rule()
	if err != nil {
		return usageError{err}
	}
	axes, cells, err := m.cells(f)
	if err != nil {
		return usageError{err}
	}
	if err := m.check(ctx); err != nil {
		return err
	}
	from := &origin{Kind: "matrix", Seed: m.seed, Command: redacted(m.command), Settings: settingsOf(f)}
	g := &grid{
		axes: axes, cells: cells, rule: rule, begin: m.begin, turns: m.restart, lasts: m.duration,
		people: m.forPeople(stdout, stderr), stderr: stderr,
	}
	if m.resume != "" {
		if g.journal, err = openJournal(m.resume, from, f.Changed("seed")); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.journal.close()) }()
		for _, e := range g.journal.entries {
			if e.Server != nil {
				m.build = e.Server.Build
			}
		}
	}
	m.seed = from.Seed
	cause := g.run(ctx)
	return g.finish(&m.options, newGridDocument(g, from), cause, stdout)
}

// cells returns the names of what varies, and the combinations.
func (m *matrix) cells(f *pflag.FlagSet) (axes []string, cells []*cell, err error) {
	switch {
	case f.Changed("url"):
		return nil, nil, errors.New("--url: llamaload starts the servers itself: leave it out, or see llamaload sweep")
	case len(m.vary) == 0:
		return nil, nil, errors.New("nothing varies: want --vary -c=2048,4096 or the like")
	case m.prime < 0:
		return nil, nil, fmt.Errorf("--prime %d: want 0 or more", m.prime)
	case m.startTimeout <= 0:
		return nil, nil, fmt.Errorf("--start-timeout %s: want more than 0", m.startTimeout)
	}
	if m.command[0], err = exec.LookPath(m.command[0]); err != nil {
		return nil, nil, fmt.Errorf("the server's command: %w: want the path of a llama-server", err)
	}
	for _, flag := range []string{"--port", "--host"} {
		if has(m.command, flag) {
			return nil, nil, fmt.Errorf("%s in the server's command: llamaload adds it: leave it out", flag)
		}
	}
	cells = []*cell{{}}
	for _, text := range m.vary {
		a, err := parseAxis(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--vary %q: %w", text, err)
		}
		if a.name == whole {
			a.name = fmt.Sprintf("%s %d", whole, len(axes)+1)
		} else if slices.Contains(axes, a.name) {
			return nil, nil, fmt.Errorf("--vary %q: %s varies twice: want one list", text, a.name)
		}
		if has(m.command, a.name) {
			return nil, nil, fmt.Errorf("--vary %q: %s is in the server's command as well: leave it out there", text, a.name)
		}
		axes = append(axes, a.name)
		var all []*cell
		for _, c := range cells {
			for _, one := range a.alternatives {
				all = append(all, &cell{
					values: append(c.values[:len(c.values):len(c.values)], one.value),
					flags:  append(c.flags[:len(c.flags):len(c.flags)], one.flags...),
				})
			}
		}
		cells = all
	}
	return axes, cells, nil
}

// has reports whether a command has a flag.
func has(command []string, flag string) bool {
	return slices.ContainsFunc(command, func(s string) bool { return s == flag || strings.HasPrefix(s, flag+"=") })
}

// axis is what one --vary varies.
type axis struct {
	name         string
	alternatives []alternative
}

// whole is the name of an axis of whole alternatives, which may have several flags.
const whole = "flags"

type alternative struct {
	value string
	flags []string
}

// parseAxis parses -c=1,2 or --no-kv-offload or '-fa on | -fa off'.
func parseAxis(text string) (axis, error) {
	if strings.Contains(text, "|") {
		a := axis{name: whole}
		for part := range strings.SplitSeq(text, "|") {
			flags := strings.Fields(part)
			value := strings.Join(flags, " ")
			if value == "" {
				value = "none"
			} else if !strings.HasPrefix(value, "-") {
				return a, fmt.Errorf("%s is no flag: want whole alternatives, such as '-fa on | -fa off'", value)
			}
			if slices.ContainsFunc(a.alternatives, func(o alternative) bool { return o.value == value }) {
				return a, fmt.Errorf("%s is in it twice: want each alternative once", value)
			}
			a.alternatives = append(a.alternatives, alternative{value, flags})
		}
		return a, nil
	}
	name, list, valued := strings.Cut(strings.TrimSpace(text), "=")
	switch {
	case !strings.HasPrefix(name, "-") || strings.ContainsAny(name, " ,"):
		return axis{}, errors.New("want a flag and its values, -c=2048,4096; a flag without a value, --no-kv-offload; or alternatives, '-fa on | -fa off'")
	case !valued:
		return axis{name, []alternative{{"off", nil}, {"on", []string{name}}}}, nil
	}
	values, err := splitList("vary", list)
	if err != nil {
		return axis{}, err
	}
	if len(values) == 1 {
		return axis{}, fmt.Errorf("only one value: want %s %s after --, or more values", name, values[0])
	}
	a := axis{name: name}
	for _, v := range values {
		a.alternatives = append(a.alternatives, alternative{v, []string{name, v}})
	}
	return a, nil
}

// redacted returns a command without its API keys.
func redacted(command []string) []string {
	c := slices.Clone(command)
	for i, s := range c {
		if name, _, ok := strings.Cut(s, "="); ok && name == "--api-key" {
			c[i] = name + "=[REDACTED]"
		}
		if i > 0 && c[i-1] == "--api-key" {
			c[i] = "[REDACTED]"
		}
	}
	return c
}

// matrixBench makes the runs of a cell of a matrix.
type matrixBench struct {
	*matrix
	o    options // with the server's URL
	s    *startedServer
	cell *cell
}

// begin starts a server and warms it up.
func (m *matrix) begin(ctx context.Context, c *cell) (bench, error) {
	s, err := startServer(ctx, slices.Concat(m.command, c.flags), &m.options, m.startTimeout)
	if err != nil {
		return nil, err
	}
	b := &matrixBench{m, m.options, s, c}
	b.o.url = s.url
	c.server = &s.state
	if err := b.warmUp(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return b, nil
}

func (b *matrixBench) warmUp(ctx context.Context) error {
	switch build := b.s.state.Build; {
	case b.build != "" && build != "" && build != b.build:
		return fatal{fmt.Errorf("this llama-server is build %s, and the earlier runs were of %s: want the same, or another --resume", build, b.build)}
	default:
		b.build = build
	}
	slots := max(b.s.state.Slots, 1)
	o := b.o
	o.users, o.count, o.think = slots, uint64(2*slots), 0
	o.duration, o.warmUp, o.tail = 0, 0, 0
	if b.prime > 0 {
		o.count = uint64(b.prime)
	}
	_, err := o.withSeed(repeat.Seed(b.seed, "prime", len(b.cell.runs))).measured(ctx, b.s.transport, "warm-up  ", b.stderr)
	if err != nil {
		return fmt.Errorf("warm-up: %w", b.s.orEnd(err))
	}
	return nil
}

// Each cell has a server of its own, so that all can have the same requests.
func (b *matrixBench) run(ctx context.Context, n int, label string) (*loadgen.Report, error) {
	report, err := b.o.withSeed(repeat.Seed(b.seed, "", n)).measured(ctx, b.s.transport, label, b.stderr)
	b.s.readMemory()
	state := b.s.state
	b.cell.server = &state
	return report, b.s.orEnd(err)
}

func (b *matrixBench) close() { b.s.stop() }
