// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// cellsOf returns the cells of a grid's JSON.
func cellsOf(t *testing.T, path string) (cells []map[string]any) {
	t.Helper()
	for _, c := range readReport(t, path)["cells"].([]any) {
		cells = append(cells, c.(map[string]any))
	}
	return cells
}

func TestSweep_MeasuresEachCombination(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000, PromptTokensPerSecond: 1e5})
	dir := t.TempDir()
	jsonFile, csvFile, markdown := filepath.Join(dir, "s.json"), filepath.Join(dir, "s.csv"), filepath.Join(dir, "s.md")
	code, stdout, stderr := llamaload(t, "sweep", "--url", url, "--rates", "10,20", "--prompt-tokens", "20,30@10", "--depths", "0,50",
		"--max-tokens", "3,5", "--duration", "300ms", "--json", jsonFile, "--csv", csvFile, "--markdown", markdown)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "12 rows of 1 run; at least 3.6s")
	assert.Regexp(t, `(?m)^20 +20@50 +5 +1 `, stdout)
	assert.NotContains(t, stdout, "best", "loads are not choices")

	hashes := map[any]bool{}
	requests := map[any]float64{}
	for _, c := range cellsOf(t, jsonFile) {
		settings := c["settings"].(map[string]any)
		run := c["runs"].([]any)[0].(map[string]any)
		hashes[run["workload"].(map[string]any)["hash"]] = true
		requests[settings["rates"]] += number(t, run, "requests.ok")
		assert.Contains(t, run["workload"].(map[string]any)["prompts"], settings["prompt-tokens"])
	}
	assert.Len(t, hashes, 12, "the cache has the prompts of no other run")
	assert.Equal(t, map[any]float64{"10": 6 * 3, "20": 6 * 6}, requests)

	b, err := os.ReadFile(csvFile)
	require.NoError(t, err)
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 13)
	assert.Equal(t, []string{"rates", "prompt-tokens", "max-tokens", "runs", "requests_per_second", "requests_per_second low"}, rows[0][:6])
	assert.Equal(t, []string{"10", "20", "3", "1"}, rows[1][:4])
	b, err = os.ReadFile(markdown)
	require.NoError(t, err)
	assert.Contains(t, string(b), "| rates | prompt-tokens | max-tokens | runs | requests |")
}

func TestSweep_UsersAndRepeats(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 100, PromptTokensPerSecond: 1e6})
	file := filepath.Join(t.TempDir(), "s.json")
	code, stdout, stderr := llamaload(t, "sweep", "--url", url, "--users", "1,4", "--max-tokens", "5", "--duration", "200ms", "--repeat", "2", "--json", file)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "±")
	cells := cellsOf(t, file)
	require.Len(t, cells, 2)
	one, four := number(t, cells[0], "figures.requests_per_second.mean"), number(t, cells[1], "figures.requests_per_second.mean")
	assert.Greater(t, four, 1.5*one, "four slots answer four users")
	assert.InDelta(t, 2, number(t, cells[1], "figures.requests_per_second.runs"), 0)
}

func TestSweep_ARowThatFailsHasTheReasonAndTheOthersGoOn(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000, PromptTokensPerSecond: 1e6, ContextPerSlot: 256})
	file := filepath.Join(t.TempDir(), "s.json")
	code, stdout, stderr := llamaload(t, "sweep", "--url", url, "--rates", "10", "--prompt-tokens", "20,500,30", "--max-tokens", "3", "--duration", "300ms", "--json", file)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "1 of 3 rows were not measured")
	assert.Regexp(t, `not measured: rates 10, prompt-tokens 500, max-tokens 3: no request succeeded: such as: .*400`, stdout)
	cells := cellsOf(t, file)
	assert.Positive(t, number(t, cells[2], "figures.p50(ttft).mean"))
	assert.Contains(t, cells[1]["failed"], "no request succeeded")
}

// wait waits until a file has so many lines.
func waitForLines(t *testing.T, path string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(path)
		return err == nil && bytes.Count(b, []byte("\n")) >= n
	}, time.Minute, 5*time.Millisecond)
}

// program runs this test program as llamaload.
func program(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LLAMALOAD_AS_PROGRAM=1")
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	require.NoError(t, err)
	return 0
}

func TestSweep_ResumesAfterAnInterrupt(t *testing.T) {
	sim, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	dir := t.TempDir()
	kept, file := filepath.Join(dir, "s.jsonl"), filepath.Join(dir, "s.json")
	args := []string{"sweep", "--url", url, "--rates", "10,20,30", "--max-tokens", "3", "--duration", "500ms", "--resume", kept, "--json", file}
	cmd, stdout, stderr := program(t, append(args, "--repeat", "2")...)
	require.NoError(t, cmd.Start())
	waitForLines(t, kept, 1+3)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, exitFailed, exitCode(t, cmd.Wait()), stderr.String())
	assert.Regexp(t, `(?m)^20 +3 +1 .*interrupted$`, stdout.String())
	assert.Regexp(t, `(?m)^30 +3 +0 `, stdout.String())
	runs := 0
	for _, c := range cellsOf(t, file) {
		runs += len(c["runs"].([]any))
	}
	assert.Equal(t, 4, runs, "three, and the one that was interrupted")

	// The power failed while a run was being written.
	f, err := os.OpenFile(kept, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"cell":"rates=20 max-to`)
	require.NoError(t, errors.Join(err, f.Close()))

	before, _, _ := sim.Requests()
	code, out, errs := llamaload(t, append(args, "--repeat", "2")...)
	require.Equal(t, exitDone, code, errs)
	assert.Contains(t, out, "3 rows of 2 runs; 3 runs are in "+kept+"; at least 1.5s")
	after, _, _ := sim.Requests()
	assert.EqualValues(t, 10+2*15, after-before, "only the runs that were missing")
	hashes := map[any]bool{}
	for _, c := range cellsOf(t, file) {
		assert.NotContains(t, c, "failed")
		for _, r := range c["runs"].([]any) {
			hashes[r.(map[string]any)["workload"].(map[string]any)["hash"]] = true
		}
	}
	assert.Len(t, hashes, 6, "the seed is that of the file")

	// More rates, and more repeats of one of them.
	code, out, errs = llamaload(t, "sweep", "--url", url, "--rates", "20,40", "--max-tokens", "3", "--duration", "500ms", "--resume", kept, "--repeat", "3")
	require.Equal(t, exitDone, code, errs)
	assert.Contains(t, out, "2 rows of 3 runs; 2 runs are in "+kept+"; at least 2s")

	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, []byte("something else"), 0o600))
	for want, more := range map[string][]string{
		`was begun with --duration "500ms", this is "1s"`: {"--duration", "1s"},
		`was begun with --seed `:                          {"--seed", "1"},
		`was begun with --max-tokens "", this is "3-4"`:   nil,
		`other is not of llamaload sweep: want another`:   {"--resume", other},
	} {
		a := slices.Concat(args, more)
		if more == nil {
			a = []string{"sweep", "--url", url, "--rates", "10", "--duration", "500ms", "--resume", kept}
			want = `was begun with --max-tokens`
		}
		code, _, stderr := llamaload(t, a...)
		assert.Equal(t, exitUsage, code, want)
		assert.Contains(t, stderr, want)
	}
	content, err := os.ReadFile(other)
	require.NoError(t, err)
	assert.Equal(t, "something else", string(content), "a file of others stays as it is")
}

func TestSweep_WrongUsage(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.jsonl")
	for want, args := range map[string][]string{
		"no load: want --rates 1,2,4 or --users 1,2,4":     {},
		"[rates users] were all set":                       {"--rates", "1", "--users", "1"},
		`--rates "1,,2": an element is empty`:              {"--rates", "1,,2"},
		`--rates "1,1": 1 is in it twice`:                  {"--rates", "1,1"},
		`--rates "x": strconv`:                             {"--rates", "x"},
		"rates=0: --rate: rate of 0":                       {"--rates", "0"},
		`--users "0": want 1 or more`:                      {"--users", "0"},
		"prompt-tokens=0: --prompt-tokens: prompt tokens":  {"--rates", "1", "--prompt-tokens", "10,0"},
		"max-tokens=0: at most 0 tokens to generate":       {"--rates", "1", "--max-tokens", "0"},
		"--depths without the tokens after them":           {"--rates", "1", "--depths", "5"},
		"--shared-prefix: share of common tokens of 2":     {"--rates", "1", "--prompt-tokens", "5", "--shared-prefix", "2"},
		"--until: precision":                               {"--rates", "1", "--until", "x"},
		`argument "x": want flags only`:                    {"--rates", "1", "x"},
		"--resume: open /no/such":                          {"--rates", "1", "--resume", "/no/such/file"},
		"broken.jsonl:2: no run: delete the line, or want": {"--rates", "1", "--resume", broken},
	} {
		if strings.HasPrefix(want, "broken") {
			// A journal that was begun, and then edited.
			code, _, _ := llamaload(t, "sweep", "--url", "http://127.0.0.1:1", "--rates", "1", "--count", "1", "--resume", broken)
			require.Equal(t, exitFailed, code)
			args = append(args, "--count", "1")
			f, err := os.OpenFile(broken, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteString("{}\n")
			require.NoError(t, errors.Join(err, f.Close()))
		}
		code, _, stderr := llamaload(t, append([]string{"sweep", "--url", "http://127.0.0.1:1"}, args...)...)
		if !strings.Contains(want, "/no/such") {
			assert.Equal(t, exitUsage, code, stderr)
		}
		assert.Contains(t, stderr, want)
	}
}
