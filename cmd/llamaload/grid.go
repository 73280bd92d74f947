// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// grid makes runs with each combination of some settings.
type grid struct {
	axes  []string // names of the settings
	cells []*cell
	rule  *repeat.Rule
	// begin prepares the runs of a cell.
	begin func(ctx context.Context, c *cell) (bench, error)
	// turns makes one run of each cell, then the next of each, and so on.
	turns bool
	lasts time.Duration // a run; 0 where that is unknown
	// journal keeps the runs; nil does not.
	journal        *journal
	people, stderr io.Writer
}

// cell is one combination.
type cell struct {
	values []string // of the axes
	runs   []*loadgen.Report
	// failure is why the runs are not complete, and partial the run that ended early.
	failure error
	partial *loadgen.Report

	load   *options // of a sweep
	flags  []string // of a matrix
	server *serverState
}

// key identifies the cell in the journal.
func (c *cell) key(axes []string) string {
	parts := make([]string, len(axes))
	for i, a := range axes {
		parts[i] = a + "=" + c.values[i]
	}
	return strings.Join(parts, " ")
}

// bench makes the runs of a cell.
type bench interface {
	// run makes a run with the label before its progress. The report is nil if the
	// run did not begin, and the error the reason why it failed.
	run(ctx context.Context, n int, label string) (*loadgen.Report, error)
	close()
}

// fatal is an error that ends a grid, not only a cell.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// run fills the cells. The error is the reason why that ended early.
func (g *grid) run(ctx context.Context) error {
	for _, c := range g.cells {
		if g.journal != nil {
			g.journal.restore(c, g.axes)
		}
	}
	g.announce()
	t := g.live()
	fmt.Fprintln(g.people, t.heading())
	for todo := g.cells; len(todo) > 0; {
		var unfinished []*cell
		for _, c := range todo {
			err := g.fill(ctx, c)
			if err == nil && c.failure == nil && !g.rule.Enough(c.runs) {
				unfinished = append(unfinished, c)
				continue
			}
			fmt.Fprintln(g.people, t.row(c))
			if err != nil {
				return err
			}
		}
		todo = unfinished
	}
	return nil
}

// announce tells how much there is to do.
func (g *grid) announce() {
	kept, least := 0, 0
	for _, c := range g.cells {
		kept += len(c.runs)
		if !g.rule.Enough(c.runs) {
			least += max(g.rule.Least-len(c.runs), 1)
		}
	}
	fmt.Fprintf(g.people, "%d rows of %s", len(g.cells), g.rule)
	if kept > 0 {
		fmt.Fprintf(g.people, "; %d runs are in %s", kept, g.journal.path)
	}
	fmt.Fprintf(g.people, "; at least %s\n\n", time.Duration(least)*g.lasts)
}

// fill makes the runs of a cell that are missing, only one if the cells take turns.
// What goes wrong is the cell's failure, and the error only what ends the grid.
func (g *grid) fill(ctx context.Context, c *cell) error {
	if g.rule.Enough(c.runs) {
		return nil
	}
	b, err := g.begin(ctx, c)
	if err != nil {
		return c.fail(ctx, err)
	}
	defer b.close()
	for !g.rule.Enough(c.runs) {
		n := len(c.runs)
		report, err := b.run(ctx, n, fmt.Sprintf("%d/%d %s  run %d  ", slices.Index(g.cells, c)+1, len(g.cells), c.key(g.axes), n+1))
		if err != nil {
			if report != nil && report.Completed() {
				report.Run.Ended = err.Error() // its figures do not count
			}
			c.partial = report
			return c.fail(ctx, err)
		}
		c.runs = append(c.runs, report)
		if g.journal != nil {
			if err := g.journal.add(c, n, g.axes); err != nil {
				return err
			}
		}
		if g.turns {
			break
		}
	}
	return nil
}

// fail notes an error, which it returns if it is about more than the cell.
func (c *cell) fail(ctx context.Context, err error) error {
	var f fatal
	switch {
	case ctx.Err() != nil:
		c.failure = context.Cause(ctx)
		return c.failure
	case errors.As(err, &f):
		c.failure = f.error
		return f.error
	}
	c.failure = err
	return nil
}

// missing returns an error if a cell does not have all its runs.
func (g *grid) missing() error {
	n := 0
	for _, c := range g.cells {
		if !g.rule.Enough(c.runs) {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d rows were not measured: the reasons are below the table", n, len(g.cells))
	}
	return nil
}

// finish prints the results, writes their files and returns the error that decides
// the exit code.
func (g *grid) finish(o *options, d *gridDocument, cause error, stdout io.Writer) error {
	fmt.Fprintln(g.people)
	if err := d.WriteText(g.people); err != nil {
		cause = errors.Join(cause, fmt.Errorf("print the report: %w", err))
	}
	if cause == nil {
		cause = g.missing()
	}
	return errors.Join(cause, o.files(d, stdout))
}

// check returns an error if the settings are wrong, without asking a server.
func (o *options) check(ctx context.Context) error {
	c := *o
	if c.promptTokens != "" {
		l, err := workload.ParseLengths(c.promptTokens)
		if err != nil {
			return usageError{fmt.Errorf("--prompt-tokens: %w", err)}
		}
		l.Shared = c.sharedPrefix
		if err := l.Validate(); err != nil {
			return usageError{fmt.Errorf("--shared-prefix: %w", err)}
		}
		c.promptTokens, c.sharedPrefix, c.coldDepth = "", 0, false
	}
	_, err := c.prepare(ctx, http.DefaultTransport)
	return err
}

// measured performs a run of a cell. Unlike that of prepared.run, the error tells
// what the requests failed of.
func (o *options) measured(ctx context.Context, transport http.RoundTripper, label string, stderr io.Writer) (*loadgen.Report, error) {
	p, err := o.prepare(ctx, transport)
	if err != nil {
		return nil, err
	}
	report, err := p.run(ctx, label, stderr)
	switch r := report; {
	case err != nil:
	case r.Requests.Due == 0:
		err = errors.New("no request was due after the warm-up: want a longer --duration")
	case succeeded(r) != nil:
		err = errors.New("no request succeeded")
	}
	if err != nil && report != nil && len(report.Examples) > 0 && ctx.Err() == nil {
		class := slices.Sorted(maps.Keys(report.Examples))[0]
		err = fmt.Errorf("%w: such as: %s", err, report.Examples[class])
	}
	return report, err
}

// splitList splits a list with commas into its elements, each of which may occur
// once.
func splitList(flag, list string) ([]string, error) {
	all := strings.Split(list, ",")
	for i, s := range all {
		if all[i] = strings.TrimSpace(s); all[i] == "" {
			return nil, fmt.Errorf("--%s %q: an element is empty: want a list such as 1,2,4", flag, list)
		}
		if slices.Contains(all[:i], all[i]) {
			return nil, fmt.Errorf("--%s %q: %s is in it twice: want each once", flag, list, all[i])
		}
	}
	return all, nil
}
