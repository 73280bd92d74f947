// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/page"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
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

  # conversations of four turns, ten new ones a minute, thinking 20 s before each turn
  llamaload run --rate 0.17 --turns 4 --think 20s --prompt-tokens 200

  # as often as it takes to know first token and speed within 2 %
  llamaload run --rate 10 --gaps poisson --until 'ci<2%'

  # in CI: exit code 3 if it got slow
  llamaload run --rate 5 --fail-if 'p95(ttft)>2s' --fail-if 'error_rate>1%' --json report.json`

func runCommand(stdout, stderr io.Writer) *cobra.Command {
	var (
		o       options
		repeats repetition
	)
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Send requests and measure them",
		Long:    runLong,
		Example: runExamples,
		Args:    flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			o.chooseSeed(c.Flags())
			return o.run(c.Context(), &repeats, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.target(f)
	o.pace(f)
	o.limits(f, "constant")
	o.content(f)
	f.StringVar(&o.turns, "turns", "", "conversations of so many turns, a number or a `range`: each turn has all before it in context, with the server's answers. --rate and --count are of conversations then")
	o.gpus(f)
	repeats.flags(f)
	o.outputs(f)
	exclude(cmd)
	return cmd
}

// run performs one run or several, from parsing the settings to writing the report.
func (o *options) run(ctx context.Context, repeats *repetition, stdout, stderr io.Writer) (err error) {
	conditions, err := o.conditions()
	if err != nil {
		return usageError{err}
	}
	rule, err := repeats.rule()
	if err != nil {
		return usageError{err}
	}
	transport, err := o.transport()
	if err != nil {
		return usageError{err}
	}
	defer transport.CloseIdleConnections()
	first, err := o.prepare(ctx, transport)
	if err != nil {
		return err
	}
	var record func(run int) func(loadgen.Sample)
	if o.requests != "" {
		lines, opened := newLines(o.requests, stdout)
		if opened != nil {
			return opened
		}
		record = lines.of
		defer func() { err = errors.Join(err, lines.close()) }()
	}
	people := o.forPeople(stdout, stderr)
	if rule.Most > 1 {
		set, cause := o.repeat(ctx, rule, first, transport, record, people, stderr)
		if set == nil {
			return cause
		}
		return o.finish(set, set.Runs, cause, conditions, people, stdout)
	}
	if record != nil {
		first.config.Record = record(0)
	}
	report, cause := first.run(ctx, "", stderr)
	if report == nil {
		return cause
	}
	return o.finish(report, []*loadgen.Report{report}, cause, conditions, people, stdout)
}

// prepared is a run that can begin.
type prepared struct {
	o                 *options
	config            *loadgen.Config
	client            *completion.Client
	server            *llamaserver.Client
	work              *workload.Workload
	gpus              *energy.Source // nil: not read
	schedule, prompts string
}

// prepare makes the parts of a run from its settings. For synthetic prompts, it asks
// the server for its tokens.
func (o *options) prepare(ctx context.Context, transport http.RoundTripper) (*prepared, error) {
	p := &prepared{o: o}
	var err error
	if p.config, p.schedule, err = o.config(); err != nil {
		return nil, usageError{err}
	}
	if p.client, p.server, err = o.clients(transport); err != nil {
		return nil, usageError{err}
	}
	if p.gpus, err = o.energySource(transport); err != nil {
		return nil, usageError{err}
	}
	if p.work, p.prompts, err = o.workload(ctx, transport); err != nil {
		return nil, err
	}
	return p, nil
}

// run performs the run. label is printed before its progress. The error is the
// reason why the run ended early; the report is nil if it did not begin.
func (p *prepared) run(ctx context.Context, label string, stderr io.Writer) (*loadgen.Report, error) {
	o := p.o
	metering := beginMetering(ctx, p.gpus, stderr)
	defer metering.Discard()
	about := loadgen.About{
		Version: version(), URL: p.server.Address(), Started: time.Now(), Schedule: p.schedule,
		Duration: o.duration.Seconds(), WarmUp: o.warmUp.Seconds(), Tail: o.tail.Seconds(), Ended: loadgen.Done,
	}
	recorded := o.recorded.follow(p.config)
	before, unavailable := o.before(ctx, p.server)
	r, err := loadgen.Start(ctx, *p.config, p.client, p.work)
	if err != nil {
		return nil, usageError{err}
	}
	showProgress(r, p.config, label, stderr)
	results, cause := r.Wait()
	if cause != nil {
		about.Ended = cause.Error()
	}
	report := loadgen.NewReport(p.config, results, about, loadgen.Workload{
		Hash: p.work.Hash(), Endpoint: o.endpoint, Model: o.model, Prompts: p.prompts, Settings: p.work.Settings(),
	})
	endMetering(ctx, metering, report, results)
	report.NotReconciled, report.Recorded = unavailable, recorded
	if before != nil {
		// Read the counters even after an interrupt, but only for a limited time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countersTimeout)
		defer cancel()
		report.Reconciliation, err = loadgen.AwaitCounters(ctx, p.server, o.model, before, results)
		if err != nil {
			report.NotReconciled = err.Error()
		}
	}
	return report, cause
}

// document is a report of one run or of several.
type document interface {
	WriteText(w io.Writer) error
	WriteJSON(w io.Writer) error
	WriteCSV(w io.Writer) error
	WriteMarkdown(w io.Writer) error
}

// forPeople returns where to print what is for people.
func (o *options) forPeople(stdout, stderr io.Writer) io.Writer {
	if slices.Contains([]string{o.json, o.csv, o.markdown, o.html, o.requests}, "-") {
		return stderr // standard output is for programs then
	}
	return stdout
}

// finish prints a document, writes its files and returns the error that decides the
// exit code.
func (o *options) finish(d document, runs []*loadgen.Report, cause error, conditions []loadgen.Condition, people, stdout io.Writer) error {
	if err := d.WriteText(people); err != nil {
		cause = errors.Join(cause, fmt.Errorf("print the report: %w", err))
	}
	return verdict(runs, errors.Join(cause, o.files(d, stdout)), conditions)
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
func verdict(runs []*loadgen.Report, err error, conditions []loadgen.Condition) error {
	for _, r := range runs {
		if err == nil {
			err = succeeded(r)
		}
	}
	if err != nil {
		return err
	}
	var held []string
	for _, c := range conditions {
		if c.Holds(runs...) {
			held = append(held, c.String())
		}
	}
	if len(held) > 0 {
		return fmt.Errorf("%w: %s", errFailIf, strings.Join(held, ", "))
	}
	return nil
}

// succeeded returns an error if a run sent requests and none succeeded.
func succeeded(p *loadgen.Report) error {
	if r := p.Requests; r.Due > 0 && r.OK+r.Cancelled == 0 {
		return errors.New("no request succeeded: see the errors in the report")
	}
	return nil
}

// files writes the document's files.
func (o *options) files(d document, stdout io.Writer) error {
	return writeFiles(stdout, file{o.json, d.WriteJSON}, file{o.csv, d.WriteCSV}, file{o.markdown, d.WriteMarkdown}, file{o.html, asPage(d)})
}

// file is where to write something: "-" is standard output, "" nowhere.
type file struct {
	path  string
	write func(io.Writer) error
}

// writeFiles writes the files. If one cannot be written, the others still are.
func writeFiles(stdout io.Writer, files ...file) error {
	var errs []error
	for _, f := range files {
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

// asPage returns a function that writes what a command found out, in the form of
// its JSON, as one HTML file.
func asPage(found any) func(io.Writer) error {
	return func(w io.Writer) error {
		return page.Export(w, page.Data{Kind: page.KindLoad, Reports: []any{found}})
	}
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

// release is the version that make sets.
var release string

func version() string {
	if release != "" {
		return release
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		return b.Main.Version
	}
	return "unknown"
}
