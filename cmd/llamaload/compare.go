// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

func compareCommand(stdout, stderr io.Writer) *cobra.Command {
	var html string
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Say what differs between two reports",
		Long: `Compares the latencies of two reports that llamaload run --json wrote, with 99 %
intervals. If both are of repeated runs, the intervals are over runs, by Welch's t;
otherwise they are over the requests of the two runs, by a bootstrap. It refuses
reports of different requests or schedules.`,
		Example: `  llamaload run --seed 1 --repeat 5 --json before.json
  llamaload run --seed 1 --repeat 5 --json after.json   # of another build, or the same one restarted
  llamaload compare before.json after.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%d arguments: want two reports that llamaload run --json wrote", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := loadReport(args[0])
			if err != nil {
				return usageError{err}
			}
			b, err := loadReport(args[1])
			if err != nil {
				return usageError{err}
			}
			people := stdout
			if html == "-" {
				people = stderr
			}
			return a.compare(b, html, people, stdout)
		},
	}
	cmd.Flags().StringVar(&html, "html", "", "write the comparison and both reports as a page to this `file`, which needs no network to be looked at; - is standard output")
	return cmd
}

// compared is a report of one run, or of several.
type compared struct {
	run  *loadgen.Report
	runs *repeat.Set // nil for one
}

// compare prints the differences, and writes them as a page to the file html.
func (a *compared) compare(b *compared, html string, people, stdout io.Writer) error {
	if (a.runs == nil) != (b.runs == nil) {
		return usageError{errors.New("one report is of several runs, the other of one: want --repeat or --until for both, or for none")}
	}
	if a.runs == nil {
		all, err := loadgen.Compare(a.run, b.run)
		if err != nil {
			return usageError{err}
		}
		const over = "The intervals are over the requests of one run each, which are not independent: they are somewhat too narrow. --repeat 5 gives better ones."
		return errors.Join(printDifferences(people, []*loadgen.Report{a.run, b.run}, all, over),
			writeFiles(stdout, file{html, asPage(newComparison(a.run, b.run, all, over))}))
	}
	all, err := repeat.Compare(a.runs, b.runs)
	if err != nil {
		return usageError{err}
	}
	ra, rb := a.runs.Completed(), b.runs.Completed()
	over := fmt.Sprintf("The figures are means over runs, and the intervals are over runs, which are independent: %d of A, %d of B.", len(ra), len(rb))
	return errors.Join(printDifferences(people, slices.Concat(ra, rb), all, over),
		writeFiles(stdout, file{html, asPage(newComparison(a.runs, b.runs, all, over))}))
}

// comparison is what compare found out, as the page takes it. Times are in seconds.
type comparison struct {
	Kind        string       `json:"llamaload"` // compare
	A           any          `json:"a"`         // a report, or a set of them
	B           any          `json:"b"`
	Differences []difference `json:"differences"`
	// Over says what the intervals are over.
	Over string `json:"over"`
}

type difference struct {
	Metric    string  `json:"metric"`
	Statistic string  `json:"statistic"`
	A         float64 `json:"a"`
	B         float64 `json:"b"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	Shown     bool    `json:"shown"`
}

func newComparison(a, b any, all []loadgen.Difference, over string) comparison {
	c := comparison{Kind: "compare", A: a, B: b, Differences: []difference{}, Over: over}
	for _, d := range all {
		c.Differences = append(c.Differences, difference{
			d.Metric, d.Statistic, d.A.Seconds(), d.B.Seconds(), d.Low.Seconds(), d.High.Seconds(), d.Shown(),
		})
	}
	return c
}

func loadReport(path string) (*compared, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Kind string            `json:"llamaload"`
		Runs []json.RawMessage `json:"runs"`
	}
	if err := json.Unmarshal(b, &kind); err != nil {
		return nil, fmt.Errorf("%s: %w: want what llamaload run --json wrote", path, err)
	}
	if kind.Kind != "" {
		return nil, fmt.Errorf("%s: of llamaload %s, whose own table compares: want what llamaload run --json wrote", path, kind.Kind)
	}
	var c compared
	var runs []*loadgen.Report
	if kind.Runs == nil {
		c.run = &loadgen.Report{}
		err = json.Unmarshal(b, c.run)
		runs = append(runs, c.run)
	} else {
		c.runs = &repeat.Set{}
		err = json.Unmarshal(b, c.runs)
		runs = c.runs.Runs
	}
	for _, r := range runs {
		if err == nil {
			err = checkReport(r)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: want what llamaload run --json wrote", path, err)
	}
	return &c, nil
}

// checkReport returns an error if what was read is not a whole report.
func checkReport(r *loadgen.Report) error {
	l := r.Latency
	if r.Workload.Hash == "" || l.TTFT == nil || l.TPOT == nil || l.E2E == nil {
		return errors.New("no report of llamaload run")
	}
	return nil
}

// printDifferences prints a table of differences. over says what the intervals are
// over.
func printDifferences(w io.Writer, runs []*loadgen.Report, all []loadgen.Difference, over string) error {
	if len(all) == 0 {
		return errors.New("nothing to compare: no request succeeded in one of the reports")
	}
	for _, r := range runs {
		if r.Generator.Limited {
			fmt.Fprintln(w, r.Generator.Note)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "latency\t\tA\tB\tB - A\t99 % interval\t")
	for _, d := range all {
		verdict := "no difference shown"
		if d.Shown() {
			verdict = fmt.Sprintf("%.1f %% slower", 100*(float64(d.B)/float64(d.A)-1))
			if d.B < d.A {
				verdict = fmt.Sprintf("%.1f %% faster", 100*(1-float64(d.B)/float64(d.A)))
			}
		}
		short := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s to %s\t%s\n", d.Metric, d.Statistic, short(d.A), short(d.B), short(d.B-d.A), short(d.Low), short(d.High), verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", over)
	return err
}
