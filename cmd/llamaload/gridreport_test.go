// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"
)

// measuredCell is a cell of the matrix with the given output tokens per second in
// each run, and requests per second that hardly differ between cells.
func measuredCell(value string, tokens ...float64) *cell {
	c := &cell{values: []string{value}}
	for i, v := range tokens {
		r := &loadgen.Report{Run: loadgen.About{Ended: loadgen.Done}}
		r.Rates.Seconds, r.Rates.OutputTokens, r.Rates.Requests = 1, v, 10+float64(i)
		c.runs = append(c.runs, r)
	}
	return c
}

func textOf(t *testing.T, kind string, cells ...*cell) string {
	t.Helper()
	g := &grid{axes: []string{"-b"}, cells: cells, rule: &repeat.Rule{Least: 3, Most: 3}}
	var text bytes.Buffer
	require.NoError(t, newGridDocument(g, &origin{Kind: kind}).WriteText(&text))
	return text.String()
}

func TestGrid_MarksWhatMayBeTheBestAndNotMore(t *testing.T) {
	text := textOf(t, "matrix", measuredCell("512", 100, 101, 102), measuredCell("1024", 50, 51, 52), measuredCell("2048", 101, 102, 103))
	assert.Regexp(t, `(?m)^512 +3 +11\.0/s ±23 % +101\.0/s ±2\.5 % \*`, text)
	assert.Regexp(t, `(?m)^1024 +3 +11\.0/s ±23 % +51\.0/s ±4\.9 % *$`, text)
	assert.Regexp(t, `(?m)^2048 +3 +11\.0/s ±23 % +102\.0/s ±2\.4 % \*`, text)
	assert.Contains(t, text, "* may be the best of its column, at 95 % confidence: rows without it are shown to be worse than another.")
	assert.Contains(t, text, "no difference shown: requests\n")
	assert.NotContains(t, text, "ttft", "columns without a figure are left out")
}

func TestGrid_MarksNothingThatIsNotShown(t *testing.T) {
	alike := textOf(t, "matrix", measuredCell("512", 100, 120, 80), measuredCell("1024", 101, 119, 85))
	assert.NotContains(t, alike, "*")
	assert.Contains(t, alike, "no difference shown: requests, tokens out\n")

	once := textOf(t, "matrix", measuredCell("512", 100), measuredCell("1024", 10))
	assert.NotContains(t, once, "*")
	assert.Contains(t, once, "No best is marked: one run of a row says nothing about how its runs differ. --repeat 5 does.")

	loads := textOf(t, "sweep", measuredCell("1", 100, 101, 102), measuredCell("2", 50, 51, 52))
	assert.NotContains(t, loads, "*", "the rows of a sweep are different loads")
	assert.NotContains(t, loads, "best")
}

func TestGrid_SaysWhatCannotBeTrusted(t *testing.T) {
	late, failed := measuredCell("1024", 50, 51, 52), measuredCell("2048", 1)
	late.runs[1].Generator.Limited = true
	failed.failure = &serverError{errors.New("the server ended by itself: signal: killed"), "  out of memory"}
	failed.partial = &loadgen.Report{Run: loadgen.About{Ended: failed.failure.Error()}}
	failed.partial.Rates.Seconds, failed.partial.Rates.OutputTokens = 1, 1e9
	text := textOf(t, "matrix", measuredCell("512", 50, 51, 52), late, failed)
	assert.Regexp(t, "^honesty +GENERATOR WAS THE BOTTLENECK in 1 of 8 runs\n", text)
	assert.Regexp(t, `(?m)^1024 .*  GENERATOR WAS THE BOTTLENECK$`, text)
	assert.Regexp(t, `(?m)^2048 +1 +10\.0/s +1\.00/s +the server ended by itself: signal: killed$`, text)
	assert.Contains(t, text, "not measured: -b 2048: the server ended by itself: signal: killed; the last lines of the server's log:\n  out of memory\n")
}
