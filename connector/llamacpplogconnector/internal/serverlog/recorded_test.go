// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
)

var kindNames = [...]string{
	Other: "other", Start: "start", Loading: "loading", Ready: "ready", Listening: "listening", Launch: "launch",
	NewPrompt: "new prompt", PromptCached: "prompt cached", PromptProgress: "prompt progress", GenerationProgress: "generation progress",
	PromptDone: "prompt done", GenerationDone: "generation done", Draft: "draft", ContextShift: "context shift",
	Cancel: "cancel", RequestError: "request error", Release: "release", Sleep: "sleep", Wake: "wake", Stop: "stop",
	Spawn: "spawn", ChildExit: "child exit",
}

// show prints what of an event is not as in every event: kind, severity, area,
// then the rest by name.
func show(e *Event) string {
	var b strings.Builder
	severity := [...]string{Unknown: "-", Debug: "D", Info: "I", Warning: "W", Error: "E"}[e.Severity]
	clock := "-"
	if e.HasClock {
		clock = e.Clock.String()
	}
	area := e.Area
	if area == "" {
		area = "-"
	}
	fmt.Fprintf(&b, "%s %s %s %s", clock, severity, area, kindNames[e.Kind])
	field := func(name string, value, unless any) {
		if value != unless {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	field("child", e.Child, 0)
	field("slot", e.Slot, -1)
	field("task", e.Task, -1)
	field("tokens", e.Tokens, 0)
	field("drafted", e.Drafted, 0)
	field("cached", e.Cached, -1)
	field("duration", e.Duration, time.Duration(0))
	field("progress", e.Progress, 0.0)
	field("speed", e.Speed, 0.0)
	field("truncated", e.Truncated, false)
	field("early", e.Early, false)
	field("reason", e.Reason, "")
	field("text", e.Text, "")
	field("port", e.Port, 0)
	return b.String()
}

// parse reads records one after the other and prints all events.
func parse(records ...string) []string {
	var p Parser
	var out []string
	for _, r := range records {
		p.Parse(r, func(e *Event) { out = append(out, show(e)) })
	}
	return out
}

// said are the events that say something.
func said(events []string) []string {
	var out []string
	for _, e := range events {
		if strings.SplitN(e, " ", 5)[3] != kindNames[Other] {
			out = append(out, e)
		}
	}
	return out
}

func recording(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".log"))
	require.NoError(tb, err)
	return string(b)
}

// lines are the lines of a log with their newlines.
func lines(log string) []string { return strings.SplitAfter(strings.TrimSuffix(log, "\n"), "\n") }

func recordings(tb testing.TB) []string {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.log")
	require.NoError(tb, err)
	require.NotEmpty(tb, files)
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".log")
	}
	return files
}

// UPDATE=1 writes the events anew.
func TestParser_RecordedLogs(t *testing.T) {
	for _, name := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			log := recording(t, name)
			events := parse(lines(log)...)
			goldenfile.EqualLines(t, filepath.Join("testdata", name+".golden"), events)
			assert.Equal(t, events, parse(log), "the whole log in one record")
			assert.Equal(t, events, parse(lines(strings.ReplaceAll(log, "\n", "\r\n"))...), "CRLF")
			assert.Equal(t, events, parse(strings.Split(log, "\n")...), "no newlines")
		})
	}
}

func TestParser_FormatsSayTheSame(t *testing.T) {
	// What two processes measure and their ports differ, and a format may lack time and level.
	comparable := func(name string) []string {
		var p Parser
		var out []string
		for _, l := range lines(recording(t, name)) {
			p.Parse(l, func(e *Event) {
				e.Clock, e.HasClock, e.Severity, e.Duration, e.Child, e.Port, e.Speed = 0, false, Unknown, 0, 0, 0, 0
				if e.Kind == Listening {
					e.Text = ""
				}
				out = append(out, show(e))
			})
		}
		return out
	}
	two := comparable("start_and_two_requests")
	assert.Len(t, said(two), 13)
	for _, format := range []string{"timestamps_prefix", "no_timestamps_no_prefix", "jsonl"} {
		assert.Equal(t, two, comparable("start_and_two_requests_"+format), format)
	}
	assert.Equal(t, comparable("colors"), comparable("no_timestamps"))
	assert.Equal(t, comparable("router_unload"), comparable("router_colors"))
	assert.ElementsMatch(t, comparable("router_unload"), comparable("router_jsonl"), "but for the order of two lines of two processes")
}

// Users' words, which the server writes at raised verbosity and into some
// errors, do not get into events.
func TestParser_UsersTextStaysOutside(t *testing.T) {
	const secret = "zebra"
	text := []string{
		`srv    operator(): got exception: {"error":{"code":400,"message":"last read: '\"prompt\": zebra,\"type\":\"zebra'","type":"invalid_request_error"}}`,
		`srv    operator(): got exception: {"error":{"code":400,"message":"zebra","type":"zebra"}}`,
		`srv    send_error: task id = 3, error: Failed to parse zebra`,
		`srv  log_server_r: request:  {"prompt":"zebra"}`,
		`srv  log_server_r: response: {"content":"zebra"}`,
		`srv    operator(): http: streamed chunk: data: {"content":"zebra"}`,
		`srv    operator(): converted request: {"prompt":"zebra"}`,
		`srv    operator(): JSON schema: {"const": "zebra"}`,
		`srv    operator(): Converted grammar: root ::= "zebra"`,
		`srv    operator(): Grammar (user): root ::= "zebra"`,
		`srv  update_chat_: Parsing chat message: zebra`,
		`srv          init: init: chat template, example_format: 'zebra'`,
		`srv  stderr_loop: MCP 'x' stderr: zebra`,
		`srv    operator(): DELETE /v1/stream conv_id=zebra -> evict_and_cancel`,
		`slot update_slots: id  0 | task 0 | prompt token   0:      1 'zebra'`,
		`slot launch_slot_: id  0 | task 0 | launching slot : {"id":0,"prompt":"zebra"}`,
		`slot process_toke: id  0 | task 5 | n_gen = 4, n_remaining = 0, next token:   327 'zebra'`,
		`slot process_toke: id  0 | task 5 | n_gen = 4, n_remaining = 0, next token:   327 ', tg = 1.00 t/s zebra'`,
		`slot process_toke: id  0 | task 5 | n_decoded = 4, n_remaining = 0, next token:   327 'zebra'`,
		`main: chat template, chat_template: zebra, example_format: 'zebra'`,
		`common_sampler_init: prefill token: 385 =  zebra`,
		`parse: error parsing grammar: unknown symbol at zebra`,
		`zebra`,
		`zebra: slot      release: id  0 | task 0 | stop processing: n_tokens = 9, truncated = 0`,
	}
	log := lines(recording(t, "verbose"))
	assert.Contains(t, strings.Join(log, ""), secret, "the recording shows nothing")
	for _, l := range append(text, log...) {
		for _, prefix := range []string{"", "0.00.042.584 D ", "[37117] 0.00.042.584 D ", "I "} {
			if prefix != "" && strings.HasPrefix(l, "0.") {
				continue
			}
			for _, e := range parse(prefix + l) {
				assert.NotContains(t, e, secret, l)
			}
		}
	}
	for _, l := range text {
		assert.Subset(t, []string{"other", "request"}, kinds(parse("0.00.042.584 D "+l)), l)
	}
}

func kinds(events []string) []string {
	var out []string
	for _, e := range events {
		out = append(out, strings.SplitN(e, " ", 5)[3])
	}
	return out
}

func TestParser_UsersLinesInJSONAreNoneOfTheServers(t *testing.T) {
	line := `{"type":"log","time":1,"level":"debug","msg":"srv    operator(): Parsing chat message: a\nslot      release: id  0 | task 0 | stop processing: n_tokens = 9, truncated = 0\n0.00.000.001 W srv          stop: cancel task, id_task = 0\n"}`
	assert.Equal(t, []string{"1µs D srv other"}, parse(line))
}

// A line that was cut anywhere says less, or the same, but no other numbers,
// unless it ends with the number: nothing then tells that more followed.
func TestParser_CutLinesInventNothing(t *testing.T) {
	numbers := func(e *Event) []any {
		n := []any{e.Kind, e.Slot, e.Drafted, e.Cached, e.Truncated, e.Early}
		if e.Kind != Cancel {
			n = append(n, e.Task)
		}
		if e.Kind != NewPrompt {
			n = append(n, e.Tokens)
		}
		if e.Kind != PromptProgress {
			n = append(n, e.Duration, e.Speed)
		}
		return n
	}
	for _, name := range recordings(t) {
		var p, cut Parser
		for _, l := range lines(recording(t, name)) {
			headers := slices.Clone(p.headers)
			var whole []Event
			p.Parse(l, func(e *Event) { whole = append(whole, *e) })
			for i := range len(l) {
				cut.headers = slices.Clone(headers)
				cut.Parse(l[:i], func(e *Event) {
					if e.Kind != Other && assert.Len(t, whole, 1, l[:i]) {
						assert.Equal(t, numbers(&whole[0]), numbers(e), l[:i])
					}
				})
				cut.Parse(l[i:], func(*Event) {})
			}
		}
	}
}

func TestParser_ChildrenDoNotMix(t *testing.T) {
	one, two := "[41001] ", "[ 8123] "
	for _, names := range [][2]string{
		{"older_2025_03", "older_2025_12"},
		{"start_and_two_requests", "start_and_three_requests_slow"},
		{"errors", "older_2025_12"},
	} {
		a, b := lines(recording(t, names[0])), lines(recording(t, names[1]))
		var mixed []string
		for i := range max(len(a), len(b)) {
			if i < len(a) {
				mixed = append(mixed, one+a[i])
			}
			if i < len(b) {
				mixed = append(mixed, two+b[i])
			}
		}
		apart := map[int][]string{}
		var p Parser
		for _, l := range mixed {
			p.Parse(l, func(e *Event) {
				child := e.Child
				e.Child = 0
				apart[child] = append(apart[child], show(e))
			})
		}
		assert.Equal(t, map[int][]string{41001: parse(a...), 8123: parse(b...)}, apart)
	}
}

func TestParser_NeedsNoMemory(t *testing.T) {
	for _, name := range []string{"start_and_two_requests", "start_and_two_requests_jsonl", "colors", "older_2025_03", "older_2026_05_router", "errors"} {
		all := lines(recording(t, name))
		var p Parser
		n := 0
		assert.Zero(t, testing.AllocsPerRun(10, func() {
			for _, l := range all {
				p.Parse(l, func(*Event) { n++ })
			}
		}), name)
		assert.NotZero(t, n)
	}
}

func BenchmarkParser(b *testing.B) {
	for _, name := range []string{"start_and_three_requests_slow", "start_and_two_requests_jsonl", "router_jsonl", "older_2025_03", "verbose"} {
		b.Run(name, func(b *testing.B) {
			log := recording(b, name)
			all := lines(log)
			var p Parser
			b.ReportAllocs()
			b.SetBytes(int64(len(log)))
			for range b.N {
				for _, l := range all {
					p.Parse(l, func(*Event) {})
				}
			}
			n := float64(b.N * len(all))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/line")
			b.ReportMetric(n/b.Elapsed().Seconds(), "lines/s")
		})
	}
}
