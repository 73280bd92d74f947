// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

const runLong = `Sends requests to a server, and prints the progress and, at the end, a report.

By default it is an open loop: requests are sent when they are due, however slow
the answers are, and latency is measured from then. --users makes it a closed
loop, in which each user waits for an answer before the next request.

Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 3 a --fail-if came
true. Ctrl-C ends the run with a report; a second Ctrl-C exits at once.`

const runExamples = `  # two requests a second for thirty seconds, ten built-in prompts
  llamaload run --url http://localhost:8080

  # ten a second from independent users, without counting the first 10 s
  llamaload run --rate 10 --gaps poisson --duration 2m --warm-up 10s

  # 512 new tokens after 4,096 that are in the cache, 128 tokens each
  llamaload run --prompt-tokens 512@4096 --max-tokens 128 --ignore-eos

  # eight users, each thinking a second
  llamaload run --users 8 --think 1s

  # in CI: exit code 3 if it got slow
  llamaload run --rate 5 --fail-if 'p95(ttft)>2s' --fail-if 'error_rate>1%' --json report.json`

func runCommand(stdout, stderr io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Send requests and measure them",
		Long:    runLong,
		Example: runExamples,
		Args:    flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			o.chooseSeed(c.Flags())
			return o.run(c.Context(), stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.target(f)
	o.pace(f)
	o.limits(f, "constant")
	o.content(f)
	o.gpus(f)
	o.outputs(f)
	exclude(cmd)
	return cmd
}

// run performs a run, from parsing its settings to writing its report.
func (o *options) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	conditions, err := o.conditions()
	if err != nil {
		return usageError{err}
	}
	transport, err := o.transport()
	if err != nil {
		return usageError{err}
	}
	defer transport.CloseIdleConnections()
	config, schedule, err := o.config()
	if err != nil {
		return usageError{err}
	}
	client, server, err := o.clients(transport)
	if err != nil {
		return usageError{err}
	}
	work, prompts, err := o.workload(ctx, transport)
	if err != nil {
		return err
	}
	gpus, err := o.energySource(transport)
	if err != nil {
		return usageError{err}
	}
	if o.requests != "" {
		lines, opened := newLines(o.requests, stdout)
		if opened != nil {
			return opened
		}
		config.Record = lines.write
		defer func() { err = errors.Join(err, lines.close()) }()
	}
	people := stdout
	if slices.Contains([]string{o.json, o.csv, o.markdown, o.requests}, "-") {
		people = stderr // standard output is for programs then
	}

	metering := beginMetering(ctx, gpus, stderr)
	defer metering.Discard()
	about := loadgen.About{
		Version: version(), URL: server.Address(), Started: time.Now(), Schedule: schedule,
		Duration: o.duration.Seconds(), WarmUp: o.warmUp.Seconds(), Tail: o.tail.Seconds(), Ended: "done",
	}
	before, unavailable := o.before(ctx, server)
	r, err := loadgen.Start(ctx, *config, client, work)
	if err != nil {
		return usageError{err}
	}
	showProgress(r, config, stderr)
	results, cause := r.Wait()
	if cause != nil {
		about.Ended = cause.Error()
	}
	report := loadgen.NewReport(config, results, about, loadgen.Workload{
		Hash: work.Hash(), Endpoint: o.endpoint, Model: o.model, Prompts: prompts, Settings: work.Settings(),
	})
	endMetering(ctx, metering, report, results)
	report.NotReconciled = unavailable
	if before != nil {
		// Read the counters even after an interrupt, but only for a limited time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countersTimeout)
		defer cancel()
		report.Reconciliation, err = loadgen.AwaitCounters(ctx, server, o.model, before, results)
		if err != nil {
			report.NotReconciled = err.Error()
		}
	}
	if err := report.WriteText(people); err != nil {
		cause = errors.Join(cause, fmt.Errorf("print the report: %w", err))
	}
	return verdict(results, errors.Join(cause, o.files(report, stdout)), conditions)
}

// countersTimeout limits how long the server may take to return its counters.
const countersTimeout = 5 * time.Second

// before reads the server's counters. If they are nil, the string is the reason why
// they are unavailable.
func (o *options) before(ctx context.Context, server *llamaserver.Client) (*loadgen.Counters, string) {
	if o.endpoint == completion.Embeddings.String() {
		return nil, "the server's counters do not cover embeddings"
	}
	ctx, cancel := context.WithTimeout(ctx, countersTimeout)
	defer cancel()
	c, err := loadgen.ReadCounters(ctx, server, o.model)
	if err != nil {
		return nil, err.Error()
	}
	return c, ""
}

// verdict returns the error that decides the exit code.
func verdict(r *loadgen.Results, err error, conditions []loadgen.Condition) error {
	if err == nil && r.Counts.Due > 0 && r.Counts.OK+r.Counts.Cancelled == 0 {
		err = errors.New("no request succeeded: see the errors in the report")
	}
	if err != nil {
		return err
	}
	var held []string
	for _, c := range conditions {
		if c.Holds(r) {
			held = append(held, c.String())
		}
	}
	if len(held) > 0 {
		return fmt.Errorf("%w: %s", errFailIf, strings.Join(held, ", "))
	}
	return nil
}

// files writes the report's files. If one cannot be written, the others still are.
func (o *options) files(p *loadgen.Report, stdout io.Writer) error {
	var errs []error
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{{o.json, p.WriteJSON}, {o.csv, p.WriteCSV}, {o.markdown, p.WriteMarkdown}} {
		switch f.path {
		case "":
		case "-":
			errs = append(errs, f.write(stdout))
		default:
			errs = append(errs, writeFile(f.path, f.write))
		}
	}
	return errors.Join(errs...)
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("report: %w: the report is printed, but not in %s", err, path)
		}
	}()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		return b.Main.Version
	}
	return "unknown"
}
