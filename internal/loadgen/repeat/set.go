// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package repeat

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// Figures are the figures that a Set has estimates of.
var Figures = figures("requests_per_second", "output_tokens_per_second",
	"p50(ttft)", "p95(ttft)", "p99(ttft)", "mean(ttft)",
	"p50(tpot)", "p95(tpot)", "p99(tpot)", "mean(tpot)",
	"p50(e2e)", "p95(e2e)", "p99(e2e)", "mean(e2e)",
	"p99(lag)", "goodput", "error_rate", "drop_rate", "cache_hit_rate")

// Brief are those of Figures that tell the most in one line.
var Brief = figures("requests_per_second", "output_tokens_per_second",
	"p50(ttft)", "p95(ttft)", "p50(tpot)", "p50(e2e)", "p95(e2e)", "cache_hit_rate")

func figures(names ...string) (all []loadgen.Figure) {
	for _, name := range names {
		f, err := loadgen.ParseFigure(name)
		if err != nil {
			panic(err) // unreachable: a test looks at each
		}
		all = append(all, f)
	}
	return all
}

// Set is a number of runs that differ only in their seeds, and what they say
// together.
type Set struct {
	Level float64 `json:"level"`
	// Rule says how many runs were to be made. Precise reports whether they are as
	// precise as it wants; nil if it wants a number only.
	Rule    string `json:"rule"`
	Precise *bool  `json:"precise,omitempty"`
	// Figures are estimates by the names of figures, from the runs that were
	// completed.
	Figures map[string]Estimate `json:"figures"`
	Runs    []*loadgen.Report   `json:"runs"`
}

// NewSet returns the set of the given runs.
func NewSet(rule *Rule, runs []*loadgen.Report) *Set {
	s := &Set{Level: Level, Rule: rule.String(), Figures: map[string]Estimate{}, Runs: append([]*loadgen.Report{}, runs...)}
	done := s.Completed()
	for _, f := range Figures {
		if v := Values(f, done); len(v) > 0 {
			s.Figures[f.String()] = Of(v)
		}
	}
	if len(rule.Until) > 0 {
		met := rule.Met(done)
		s.Precise = &met
	}
	return s
}

// Completed returns the runs that did not end early.
func (s *Set) Completed() []*loadgen.Report {
	return slices.DeleteFunc(slices.Clone(s.Runs), func(r *loadgen.Report) bool { return !r.Completed() })
}

// lines returns pairs of a name and a text, like those of a report.
func (s *Set) lines() [][2]string {
	first := s.Runs[0]
	var (
		counts          loadgen.Counts
		input, cached   int
		limited, agrees int
		note            string
		compared        int
	)
	for _, r := range s.Runs {
		if r.Generator.Limited {
			limited++
			note = r.Generator.Note
		}
		counts = counts.Plus(r.Requests)
		input += r.Tokens.Input
		cached += r.Tokens.Cached
		if c := r.Reconciliation; c != nil {
			compared++
			if c.Agrees {
				agrees++
			}
		}
	}
	honesty := "generator kept up in each run"
	if limited > 0 {
		honesty = fmt.Sprintf("in %d of %d runs, such as: %s", limited, len(s.Runs), note)
	}
	runs := fmt.Sprintf("%d, wanted %s", len(s.Runs), s.Rule)
	switch last := s.Runs[len(s.Runs)-1]; {
	case !last.Completed():
		runs += ", the last ended early and is not counted below: " + last.Run.Ended
	case s.Precise != nil && *s.Precise:
		runs += ": reached"
	case s.Precise != nil:
		runs += ": NOT REACHED"
	}
	server := "nothing: " + first.NotReconciled
	if compared > 0 {
		server = fmt.Sprintf("the counters agree to the token in %d of %d runs", agrees, compared)
	}
	cache := "cache hit rate unknown: the server does not tell"
	if e, ok := s.Figures["cache_hit_rate"]; ok {
		cache = fmt.Sprintf("cache hit rate %.1f %%", 100*e.Mean)
	}
	return [][2]string{
		{"honesty", honesty},
		{"runs", runs},
		{"run", fmt.Sprintf("%s, %s", first.Run.URL, first.Run.Schedule)},
		{"workload", fmt.Sprintf("%s, %s, hash of the first %s, seeds from %d", first.Workload.Endpoint, first.Workload.Prompts, first.Workload.Hash, first.Workload.Seed)},
		{"requests", fmt.Sprintf("%d due, %d sent, %d ok, %d error, %d cancelled, %d dropped", counts.Due, counts.Sent, counts.OK, counts.Failed, counts.Cancelled, counts.Dropped)},
		{"tokens", fmt.Sprintf("%d input, %d cached (%s)", input, cached, cache)},
		{"server says", server},
	}
}

type row struct {
	figure      loadgen.Figure
	e           Estimate
	least, most float64
}

func (s *Set) rows() (all []row) {
	for _, f := range Figures {
		if e, ok := s.Figures[f.String()]; ok {
			v := Values(f, s.Completed())
			all = append(all, row{f, e, slices.Min(v), slices.Max(v)})
		}
	}
	return all
}

// Text returns the mean of a figure with half the width of its interval, such as
// 57.2ms ±1.3 %.
func Text(f loadgen.Figure, e Estimate) string {
	text := f.Unit().Format(e.Mean)
	if p, ok := e.Relative(); ok && f.Unit() != loadgen.Share {
		text += " ±" + percent(p)
	}
	return text
}

func percent(share float64) string {
	decimals := 1
	if share >= 0.1 {
		decimals = 0
	}
	return strconv.FormatFloat(share*100, 'f', decimals, 64) + " %"
}

// texts returns mean, interval, precision, least and most.
func (r row) texts() []string {
	u := r.figure.Unit()
	interval, precision := "unknown", "unknown"
	if r.e.Low != nil {
		interval = u.Format(*r.e.Low) + " to " + u.Format(*r.e.High)
	}
	if p, ok := r.e.Relative(); ok {
		precision = "±" + percent(p)
	}
	return []string{u.Format(r.e.Mean), interval, precision, u.Format(r.least), u.Format(r.most)}
}

// WriteText writes the set as plain text for people.
func (s *Set) WriteText(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, l := range s.lines() {
		fmt.Fprintf(t, "%s\t%s\n", l[0], l[1])
	}
	flush := t.Flush()
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "over runs\tmean\t%g %% interval\t\tleast\tmost\t\n", Level*100)
	for _, r := range s.rows() {
		fmt.Fprintf(t, "%s\t%s\t\n", r.figure, strings.Join(r.texts(), "\t"))
	}
	if err := errors.Join(flush, t.Flush()); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the set for an issue or a pull request.
func (s *Set) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, l := range s.lines() {
		fmt.Fprintf(&b, "- %s: %s\n", l[0], strings.ReplaceAll(l[1], "|", `\|`))
	}
	fmt.Fprintf(&b, "\n| over runs | mean | %g %% interval | | least | most |\n| --- | ---: | ---: | ---: | ---: | ---: |\n", Level*100)
	for _, r := range s.rows() {
		fmt.Fprintf(&b, "| %s | %s |\n", r.figure, strings.Join(r.texts(), " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteCSV writes one row for each figure, times in seconds.
func (s *Set) WriteCSV(w io.Writer) error {
	rows := [][]string{{"figure", "runs", "mean", "low", "high", "least", "most"}}
	for _, r := range s.rows() {
		rows = append(rows, []string{
			r.figure.String(), strconv.Itoa(r.e.Runs),
			loadgen.Number(&r.e.Mean), loadgen.Number(r.e.Low), loadgen.Number(r.e.High), loadgen.Number(&r.least), loadgen.Number(&r.most),
		})
	}
	return csv.NewWriter(w).WriteAll(rows)
}

// WriteJSON writes the set as indented JSON.
func (s *Set) WriteJSON(w io.Writer) error { return loadgen.WriteJSON(w, s) }
