// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

func compareCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "compare A B",
		Short: "Say what differs between two reports",
		Long: `Compares the latencies of two reports that llamaload run --json wrote, with 99 %
bootstrap intervals. It refuses reports of different requests or schedules.`,
		Example: `  llamaload run --seed 1 --json before.json
  llamaload run --seed 1 --json after.json      # of another build, or the same one restarted
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
			all, err := loadgen.Compare(a, b)
			if err != nil {
				return usageError{err}
			}
			return printDifferences(stdout, a, b, all)
		},
	}
}

func loadReport(path string) (*loadgen.Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r loadgen.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w: want what llamaload run --json wrote", path, err)
	}
	l := r.Latency
	if r.Workload.Hash == "" || l.TTFT == nil || l.TPOT == nil || l.E2E == nil {
		return nil, fmt.Errorf("%s: no report of llamaload run: want what its --json wrote", path)
	}
	return &r, nil
}

func printDifferences(w io.Writer, a, b *loadgen.Report, all []loadgen.Difference) error {
	if len(all) == 0 {
		return errors.New("nothing to compare: no request succeeded in one of the reports")
	}
	for _, r := range []*loadgen.Report{a, b} {
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
	return t.Flush()
}
