// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// serverProgram is the first argument that makes this test program a simulated
// llama-server. It notes its process number in the file --started.
const serverProgram = "llama-server"

func serve(args []string) error {
	f := flag.NewFlagSet(serverProgram, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	tokens := f.Int("c", 8192, "")
	slots := f.Int("np", 4, "")
	speed := f.Float64("speed", 1000, "")
	port := f.String("port", "", "")
	host := f.String("host", "", "")
	started := f.String("started", "", "")
	hang := f.Bool("hang", false, "")
	dieAfter := f.Duration("die-after", 0, "")
	f.String("api-key", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *started != "" {
		note, err := os.OpenFile(*started, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		fmt.Fprintln(note, os.Getpid(), strings.Join(args, " "))
		if err := note.Close(); err != nil {
			return err
		}
	}
	o := llamasim.Options{Slots: *slots, ContextPerSlot: *tokens / *slots, TokensPerSecond: *speed, PromptTokensPerSecond: 1e6}
	if *hang {
		o.LoadTime = time.Hour
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := llamasim.New(o)
	defer s.Close()
	if _, err := s.Start(*host + ":" + *port); err != nil {
		return err
	}
	if *dieAfter > 0 {
		time.Sleep(*dieAfter)
		return errors.New("GPU is lost")
	}
	<-ctx.Done()
	return nil
}

// matrixOf runs a matrix over simulated servers, and returns what they noted when
// they started.
func matrixOf(t *testing.T, flags, server []string) (code int, stdout, stderr string, started []string) {
	t.Helper()
	note := filepath.Join(t.TempDir(), "started")
	args := append([]string{"matrix", "--users", "2", "--max-tokens", "4", "--duration", "200ms"}, flags...)
	args = append(append(args, "--", os.Args[0], serverProgram, "--started", note), server...)
	code, stdout, stderr = llamaload(t, args...)
	return code, stdout, stderr, startedServers(note)
}

func startedServers(note string) []string {
	b, err := os.ReadFile(note)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func assertEnded(t *testing.T, started []string) {
	t.Helper()
	for _, s := range started {
		pid, err := strconv.Atoi(strings.Fields(s)[0])
		require.NoError(t, err)
		assert.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, 10*time.Second, 10*time.Millisecond, s)
	}
}

func TestMatrix_MeasuresEachCombination(t *testing.T) {
	dir := t.TempDir()
	file, markdown, csvFile, page := filepath.Join(dir, "m.json"), filepath.Join(dir, "m.md"), filepath.Join(dir, "m.csv"), filepath.Join(dir, "m.html")
	code, stdout, stderr, started := matrixOf(t, []string{
		"--vary", "-c=1024,2048", "--vary", "-np=1,2", "--vary", "-speed 200 | -speed 1000 ", "--repeat", "2",
		"--json", file, "--markdown", markdown, "--csv", csvFile, "--html", page,
	}, []string{"--api-key", "secret"})
	require.Equal(t, exitDone, code, stderr)
	require.Len(t, started, 8, "one server for each combination")
	assertEnded(t, started)
	assert.Contains(t, started[0], "-c 1024 -np 1 -speed 200 --host 127.0.0.1 --port ")

	cells := cellsOf(t, file)
	require.Len(t, cells, 8)
	first := map[any]bool{}
	for i, c := range cells {
		settings := c["settings"].(map[string]any)
		slots, err := strconv.Atoi(settings["-np"].(string))
		require.NoError(t, err)
		tokens, err := strconv.Atoi(settings["-c"].(string))
		require.NoError(t, err)
		assert.InDelta(t, slots, number(t, c, "server.slots"), 0)
		assert.InDelta(t, tokens/slots, number(t, c, "server.context_per_slot"), 0)
		assert.Positive(t, number(t, c, "server.load_seconds"))
		if runtime.GOOS == "linux" {
			assert.Greater(t, number(t, c, "server.peak_memory_bytes"), 1e6)
		}
		assert.Equal(t, "b11669-sim", c["server"].(map[string]any)["build"])
		assert.InDelta(t, 2, number(t, c, "figures.p50(tpot).runs"), 0)
		first[c["runs"].([]any)[0].(map[string]any)["workload"].(map[string]any)["hash"]] = true
		fast := settings["flags 3"] == "-speed 1000"
		assert.Equal(t, fast, i%2 == 1)
	}
	assert.Len(t, first, 1, "all combinations have the same requests")
	assert.NotEmpty(t, readReport(t, file)["may_be_best"].(map[string]any)["p50(tpot)"])
	assert.Regexp(t, `(?m)^2048 +2 +-speed 1000 +2 `, stdout)
	for _, path := range []string{file, markdown, csvFile, page} {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(b), "secret")
	}
	assert.Equal(t, readReport(t, file), readPageFile(t, page))
	b, err := os.ReadFile(markdown)
	require.NoError(t, err)
	assert.Contains(t, string(b), "--api-key [REDACTED]")
	assert.Contains(t, string(b), "| -c | -np | flags 3 | runs | requests |")
}

func TestMatrix_AServerThatFailsIsARowWithTheReasonAndTheOthersGoOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.json")
	code, stdout, stderr, started := matrixOf(t, []string{
		"--vary", "-nonsense | -hang | -die-after 400ms | -c 2048", "--start-timeout", "2s", "--duration", "1s", "--json", file,
	}, nil)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "3 of 4 rows were not measured")
	assertEnded(t, started)
	for _, want := range []string{
		"not measured: -nonsense: the server ended by itself: exit status 1; the last lines of the server's log:\n  llama-server: flag provided but not defined: -nonsense",
		"not measured: -hang: the server is not healthy after 2s: --start-timeout gives it more time",
		"not measured: -die-after 400ms: ",
		"the server ended by itself: exit status 1; the last lines of the server's log:\n  llama-server: GPU is lost",
	} {
		assert.Contains(t, stdout, want)
	}
	cells := cellsOf(t, file)
	assert.Positive(t, number(t, cells[3], "figures.requests_per_second.mean"))
	assert.Contains(t, cells[0]["log"], "-nonsense")
	assert.Contains(t, cells[2]["failed"], "the server ended by itself")
	assert.NotContains(t, cells[2]["figures"], "p50(ttft)", "a run whose server ended does not count")
	assert.NotEmpty(t, cells[2]["runs"], "but is kept")
}

func TestMatrix_WarmUpSaysWhatTheServerRefuses(t *testing.T) {
	code, stdout, _, started := matrixOf(t, []string{"--vary", "-c=128,8192", "--prompt-tokens", "300"}, nil)
	assert.Equal(t, exitFailed, code)
	assertEnded(t, started)
	assert.Regexp(t, `not measured: -c 128: warm-up: no request succeeded: such as: .*400`, stdout)
	assert.Regexp(t, `(?m)^8192 +1 `, stdout)
}

func TestMatrix_RestartTakesTurns(t *testing.T) {
	code, stdout, stderr, started := matrixOf(t, []string{"--vary", "-np=1,2", "--repeat", "2", "--restart", "--prime", "1"}, nil)
	require.Equal(t, exitDone, code, stderr)
	require.Len(t, started, 4)
	for i, want := range []string{"-np 1 ", "-np 2 ", "-np 1 ", "-np 2 "} {
		assert.Contains(t, started[i], want)
	}
	assert.Regexp(t, `(?m)^1 +2 .*\n2 +2 `, stdout)
}

func TestMatrix_ResumesAfterAnInterrupt(t *testing.T) {
	dir := t.TempDir()
	kept, note := filepath.Join(dir, "m.jsonl"), filepath.Join(dir, "started")
	args := []string{
		"matrix", "--users", "2", "--max-tokens", "4", "--duration", "500ms", "--repeat", "2", "--resume", kept,
		"--vary", "-c=1024,2048,4096", "--", os.Args[0], serverProgram, "--started", note,
	}
	cmd, stdout, stderr := program(t, args...)
	require.NoError(t, cmd.Start())
	waitForLines(t, kept, 1+3)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, exitFailed, exitCode(t, cmd.Wait()), stderr.String())
	assert.Regexp(t, `(?m)^2048 +1 .*interrupted$`, stdout.String())
	assertEnded(t, startedServers(note))
	assert.Len(t, startedServers(note), 2)

	code, out, errs := llamaload(t, args...)
	require.Equal(t, exitDone, code, errs)
	assert.Contains(t, out, "3 rows of 2 runs; 3 runs are in "+kept+"; at least 1.5s")
	assert.Regexp(t, `(?m)^1024 +2 `, out)
	started := startedServers(note)
	require.Len(t, started, 4, "the first row is not measured again")
	assert.Contains(t, started[2], "-c 2048")
	assertEnded(t, started)

	for want, change := range map[string]func(a []string) []string{
		`was begun with the command `:             func(a []string) []string { return append(a, "--hang=false") },
		`was begun with --users "2", this is "3"`: func(a []string) []string { return append([]string{a[0], a[1], "3"}, a[3:]...) },
		`was begun with --seed `:                  func(a []string) []string { return append([]string{a[0], "--seed", "1"}, a[1:]...) },
		"was begun with llamaload matrix, this is sweep": func([]string) []string {
			return []string{"sweep", "--rates", "1", "--resume", kept}
		},
	} {
		code, _, stderr := llamaload(t, change(args[:len(args):len(args)])...)
		assert.Equal(t, exitUsage, code, want)
		assert.Contains(t, stderr, want)
	}
	assert.Len(t, startedServers(note), 4, "what is refused starts nothing")
}

func TestMatrix_RefusesAnotherBuildOfTheServer(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "m.jsonl")
	args := []string{
		"matrix", "--users", "1", "--max-tokens", "4", "--count", "3", "--duration", "0s", "--resume", kept,
		"--vary", "-c=1024,2048", "--", os.Args[0], serverProgram,
	}
	code, _, stderr := llamaload(t, args...)
	require.Equal(t, exitDone, code, stderr)
	b, err := os.ReadFile(kept)
	require.NoError(t, err)
	lines := strings.SplitAfter(string(b), "\n")
	earlier := strings.ReplaceAll(lines[0]+lines[1], "b11669-sim", "b11000")
	require.NoError(t, os.WriteFile(kept, []byte(earlier), 0o600))
	code, _, stderr = llamaload(t, args...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "this llama-server is build b11669-sim, and the earlier runs were of b11000: want the same, or another --resume")
}

func TestMatrix_ServersEndWithLlamaload(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the kernel does not see to it")
	}
	for name, signals := range map[string][]os.Signal{
		"killed":            {os.Kill},
		"interrupted twice": {os.Interrupt, os.Interrupt},
	} {
		t.Run(name, func(t *testing.T) {
			note := filepath.Join(t.TempDir(), "started")
			cmd, _, _ := program(t, "matrix", "--users", "2", "--vary", "-np=1,2", "--duration", "1h", "--", os.Args[0], serverProgram, "--started", note)
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool { return len(startedServers(note)) == 1 }, time.Minute, 5*time.Millisecond)
			time.Sleep(300 * time.Millisecond)
			for _, s := range signals {
				require.NoError(t, cmd.Process.Signal(s))
			}
			_ = cmd.Wait()
			assertEnded(t, startedServers(note))
		})
	}
}

func TestParseAxis(t *testing.T) {
	show := func(a axis) string {
		var b bytes.Buffer
		for _, one := range a.alternatives {
			fmt.Fprintf(&b, "%s:%s=%q ", a.name, one.value, one.flags)
		}
		return strings.TrimSpace(b.String())
	}
	for text, want := range map[string]string{
		"-c=2048,4096":               `-c:2048=["-c" "2048"] -c:4096=["-c" "4096"]`,
		"--cache-type-k=f16, q8_0":   `--cache-type-k:f16=["--cache-type-k" "f16"] --cache-type-k:q8_0=["--cache-type-k" "q8_0"]`,
		"--no-kv-offload":            `--no-kv-offload:off=[] --no-kv-offload:on=["--no-kv-offload"]`,
		"-fa on -ctk q8_0 | -fa off": `flags:-fa on -ctk q8_0=["-fa" "on" "-ctk" "q8_0"] flags:-fa off=["-fa" "off"]`,
		"| -ts 3,1":                  `flags:none=[] flags:-ts 3,1=["-ts" "3,1"]`,
	} {
		a, err := parseAxis(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, show(a))
	}
	for text, want := range map[string]string{
		"":              "want a flag and its values",
		"c=1,2":         "want a flag and its values",
		"-c 1,2":        "want a flag and its values",
		"-c=1":          "only one value: want -c 1 after --",
		"-c=1,":         "an element is empty",
		"-c=1,1":        "1 is in it twice",
		"-fa on | off":  "off is no flag",
		"-fa|-fa |-ngl": "-fa is in it twice",
	} {
		_, err := parseAxis(text)
		assert.ErrorContains(t, err, want, text)
	}
}

func FuzzParseAxis(f *testing.F) {
	for _, text := range []string{"-c=2048,4096", "--no-kv-offload", "-fa on | -fa off", "|", "-c=", "=", "-a=1,1", "- |"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAxis(text)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, one := range a.alternatives {
			if seen[one.value] || one.value == "" {
				t.Errorf("%q: %q cannot be told from another", text, one.value)
			}
			seen[one.value] = true
			if len(one.flags) > 0 && !strings.HasPrefix(one.flags[0], "-") {
				t.Errorf("%q: %q is no flag", text, one.flags[0])
			}
		}
		if len(seen) < 2 {
			t.Errorf("%q: nothing varies", text)
		}
	})
}

func TestMatrix_WrongUsage(t *testing.T) {
	server := []string{"--", os.Args[0], serverProgram}
	for want, args := range map[string][]string{
		"want the server's command after --":              {"--vary", "-c=1,2"},
		"see llamaload matrix --help":                     {"x", "--vary", "-c=1,2"},
		"nothing varies: want --vary":                     server,
		`--vary "x": want a flag and its values`:          append([]string{"--vary", "x"}, server...),
		`--vary "-c=3,4": -c varies twice`:                append([]string{"--vary", "-c=1,2", "--vary", "-c=3,4"}, server...),
		`-c is in the server's command as well`:           append([]string{"--vary", "-c=1,2"}, append(server, "-c", "3")...),
		"--port in the server's command: llamaload adds":  append([]string{"--vary", "-c=1,2"}, append(server, "--port=1")...),
		"--url: llamaload starts the servers itself":      append([]string{"--url", "http://x", "--vary", "-c=1,2"}, server...),
		"the server's command: exec: \"/no/such\"":        {"--vary", "-c=1,2", "--", "/no/such"},
		"--start-timeout 0s: want more than 0":            append([]string{"--vary", "-c=1,2", "--start-timeout", "0s"}, server...),
		"--prime -1: want 0 or more":                      append([]string{"--vary", "-c=1,2", "--prime", "-1"}, server...),
		"--max-tokens: range \"x\": want a number":        append([]string{"--vary", "-c=1,2", "--max-tokens", "x"}, server...),
		"--until: precision \"x\"":                        append([]string{"--vary", "-c=1,2", "--until", "x"}, server...),
		"--rate: rate of 0: want a number greater than 0": append([]string{"--vary", "-c=1,2", "--rate", "0"}, server...),
	} {
		code, _, stderr := llamaload(t, append([]string{"matrix"}, args...)...)
		assert.Equal(t, exitUsage, code, stderr)
		assert.Contains(t, stderr, want)
	}
}
