// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// The test program is llamaload itself where a test of signals starts it, and a
// llama-server where llamaload does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serverProgram {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "llama-server:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("LLAMALOAD_AS_PROGRAM") == "1" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func simulator(t *testing.T, o llamasim.Options) (*llamasim.Server, string) {
	t.Helper()
	s := llamasim.Start(t, o)
	url := s.URL()
	return s, url
}

func llamaload(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	code = execute(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// number looks up a path such as requests.sent.
func number(t *testing.T, report map[string]any, path string) float64 {
	t.Helper()
	var v any = report
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		require.True(t, ok, path)
		v = m[name]
	}
	f, ok := v.(float64)
	require.True(t, ok, "%s is %v", path, v)
	return f
}

func readReport(t *testing.T, path string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var report map[string]any
	require.NoError(t, json.Unmarshal(b, &report))
	return report
}

func TestRun_JSONKeepsItsContract(t *testing.T) {
	sim, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	file := filepath.Join(t.TempDir(), "report.json")
	code, stdout, stderr := llamaload(t, "run", "--url", url, "--rate", "20", "--duration", "1s", "--seed", "7", "--max-tokens", "5-20", "--json", file)
	require.Equal(t, exitDone, code, stderr)
	assert.True(t, strings.HasPrefix(stdout, "honesty"), "the first line says whether the rest can be believed")
	assert.Contains(t, stdout, "cache hit rate")
	assert.Contains(t, stdout, "the server's counters agree to the token")

	report := readReport(t, file)
	for path, want := range map[string]int{"due": 20, "sent": 20, "ok": 20, "error": 0, "cancelled": 0, "dropped": 0} {
		assert.Equal(t, want, int(number(t, report, "requests."+path)), path)
	}
	for _, h := range []string{"latency.ttft", "latency.tpot", "latency.e2e", "latency.lag", "latency_from_send.ttft", "latency_from_send.e2e"} {
		last := 0.0
		for _, p := range []string{"p50", "p95", "p99", "max"} {
			v := number(t, report, h+"."+p)
			assert.GreaterOrEqual(t, v, last, h)
			last = v
		}
		assert.Positive(t, number(t, report, h+".mean"))
	}
	assert.Less(t, number(t, report, "latency_from_send.e2e.mean"), number(t, report, "latency.e2e.mean"))
	assert.Equal(t, sim.Predicted(), int64(number(t, report, "tokens.output")))
	assert.Equal(t, sim.PromptProcessed(), int64(number(t, report, "tokens.input")-number(t, report, "tokens.cached")))
	assert.Len(t, report["workload"].(map[string]any)["hash"], 32)
}

func TestRun_SameSeedSendsTheSameBytes(t *testing.T) {
	send := func(seed string) (bodies []string) {
		s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("a", 5, time.Millisecond, time.Millisecond)))
		code, _, stderr := llamaload(t, "run", "--url", s.URL, "--users", "1", "--count", "8", "--seed", seed)
		require.Equal(t, exitDone, code, stderr)
		for _, x := range s.Exchanges() {
			if len(x.Body) > 0 {
				bodies = append(bodies, string(x.Body))
			}
		}
		require.Len(t, bodies, 8)
		return bodies
	}
	first := send("3")
	assert.Equal(t, first, send("3"))
	assert.NotEqual(t, first, send("4"))
}

func TestCompletion_KnowsWhatFlagsTake(t *testing.T) {
	for flag, want := range map[string]string{
		"--endpoint": "chat\ncompletions\n",
		"--gaps":     "constant\npoisson\ngamma\n:4\n",
		"--rate":     ":4\n", // no files
		"--prompts":  ":0\n", // files
	} {
		code, stdout, _ := llamaload(t, "__complete", "run", flag, "")
		assert.Equal(t, exitDone, code)
		assert.Contains(t, stdout, want, flag)
	}
	code, stdout, _ := llamaload(t, "completion", "bash")
	assert.Equal(t, exitDone, code)
	assert.Contains(t, stdout, "__start_llamaload")
}

func TestRun_ExitCodes(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	quick := func(more ...string) []string {
		return append([]string{"run", "--url", url, "--rate", "10", "--duration", "300ms", "--max-tokens", "3"}, more...)
	}
	noPrompts := filepath.Join(t.TempDir(), "bad.jsonl")
	require.NoError(t, os.WriteFile(noPrompts, []byte("{\"prompt\":\"a\"}\n{}\n"), 0o600))
	for _, c := range []struct {
		want   int
		stderr string
		args   []string
	}{
		{exitDone, "", quick("--fail-if", "p95(ttft)>10s", "--fail-if", "error_rate>1%")},
		{exitDone, "", quick("--prompt-tokens", "20-30", "--gaps", "gamma", "--burstiness", "0.5")},
		{exitDone, "", quick("--endpoint", "completion", "--no-stream", "--prompt", "say something")},
		{exitDone, "", []string{"run", "--help"}},
		{exitFailIf, "a --fail-if came true: p50(e2e)>1us", quick("--fail-if", "p50(e2e)>1us")},
		{exitFailed, "no request succeeded", []string{"run", "--url", "http://127.0.0.1:1", "--count", "2"}},
		{exitFailed, "stopped: too many requests failed", []string{"run", "--url", "http://127.0.0.1:1", "--rate", "1000"}},
		{exitFailed, "/tokenize: dial tcp", []string{"run", "--url", "http://127.0.0.1:1", "--prompt-tokens", "5"}},
		{exitUsage, "no command: want run, replay, saturate, sweep, matrix or compare", nil},
		{exitUsage, `unknown command "ran"`, []string{"ran"}},
		{exitUsage, `argument "x": want flags only`, []string{"run", "x"}},
		{exitUsage, "unknown flag: --rat: see llamaload run --help", quick("--rat", "1")},
		{exitUsage, "[rate users] were all set", quick("--users", "1")},
		{exitUsage, "--rate: rate of 0: want a number greater than 0", quick("--rate", "0")},
		{exitUsage, `--url: scheme "localhost": want http://host:port`, []string{"run", "--url", "localhost:8080"}},
		{exitUsage, `--endpoint: endpoint "x": want one of chat`, quick("--endpoint", "x")},
		{exitUsage, "leave nothing of 300ms", quick("--warm-up", "1s")},
		{exitUsage, `condition "slow": want p95(ttft)>2s`, quick("--fail-if", "slow")},
		{exitUsage, `objective "fast": want bounds`, quick("--objective", "fast")},
		{exitUsage, "bad.jsonl:2: 0 prompts in it: want one of", quick("--prompts", noPrompts)},
		{exitUsage, "no such file or directory", quick("--prompts", "/nonexistent")},
		{exitUsage, "--ramp 1:2: 2 values: want FROM:TO:OVER", []string{"run", "--ramp", "1:2"}},
		{exitUsage, "--steps 1: ", []string{"run", "--steps", "1"}},
		{exitUsage, "amplitude of 2 requests a second around 1", []string{"run", "--sine", "1:2:1s"}},
		{exitUsage, "to synthetic prompts: want --prompt-tokens", quick("--shared-prefix", "0.5")},
		{exitUsage, `--header "novalue": want 'Name: value'`, quick("--header", "novalue")},
	} {
		t.Run(strings.Join(append(slices.Clone(c.args), c.stderr), " "), func(t *testing.T) {
			code, stdout, stderr := llamaload(t, c.args...)
			assert.Equal(t, c.want, code, stderr)
			assert.Contains(t, stderr, c.stderr)
			if c.want == exitUsage {
				assert.NotContains(t, stdout, "honesty", "nothing was run")
			}
		})
	}
}

func TestRun_AReportThatCannotBeWrittenIsPrinted(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	paths := []string{filepath.Join(t.TempDir(), "none", "r.json")}
	if _, err := os.Stat("/dev/full"); err == nil {
		paths = append(paths, "/dev/full")
	}
	for _, path := range paths {
		markdown := filepath.Join(t.TempDir(), "r.md")
		code, stdout, stderr := llamaload(t, "run", "--url", url, "--count", "3", "--rate", "100", "--max-tokens", "2", "--json", path, "--markdown", markdown)
		assert.Equal(t, exitFailed, code)
		assert.Contains(t, stdout, "3 due, 3 sent, 3 ok")
		assert.Contains(t, stderr, "the report is printed, but not in "+path)
		assert.FileExists(t, markdown, "one that cannot be written leaves the others")
	}
	if len(paths) > 1 {
		code, stdout, stderr := llamaload(t, "run", "--url", url, "--count", "3", "--rate", "100", "--max-tokens", "2", "--requests", "/dev/full")
		assert.Equal(t, exitFailed, code)
		assert.Contains(t, stdout, "3 due, 3 sent, 3 ok")
		assert.Contains(t, stderr, "--requests: write /dev/full: no space left on device: /dev/full is not complete")
	}
}

func TestRun_WritesOneLineForEachRequest(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	code, stdout, stderr := llamaload(t, "run", "--url", url, "--count", "5", "--rate", "100", "--max-tokens", "4", "--ignore-eos",
		"--prompt", "my secret", "--requests", "-")
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stderr, "honesty", "standard output is for programs then")
	n := 0
	for s := bufio.NewScanner(strings.NewReader(stdout)); s.Scan(); n++ {
		var l line
		require.NoError(t, json.Unmarshal(s.Bytes(), &l))
		assert.Equal(t, "ok", l.Outcome)
		assert.Equal(t, 4, *l.Output)
		assert.NotEmpty(t, l.ID)
		assert.True(t, *l.Sent <= *l.Headers && *l.Headers <= *l.FirstToken && *l.FirstToken <= *l.LastToken && *l.LastToken <= *l.End)
		assert.NotNil(t, l.ServerPart)
		assert.NotContains(t, s.Text(), "secret")
	}
	assert.Equal(t, 5, n)
}

func TestRun_CSVAndMarkdownHaveTheLatencies(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	csv, md := filepath.Join(t.TempDir(), "r.csv"), filepath.Join(t.TempDir(), "r.md")
	code, _, stderr := llamaload(t, "run", "--url", url, "--count", "5", "--rate", "100", "--max-tokens", "4", "--objective", "ttft<10s && e2e<20s", "--csv", csv, "--markdown", md)
	require.Equal(t, exitDone, code, stderr)
	b, err := os.ReadFile(csv)
	require.NoError(t, err)
	assert.Regexp(t, `^metric,count,p50,p95,p99,max,mean\nttft,5,0\.\d+,`, string(b))
	b, err = os.ReadFile(md)
	require.NoError(t, err)
	assert.Contains(t, string(b), "| time to first token | ")
	assert.Contains(t, string(b), "met ttft<10s && e2e<20s")
}

func TestRun_AServerThatDiesLeavesWhatWasMeasured(t *testing.T) {
	sim, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	death := time.AfterFunc(500*time.Millisecond, sim.Stop)
	defer death.Stop()
	file := filepath.Join(t.TempDir(), "r.json")
	code, _, stderr := llamaload(t, "run", "--url", url, "--rate", "20", "--duration", "1m", "--max-tokens", "3", "--max-errors", "0.8", "--json", file)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "stopped: too many requests failed")
	report := readReport(t, file)
	assert.Greater(t, number(t, report, "requests.ok"), 3.0)
	assert.Positive(t, number(t, report, "errors.connection_refused"))
	assert.Contains(t, report["not_reconciled"], "connection refused")
}

func TestRun_SaysWhenOthersUseTheServer(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	other := time.AfterFunc(300*time.Millisecond, func() {
		_, err := (&llamatest.Client{BaseURL: url}).Complete(t.Context(), llamatest.Request{Prompt: "the of and", MaxTokens: 5})
		assert.NoError(t, err)
	})
	defer other.Stop()
	_, stdout, _ := llamaload(t, "run", "--url", url, "--rate", "10", "--duration", "1s", "--max-tokens", "3")
	assert.Contains(t, stdout, "the server counted more: others used it during the run")
}

func TestRun_InterruptEndsWithAReport(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 10})
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(700*time.Millisecond, func() { cancel(errInterrupted) })
	var stdout, stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "r.json")
	began := time.Now()
	code := execute(ctx, []string{"run", "--url", url, "--rate", "5", "--duration", "1h", "--json", file}, &stdout, &stderr)
	assert.Equal(t, exitFailed, code)
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Contains(t, stdout.String(), "ended: interrupted")
	report := readReport(t, file)
	assert.Positive(t, number(t, report, "requests.cancelled"))
	assert.Equal(t, int(number(t, report, "requests.due")), int(number(t, report, "requests.sent")))
}

func TestRun_AServerThatHangsHoldsNothingUp(t *testing.T) {
	sim, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	hang := time.AfterFunc(300*time.Millisecond, func() { sim.SetFault("", llamasim.HangConnect) })
	defer hang.Stop()
	began := time.Now()
	code, stdout, stderr := llamaload(t, "run", "--url", url, "--rate", "20", "--duration", "1s", "--max-tokens", "2", "--drain", "500ms")
	assert.Equal(t, exitDone, code, stderr)
	assert.Less(t, time.Since(began), 15*time.Second)
	assert.Contains(t, stdout, "20 due, 20 sent")
	assert.Contains(t, stdout, "server says  nothing: GET "+url+"/metrics: no answer in time")
	sim.ClearFault("")
}

func TestMain_SecondInterruptEndsAtOnce(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Script{End: scriptedserver.Never}))
	for name, interrupts := range map[string]int{"once": 1, "twice": 2} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "run", "--url", s.URL, "--rate", "20", "--duration", "1h")
			cmd.Env = append(os.Environ(), "LLAMALOAD_AS_PROGRAM=1")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Start())
			time.Sleep(1500 * time.Millisecond)
			for range interrupts {
				require.NoError(t, cmd.Process.Signal(os.Interrupt))
				time.Sleep(20 * time.Millisecond)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, exitFailed, exit.ExitCode())
			assert.Contains(t, stderr.String(), "interrupted: ending with a report; once more ends at once")
			if interrupts == 1 {
				assert.Contains(t, stdout.String(), "ended: interrupted")
			}
		})
	}
}

func TestSaturate_FindsTheLimitOfASimulatedServer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	// Four slots at 100 tokens a second: answers of 40 take 0.4 s, so 10 a second.
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 100, PromptTokensPerSecond: 1e6})
	file := filepath.Join(t.TempDir(), "found.json")
	code, stdout, stderr := llamaload(t, "saturate", "--url", url, "--max-tokens", "40", "--trial", "3s", "--warm-up", "500ms",
		"--gaps", "constant", "--objective", "ttft<300ms && tpot<50ms", "--precision", "0.2", "--json", file)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "limit ")
	found := readReport(t, file)
	// A busy machine is slower, none is faster.
	assert.InDelta(t, 8.5, number(t, found, "ceiling_requests_per_second"), 2.5)
	assert.InDelta(t, 7, number(t, found, "limit_requests_per_second"), 4)
	assert.GreaterOrEqual(t, number(t, found, "ceiling.users"), 4.0)

	code, _, stderr = llamaload(t, "saturate", "--url", url, "--max-users", "1", "--max-tokens", "2", "--trial", "400ms", "--warm-up", "0s", "--objective", "ttft<1ns")
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "no rate met ttft<1ns")
	for want, args := range map[string][]string{
		"--share 2: want":                {"--share", "2"},
		"--precision 0: want":            {"--precision", "0"},
		"--max-users 0: want 1 or more":  {"--max-users", "0"},
		"leaves nothing of --trial 30s":  {"--warm-up", "1m"},
		"there is no first token to fin": {"--no-stream"},
		"--gaps x: want constant":        {"--gaps", "x"},
	} {
		code, _, stderr := llamaload(t, append([]string{"saturate", "--url", url}, args...)...)
		assert.Equal(t, exitUsage, code, stderr)
		assert.Contains(t, stderr, want)
	}
}

func TestCompare_SaysWhatDiffersAndRefusesUnequalWorkloads(t *testing.T) {
	dir := t.TempDir()
	report := func(name string, tokensPerSecond float64, seed string) string {
		_, url := simulator(t, llamasim.Options{TokensPerSecond: tokensPerSecond, PromptTokensPerSecond: 1e6})
		file := filepath.Join(dir, name)
		code, _, stderr := llamaload(t, "run", "--url", url, "--rate", "50", "--duration", "2s", "--max-tokens", "5-9", "--seed", seed, "--json", file)
		require.Equal(t, exitDone, code, stderr)
		return file
	}
	fast, slow, other := report("fast", 1000, "1"), report("slow", 250, "1"), report("other", 1000, "2")

	code, stdout, stderr := llamaload(t, "compare", fast, slow)
	require.Equal(t, exitDone, code, stderr)
	assert.Regexp(t, `tpot +p50 .* slower`, stdout)

	code, stdout, stderr = llamaload(t, "compare", fast, fast)
	require.Equal(t, exitDone, code, stderr)
	assert.Equal(t, 9, strings.Count(stdout, "no difference shown"))

	code, _, stderr = llamaload(t, "compare", fast, other)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, "different requests: hash ")
	assert.Contains(t, stderr, "run both with the same settings and --seed")

	broken := filepath.Join(dir, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("{}"), 0o600))
	for want, args := range map[string][]string{
		"want two reports":                    {fast},
		"no such file or directory":           {fast, filepath.Join(dir, "none")},
		"no report of llamaload run: want wh": {fast, broken},
	} {
		code, _, stderr := llamaload(t, append([]string{"compare"}, args...)...)
		assert.Equal(t, exitUsage, code)
		assert.Contains(t, stderr, want)
	}
}
