// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func TestRun_RepeatsWithSeedsOfTheirOwn(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	dir := t.TempDir()
	file, requests := filepath.Join(dir, "r.json"), filepath.Join(dir, "requests.jsonl")
	args := []string{"run", "--url", url, "--rate", "20", "--duration", "300ms", "--max-tokens", "4", "--seed", "7", "--json", file}
	code, stdout, stderr := llamaload(t, append(args, "--repeat", "3", "--requests", requests)...)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "after run 1  requests_per_second")
	assert.Contains(t, stdout, "honesty")
	assert.Contains(t, stdout, "3, wanted 3 runs")
	assert.Contains(t, stdout, "the counters agree to the token in 3 of 3 runs")
	assert.Regexp(t, `p50\(e2e\) .* to .* ±`, stdout)

	report := readReport(t, file)
	assert.InDelta(t, 0.95, number(t, report, "level"), 1e-9)
	estimate := report["figures"].(map[string]any)["p50(e2e)"].(map[string]any)
	assert.InDelta(t, 3, number(t, estimate, "runs"), 0)
	assert.Less(t, number(t, estimate, "low"), number(t, estimate, "mean"))
	assert.Greater(t, number(t, estimate, "high"), number(t, estimate, "mean"))
	hashes := map[any]bool{}
	for i, r := range report["runs"].([]any) {
		r := r.(map[string]any)
		assert.InDelta(t, 6, number(t, r, "requests.ok"), 0)
		hashes[r["workload"].(map[string]any)["hash"]] = true
		if i == 0 {
			assert.InDelta(t, 7, number(t, r, "workload.seed"), 0, "the first run is that of the seed")
		}
	}
	assert.Len(t, hashes, 3, "no run has the requests of another")

	b, err := os.ReadFile(requests)
	require.NoError(t, err)
	runs := map[int]int{}
	for text := range strings.Lines(string(b)) {
		var l line
		require.NoError(t, json.Unmarshal([]byte(text), &l))
		runs[l.Run]++
	}
	assert.Equal(t, map[int]int{0: 6, 1: 6, 2: 6}, runs)

	code, _, stderr = llamaload(t, args...)
	require.Equal(t, exitDone, code, stderr)
	assert.NotContains(t, readReport(t, file), "runs", "one run has the report that it always had")
}

func TestRun_UntilTheIntervalIsNarrow(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	args := []string{"run", "--url", url, "--rate", "20", "--duration", "200ms", "--max-tokens", "4", "--repeat", "2"}
	code, stdout, stderr := llamaload(t, append(args, "--until", "ci<99%", "--until", "ci(requests_per_second)<99%")...)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, ", wanted 2 to 30 runs, until ci<99% and ci(requests_per_second)<99%: reached")

	code, stdout, stderr = llamaload(t, append(args, "--until", "ci<0.0001%", "--max-repeats", "3")...)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "3, wanted 2 to 3 runs, until ci<0.0001%: NOT REACHED")
}

func TestRun_RepeatedRunsAreJudgedTogether(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	args := []string{"run", "--url", url, "--rate", "20", "--duration", "200ms", "--max-tokens", "4", "--repeat", "2"}
	code, _, stderr := llamaload(t, append(args, "--fail-if", "p50(e2e)>1us")...)
	assert.Equal(t, exitFailIf, code)
	assert.Contains(t, stderr, "p50(e2e)>1us")
	code, _, stderr = llamaload(t, append(args, "--fail-if", "output_tokens_per_second<1")...)
	assert.Equal(t, exitDone, code, stderr)
}

func TestRun_InterruptLeavesTheRunsBefore(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var stderr bytes.Buffer
	// The line after the second run comes before the third.
	out := interrupter{after: "after run 2", interrupt: func() { cancel(errInterrupted) }}
	code := execute(ctx, []string{"run", "--url", url, "--rate", "20", "--duration", "300ms", "--max-tokens", "4", "--repeat", "9"}, &out, &stderr)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr.String(), "interrupted")
	assert.Contains(t, out.String(), "3, wanted 9 runs, the last ended early and is not counted below: interrupted")
}

// interrupter interrupts as soon as a text was written to it.
type interrupter struct {
	bytes.Buffer
	after     string
	interrupt func()
}

func (i *interrupter) Write(b []byte) (int, error) {
	n, err := i.Buffer.Write(b)
	if strings.Contains(i.String(), i.after) {
		i.interrupt()
	}
	return n, err
}

func TestCompare_OfRepeatedRunsIsOverRuns(t *testing.T) {
	dir := t.TempDir()
	report := func(name string, tokensPerSecond float64, more ...string) string {
		_, url := simulator(t, llamasim.Options{TokensPerSecond: tokensPerSecond, PromptTokensPerSecond: 1e6})
		file := filepath.Join(dir, name)
		code, _, stderr := llamaload(t, append([]string{
			"run", "--url", url, "--rate", "50", "--duration", "400ms", "--max-tokens", "5-9", "--seed", "1", "--json", file,
		}, more...)...)
		require.Equal(t, exitDone, code, stderr)
		return file
	}
	fast, slow := report("fast", 1000, "--repeat", "3"), report("slow", 250, "--repeat", "4")
	code, stdout, stderr := llamaload(t, "compare", fast, slow)
	require.Equal(t, exitDone, code, stderr)
	assert.Regexp(t, `tpot +mean .* slower`, stdout)
	assert.Contains(t, stdout, "the intervals are over runs, which are independent: 3 of A, 4 of B")

	code, stdout, stderr = llamaload(t, "compare", fast, fast)
	require.Equal(t, exitDone, code, stderr)
	assert.Equal(t, 9, strings.Count(stdout, "no difference shown"))

	one := report("one", 1000)
	code, stdout, stderr = llamaload(t, "compare", one, one)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "The intervals are over the requests of one run each")

	other := report("other", 1000, "--repeat", "2", "--rate", "40")
	for want, args := range map[string][]string{
		"one report is of several runs, the other of one": {fast, one},
		"different schedules":                             {fast, other},
	} {
		code, _, stderr := llamaload(t, append([]string{"compare"}, args...)...)
		assert.Equal(t, exitUsage, code)
		assert.Contains(t, stderr, want)
	}
}

func TestRepeat_WrongUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"--repeat -1: want 1 or more":                        {"--repeat", "-1"},
		`--until: precision "narrow": want ci<2%`:            {"--until", "narrow"},
		`--until: precision "ci(x)<2%": figure "x": want p0`: {"--until", "ci(x)<2%"},
		"--until from 1 to 30 runs: want a --repeat of 2":    {"--until", "ci<2%", "--repeat", "1"},
		"--max-repeats 3 bounds --until, which is not given": {"--max-repeats", "3"},
		"--until from 5 to 3 runs: want":                     {"--until", "ci<2%", "--max-repeats", "3"},
	} {
		code, _, stderr := llamaload(t, append([]string{"run", "--url", "http://127.0.0.1:1"}, args...)...)
		assert.Equal(t, exitUsage, code, stderr)
		assert.Contains(t, stderr, want)
	}
}
