// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// traces is what the Collector's file exporter wrote of six requests, five a second.
const traces = "../../internal/loadgen/traffic/testdata/file_exporter.jsonl"

func TestReplay_SendsWhatWasRecordedAndSaysHowNearItCame(t *testing.T) {
	sim, url := simulator(t, llamasim.Options{TokensPerSecond: 1000, Slots: 1})
	file := filepath.Join(t.TempDir(), "report.json")
	code, stdout, stderr := llamaload(t, "replay", traces, "--url", url, "--speed", "2", "--seed", "1", "--json", file)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "replay of "+traces+", 2 times as fast, ended: done")
	assert.Contains(t, stdout, "recorded     720 input, 290 cached (cache hit rate 40.3 %), 36 output; 2 of 8 requests were left out")
	report := readReport(t, file)
	for path, want := range map[string]int{
		"requests.ok": 6, "tokens.input": 720, "tokens.output": 36, "recorded.tokens.input": 720, "recorded.tokens.cached": 290,
		"recorded.tokens.output": 36, "recorded.requests": 6, "recorded.left_out": 2,
	} {
		assert.Equal(t, want, int(number(t, report, path)), path)
	}
	assert.InDelta(t, 290, number(t, report, "tokens.cached"), 10)
	assert.EqualValues(t, 36, sim.Predicted())
	assert.InDelta(t, 0.5, number(t, report, "run.duration"), 0.01)
	assert.Equal(t, "5-7", report["workload"].(map[string]any)["max_tokens"])
}

func TestReplay_OfTimesSendsWhatTheFlagsSay(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	cmd := exec.CommandContext(t.Context(), os.Args[0], "replay", "-", "--url", url, "--speed", "4", "--to", "1m",
		"--prompt-tokens", "30", "--max-tokens", "3", "--endpoint", "completion")
	cmd.Env = append(os.Environ(), "LLAMALOAD_AS_PROGRAM=1")
	cmd.Stdin = strings.NewReader("0\n0.4\n\n2\n90")
	began := time.Now()
	stdout, err := cmd.Output()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(began), 500*time.Millisecond)
	assert.Contains(t, string(stdout), "3 due, 3 sent, 3 ok")
	assert.Contains(t, string(stdout), "tokens       93 input", "each with the token that begins it")
	assert.Contains(t, string(stdout), "open loop, replay of standard input, 4 times as fast")
	assert.NotContains(t, string(stdout), "recorded  ")
}

func TestReplay_WrongUsage(t *testing.T) {
	_, url := simulator(t, llamasim.Options{ContextPerSlot: 125})
	times := filepath.Join(t.TempDir(), "times")
	require.NoError(t, os.WriteFile(times, []byte("0\n1\n"), 0o600))
	for want, args := range map[string][]string{
		"0 arguments: want the file of a recording":                                           {},
		"open /nonexistent: no such file or directory":                                        {"/nonexistent"},
		"replay_test.go:1: no recording of requests: want traces that":                        {"replay_test.go"},
		"--speed: speed of 0: want a number greater than 0":                                   {times, "--speed", "0"},
		"--scale -1: want a number greater than 0":                                            {traces, "--scale", "-1"},
		"--scale: " + times + " has times without lengths: use --prompt-tokens":               {times, "--scale", "2"},
		"--max-tokens: " + traces + " says how long prompts and answers are":                  {traces, "--max-tokens", "5"},
		"--prompt-tokens: " + traces + " says how long":                                       {traces, "--prompt-tokens", "5"},
		"no request at 1h0m0s or later: want an earlier start":                                {times, "--from", "1h"},
		"unknown flag: --rate":                                                                {times, "--rate", "1"},
		"has 120 tokens of prompt and 7 of answer, more than the 125 of a slot's context: st": {traces},
		"multiply all lengths with --scale 0.976":                                             {traces},
	} {
		code, stdout, stderr := llamaload(t, append([]string{"replay", "--url", url}, args...)...)
		assert.Equal(t, exitUsage, code, stderr)
		assert.Contains(t, stderr, want)
		assert.NotContains(t, stdout, "honesty", "nothing was sent")
	}
	code, _, stderr := llamaload(t, "replay", "--url", url, traces, "--scale", "0.976", "--speed", "10")
	assert.Equal(t, exitDone, code, stderr)
}
