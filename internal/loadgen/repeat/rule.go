// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package repeat

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// Precision is how narrow the interval of a figure has to be.
type Precision struct {
	figure  *loadgen.Figure // nil for the usual ones
	percent float64
}

// A precision that names no figure is about the medians of the time to first token
// and per output token. Unlike the whole answer and the throughput, they hardly
// depend on how long the answers are, which differs from seed to seed. If nothing
// was streamed, it is about the whole answer.
var (
	usual    = figures("p50(ttft)", "p50(tpot)")
	fallback = figures("p50(e2e)")
)

var precisionPattern = regexp.MustCompile(`^\s*ci(?:\((.*)\))?\s*<\s*(\d+(?:\.\d+)?)\s*%\s*$`)

// ParsePrecision parses a precision such as ci<2%, or with a figure
// ci(p95(ttft))<5%: half of the interval's width is less than this share of the
// mean.
func ParsePrecision(s string) (Precision, error) {
	const want = "want ci<2%, or with a figure ci(p95(ttft))<5%"
	m := precisionPattern.FindStringSubmatch(s)
	if m == nil {
		return Precision{}, fmt.Errorf("precision %q: %s", s, want)
	}
	percent, err := strconv.ParseFloat(m[2], 64)
	if err != nil || percent == 0 {
		return Precision{}, fmt.Errorf("precision %q: %s", s, want)
	}
	if m[1] == "" {
		return Precision{percent: percent}, nil
	}
	f, err := loadgen.ParseFigure(m[1])
	if err != nil {
		return Precision{}, fmt.Errorf("precision %q: %w", s, err)
	}
	return Precision{&f, percent}, nil
}

// String returns the precision in the form that ParsePrecision parses.
func (p Precision) String() string {
	percent := strconv.FormatFloat(p.percent, 'f', -1, 64) // ParsePrecision knows no exponents
	if p.figure == nil {
		return "ci<" + percent + "%"
	}
	return fmt.Sprintf("ci(%s)<%s%%", p.figure, percent)
}

// figures returns what the precision is about, given the runs.
func (p Precision) figures(runs []*loadgen.Report) []loadgen.Figure {
	if p.figure != nil {
		return []loadgen.Figure{*p.figure}
	}
	measured := slices.DeleteFunc(slices.Clone(usual), func(f loadgen.Figure) bool { return len(Values(f, runs)) == 0 })
	if len(measured) == 0 {
		return fallback
	}
	return measured
}

// met reports whether the runs are precise enough, which they are not where one of
// them lacks a figure.
func (p Precision) met(runs []*loadgen.Report) bool {
	if len(runs) < 2 {
		return false
	}
	for _, f := range p.figures(runs) {
		values := Values(f, runs)
		if len(values) < len(runs) {
			return false
		}
		if r, ok := Of(values).Relative(); !ok || r*100 >= p.percent {
			return false
		}
	}
	return true
}

// Values returns the figure of each run that has it.
func Values(f loadgen.Figure, runs []*loadgen.Report) []float64 {
	var values []float64
	for _, r := range runs {
		if v, ok := f.Of(r); ok {
			values = append(values, v)
		}
	}
	return values
}

// Rule says how many runs to make: Least, and then more until all of Until are met,
// but not more than Most.
type Rule struct {
	Least, Most int
	Until       []Precision
}

// Enough reports whether there have been enough runs.
func (r *Rule) Enough(runs []*loadgen.Report) bool {
	return len(runs) >= r.Least && (r.Met(runs) || len(runs) >= r.Most)
}

// Met reports whether the runs are as precise as Until wants.
func (r *Rule) Met(runs []*loadgen.Report) bool {
	for _, p := range r.Until {
		if !p.met(runs) {
			return false
		}
	}
	return true
}

// String returns a text such as "5 runs", or "5 to 30 runs, until ci<2%".
func (r *Rule) String() string {
	if len(r.Until) == 0 && r.Least == 1 {
		return "1 run"
	}
	if len(r.Until) == 0 {
		return fmt.Sprintf("%d runs", r.Least)
	}
	var all []string
	for _, p := range r.Until {
		all = append(all, p.String())
	}
	return fmt.Sprintf("%d to %d runs, until %s", r.Least, r.Most, strings.Join(all, " and "))
}

// Seed returns the seed of a run, counted from 0. That of the first is base itself.
// The others have 32 bits, as many as JSON's numbers keep, and depend on what the
// run is part of, so that the server's cache has the prompts of no other.
func Seed(base uint64, part string, run int) uint64 {
	if part == "" && run == 0 {
		return base
	}
	b := binary.LittleEndian.AppendUint64(nil, base)
	b = binary.LittleEndian.AppendUint64(b, uint64(run))
	sum := sha256.Sum256(append(b, part...))
	return uint64(binary.LittleEndian.Uint32(sum[:]))
}
