// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

// gridDocument is the result of a sweep or a matrix.
type gridDocument struct {
	origin
	Rule string `json:"rule"`
	// MayBeBest has, for each figure, the indexes of the cells that may be the best,
	// as repeat.MayBeBest says. Only a matrix has it, and only with repeats: the
	// cells of a sweep are different loads, none of which is to be chosen.
	MayBeBest map[string][]int `json:"may_be_best,omitempty"`
	Cells     []gridCell       `json:"cells"`

	axes []string
}

type gridCell struct {
	// Settings are the values of what varies.
	Settings map[string]string `json:"settings"`
	// Flags are those that vary, as the server got them.
	Flags  []string     `json:"flags,omitempty"`
	Server *serverState `json:"server,omitempty"`
	// Failed is why the cell does not have all runs, and Log the end of the server's
	// log if that is where the reason is.
	Failed string `json:"failed,omitempty"`
	Log    string `json:"log,omitempty"`
	*repeat.Set

	values []string
}

func newGridDocument(g *grid, o *origin) *gridDocument {
	d := &gridDocument{origin: *o, Rule: g.rule.String(), axes: g.axes}
	for _, c := range g.cells {
		d.Cells = append(d.Cells, newGridCell(g, c))
	}
	if o.Kind == "matrix" {
		d.findBest()
	}
	return d
}

func newGridCell(g *grid, c *cell) gridCell {
	out := gridCell{Settings: map[string]string{}, Flags: c.flags, Server: c.server, values: c.values}
	for i, a := range g.axes {
		out.Settings[a] = c.values[i]
	}
	if c.failure != nil {
		out.Failed = c.failure.Error()
		var s *serverError
		if errors.As(c.failure, &s) {
			out.Log = s.log
		}
	}
	runs := c.runs
	if c.partial != nil {
		runs = append(runs[:len(runs):len(runs)], c.partial)
	}
	out.Set = repeat.NewSet(g.rule, runs)
	return out
}

// findBest fills MayBeBest.
func (d *gridDocument) findBest() {
	for _, f := range repeat.Brief {
		if f.Unit() == loadgen.Share {
			continue // no choice is better for it
		}
		values := make([][]float64, len(d.Cells))
		for i, c := range d.Cells {
			values[i] = repeat.Values(f, c.Completed())
		}
		var best []int
		for i, may := range repeat.MayBeBest(values, f.MoreIsBetter()) {
			if may {
				best = append(best, i)
			}
		}
		if best == nil {
			continue
		}
		if d.MayBeBest == nil {
			d.MayBeBest = map[string][]int{}
		}
		d.MayBeBest[f.String()] = best
	}
}

// columns are headings of the figures.
var columns = map[string]string{
	"requests_per_second": "requests", "output_tokens_per_second": "tokens out", "cache_hit_rate": "cached",
	"p50(ttft)": "ttft p50", "p95(ttft)": "ttft p95", "p50(tpot)": "tpot p50", "p50(e2e)": "e2e p50", "p95(e2e)": "e2e p95",
}

// heading returns the headings of all columns of a table.
func heading(axes []string, servers bool) []string {
	h := append(slices.Clone(axes), "runs")
	for _, f := range repeat.Brief {
		h = append(h, columns[f.String()])
	}
	if servers {
		h = append(h, "load", "memory")
	}
	return append(h, "note")
}

// row returns the texts of a cell.
func (c *gridCell) row(servers bool) []string {
	r := slices.Clone(c.values)
	r = append(r, strconv.Itoa(len(c.Completed())))
	for _, f := range repeat.Brief {
		text := "-"
		if e, ok := c.Figures[f.String()]; ok {
			text = repeat.Text(f, e)
		}
		r = append(r, text)
	}
	if servers {
		load, memory := "-", "-"
		if s := c.Server; s != nil {
			load = loadgen.Seconds.Format(s.Load)
			if s.PeakMemory > 0 {
				memory = fmt.Sprintf("%d MiB", s.PeakMemory>>20)
			}
		}
		r = append(r, load, memory)
	}
	return append(r, c.note())
}

// noteRunes is the longest note that keeps a table readable.
const noteRunes = 60

// note tells in a few words why the figures are not to be trusted, or not there.
func (c *gridCell) note() string {
	if r := []rune(c.Failed); len(r) > noteRunes {
		return string(r[:noteRunes]) + "…"
	}
	if c.Failed != "" {
		return c.Failed
	}
	if slices.ContainsFunc(c.Runs, func(r *loadgen.Report) bool { return r.Generator.Limited }) {
		return "GENERATOR WAS THE BOTTLENECK"
	}
	if c.Precise != nil && !*c.Precise && len(c.Runs) > 0 {
		return "not as precise as asked for"
	}
	return ""
}

// table returns the heading and the texts of all cells, without empty columns, and
// with marks on those that may be the best where others are not.
func (d *gridDocument) table() [][]string {
	servers := d.Kind == "matrix"
	all := [][]string{heading(d.axes, servers)}
	for i, c := range d.Cells {
		r := c.row(servers)
		for j, f := range repeat.Brief {
			if best := d.MayBeBest[f.String()]; slices.Contains(best, i) && len(best) < d.measured(f) {
				r[len(d.axes)+1+j] += " *"
			}
		}
		all = append(all, r)
	}
	for j := len(all[0]) - 1; j >= 0; j-- {
		if !slices.ContainsFunc(all[1:], func(r []string) bool { return r[j] != "" && r[j] != "-" }) {
			for i, r := range all {
				all[i] = slices.Delete(r, j, j+1)
			}
		}
	}
	return all
}

// measured returns the number of cells that have a figure.
func (d *gridDocument) measured(f loadgen.Figure) (n int) {
	for _, c := range d.Cells {
		if _, ok := c.Figures[f.String()]; ok {
			n++
		}
	}
	return n
}

// lines returns pairs of a name and a text, like those of a report.
func (d *gridDocument) lines() [][2]string {
	var (
		runs, limited int
		first         *loadgen.Report
	)
	for _, c := range d.Cells {
		for _, r := range c.Runs {
			if first == nil {
				first = r
			}
			runs++
			if r.Generator.Limited {
				limited++
			}
		}
	}
	honesty := fmt.Sprintf("generator kept up in all %d runs", runs)
	switch {
	case runs == 0:
		honesty = "no run was made"
	case limited > 0:
		honesty = fmt.Sprintf("GENERATOR WAS THE BOTTLENECK in %d of %d runs", limited, runs)
	}
	lines := [][2]string{{"honesty", honesty}}
	if d.Kind == "matrix" {
		lines = append(lines, [2]string{"server", strings.Join(d.Command, " ")})
	}
	lines = append(lines, [2]string{"runs", "for each row " + d.Rule})
	if first == nil {
		return lines
	}
	if d.Kind == "matrix" {
		lines = append(lines, [2]string{"load", first.Run.Schedule},
			[2]string{"workload", fmt.Sprintf("%s, %s, hash of the first run %s, seed %d", first.Workload.Endpoint, first.Workload.Prompts, first.Workload.Hash, d.Seed)})
	} else {
		lines = append(lines, [2]string{"server", first.Run.URL}, [2]string{"workload", fmt.Sprintf("%s, seed %d", first.Workload.Endpoint, d.Seed)})
	}
	return lines
}

// remarks returns what is to be said below the table.
func (d *gridDocument) remarks() (all []string) {
	if d.Kind == "matrix" && len(d.Cells) > 1 {
		all = append(all, d.bestRemarks()...)
	}
	for _, c := range d.Cells {
		if c.Log != "" || c.Failed != "" && c.note() != c.Failed {
			text := "not measured: " + c.name(d.axes) + ": " + c.Failed
			if c.Log != "" {
				text += "; the last lines of the server's log:\n" + c.Log
			}
			all = append(all, text)
		}
	}
	return all
}

func (d *gridDocument) bestRemarks() []string {
	if slices.ContainsFunc(d.Cells, func(c gridCell) bool { return len(c.Completed()) == 1 }) {
		return []string{"No best is marked: one run of a row says nothing about how its runs differ. --repeat 5 does."}
	}
	var all, undecided []string
	for _, f := range repeat.Brief {
		if best, ok := d.MayBeBest[f.String()]; ok && len(best) == d.measured(f) {
			undecided = append(undecided, columns[f.String()])
		}
	}
	if len(undecided) < len(d.MayBeBest) {
		all = append(all, fmt.Sprintf("* may be the best of its column, at %g %% confidence: rows without it are shown to be worse than another.", repeat.Level*100))
	}
	if len(undecided) > 0 {
		all = append(all, "no difference shown: "+strings.Join(undecided, ", "))
	}
	return all
}

func (c *gridCell) name(axes []string) string {
	parts := make([]string, len(axes))
	for i, a := range axes {
		parts[i] = c.values[i]
		if !strings.HasPrefix(parts[i], "-") { // a whole alternative names its flags
			parts[i] = a + " " + parts[i]
		}
	}
	return strings.Join(parts, ", ")
}

// WriteText writes the table for people.
func (d *gridDocument) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range d.lines() {
		fmt.Fprintf(t, "%s\t%s\n", l[0], l[1])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range d.table() {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, r := range d.remarks() {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, r)
	}
	return nil
}

// WriteMarkdown writes the table for an issue or a pull request.
func (d *gridDocument) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, l := range d.lines() {
		fmt.Fprintf(&b, "- %s: %s\n", l[0], cellText(l[1]))
	}
	b.WriteByte('\n')
	for i, r := range d.table() {
		for j := range r {
			r[j] = cellText(r[j])
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", len(r)))
		}
	}
	b.WriteByte('\n')
	for _, r := range d.remarks() {
		first, rest, more := strings.Cut(r, "\n")
		fmt.Fprintf(&b, "- %s\n", cellText(first))
		if more {
			fmt.Fprintf(&b, "\n  ```text\n  %s\n  ```\n", strings.ReplaceAll(rest, "\n", "\n  "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var cellEscapes = strings.NewReplacer("|", `\|`, "*", `\*`, "\n", " ")

func cellText(s string) string { return cellEscapes.Replace(s) }

// WriteCSV writes one row for each cell: what varies, the runs, and mean, low and
// high of each figure, times in seconds.
func (d *gridDocument) WriteCSV(w io.Writer) error {
	h := append(slices.Clone(d.axes), "runs")
	for _, f := range repeat.Figures {
		h = append(h, f.String(), f.String()+" low", f.String()+" high")
	}
	h = append(h, "load_seconds", "peak_memory_bytes", "failed")
	rows := [][]string{h}
	for _, c := range d.Cells {
		r := append(slices.Clone(c.values), strconv.Itoa(len(c.Completed())))
		for _, f := range repeat.Figures {
			e, ok := c.Figures[f.String()]
			if !ok {
				r = append(r, "", "", "")
				continue
			}
			r = append(r, loadgen.Number(&e.Mean), loadgen.Number(e.Low), loadgen.Number(e.High))
		}
		load, memory := "", ""
		if c.Server != nil {
			load = loadgen.Number(&c.Server.Load)
			memory = strconv.FormatInt(c.Server.PeakMemory, 10)
		}
		rows = append(rows, append(r, load, memory, c.Failed))
	}
	return csv.NewWriter(w).WriteAll(rows)
}

// WriteJSON writes the table with the reports of all runs as indented JSON.
func (d *gridDocument) WriteJSON(w io.Writer) error { return loadgen.WriteJSON(w, d) }

// live prints the table while it is being filled. It knows the widths of its columns
// beforehand.
type live struct {
	g       *grid
	servers bool
	widths  []int
}

func (g *grid) live() *live {
	l := &live{g: g, servers: len(g.cells) > 0 && g.cells[0].load == nil}
	for i, name := range heading(g.axes, l.servers) {
		width := utf8.RuneCountInString(name)
		for _, c := range g.cells {
			if i < len(c.values) {
				width = max(width, utf8.RuneCountInString(c.values[i]))
			}
		}
		if i > len(g.axes) { // figures, after the number of runs
			width = max(width, 9)
			if slices.ContainsFunc(g.cells, func(c *cell) bool { return len(c.runs) > 1 }) || g.rule.Most > 1 {
				width = max(width, 13)
			}
		}
		l.widths = append(l.widths, width)
	}
	return l
}

func (l *live) heading() string { return l.line(heading(l.g.axes, l.servers)) }

func (l *live) row(c *cell) string {
	out := newGridCell(l.g, c)
	return l.line(out.row(l.servers))
}

func (l *live) line(texts []string) string {
	var b strings.Builder
	for i, s := range texts {
		b.WriteString(s)
		if pad := l.widths[i] - utf8.RuneCountInString(s); i < len(texts)-1 {
			b.WriteString(strings.Repeat(" ", max(pad, 0)+2))
		}
	}
	return strings.TrimRight(b.String(), " ")
}
