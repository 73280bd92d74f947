// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// One line a message of the server's source, through its history.
func TestParser_Messages(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		// From September 2026 back.
		{"srv  llama_server: initializing ...", "srv start"},
		{"build_info: b9265-aa61e588", "- start"},
		{"build: 4991 (61e588ab) with cc (Debian 12.2.0-14) 12.2.0 for x86_64-linux-gnu", "- start"},
		{"srv    load_model: loading model '/models/it's.gguf'", "srv loading text=/models/it's.gguf"},
		{"srv    load_model: initializing, n_slots = 2, n_ctx_slot = 4096, kv_unified = 'false'", "srv ready"},
		{"srv    load_model: initializing slots, n_slots = 2", "srv ready"},
		{"srv  llama_server: model loaded", "srv other"},
		{"srv  llama_server: listening on http://127.0.0.1:19041", "srv listening text=http://127.0.0.1:19041"},
		{"srv  llama_server: listening on unix:///run/llama.sock", "srv listening text=unix:///run/llama.sock"},
		{"main: server is listening on http://127.0.0.1:8080 - starting the main loop", "- listening text=http://127.0.0.1:8080"},
		{"main: router server is listening on http://127.0.0.1:8080", "- listening text=http://127.0.0.1:8080"},
		{"main: HTTP server is listening, hostname: 127.0.0.1, port: 8080, http threads: 15", "- other"},
		{"slot launch_slot_: id  0 | task 8 | processing task, is_child = 0", "slot launch slot=0 task=8"},
		{"slot launch_slot_: id 12 | task 8 | processing task", "slot launch slot=12 task=8"},
		{"slot   operator(): id  0 | task 5 | new prompt, n_ctx_slot = 256, n_keep = 0, task.n_tokens = 17", "slot new prompt slot=0 task=5 tokens=17"},
		{"slot update_slots: id  0 | task 5 | new prompt, n_ctx_slot = 256, n_keep = 0, n_prompt_tokens = 17", "slot new prompt slot=0 task=5 tokens=17"},
		{"slot   operator(): id  0 | task 5 | cached n_tokens = 11, memory_seq_rm [12, end)", "slot prompt cached slot=0 task=5 cached=11"},
		{"slot update_slots: id  0 | task 5 | n_tokens = 11, memory_seq_rm [12, end)", "slot prompt cached slot=0 task=5 cached=11"},
		{"slot update_slots: id  0 | task 5 | kv cache rm [11, end)", "slot prompt cached slot=0 task=5 cached=11"},
		{"slot print_timing: id  0 | task 0 | prompt processing, n_tokens =   2048, progress = 0.68, t =   7.45 s / 274.73 tokens per second", "slot prompt progress slot=0 task=0 tokens=2048 duration=7.45s progress=0.68 speed=274.73"},
		{"slot update_slots: id  0 | task 0 | prompt processing progress, n_tokens = 2048, batch.n_tokens = 512, progress = 0.678146", "slot prompt progress slot=0 task=0 tokens=2048 progress=0.678146"},
		{"slot update_slots: id  0 | task 0 | prompt processing progress, n_past = 2048, n_tokens = 512, progress = 0.678146", "slot prompt progress slot=0 task=0 tokens=2048 progress=0.678146"},
		{"slot print_timing: id  0 | task 8 | n_gen =    411, tg = 136.33 t/s, tg_3s = 136.66 t/s", "slot generation progress slot=0 task=8 tokens=411 speed=136.33"},
		{"slot print_timing: id  0 | task 8 | n_decoded =    411, tg = 136.33 t/s, tg_3s = 136.66 t/s", "slot generation progress slot=0 task=8 tokens=411 speed=136.33"},
		{"slot print_timing: id  0 | task 8 | n_decoded =    411, tg = 136.33 t/s", "slot generation progress slot=0 task=8 tokens=411 speed=136.33"},
		{"slot print_timing: id  0 | task 0 | prompt eval time =      62.74 ms /    21 tokens (    2.99 ms per token,   334.69 tokens per second)", "slot prompt done slot=0 task=0 tokens=21 duration=62.74ms"},
		{"slot print_timing: id  0 | task 0 |        eval time =       0.00 ms /     1 tokens (     nan ms per token,     -nan tokens per second)", "slot generation done slot=0 task=0 tokens=1"},
		{"slot print_timing: id  0 | task 0 |       total time =      88.25 ms /    26 tokens", "slot other slot=0 task=0"},
		{"slot print_timing: id  0 | task 0 | draft acceptance = 0.75000 (    3 accepted /     4 generated), mean len =  2.50", "slot draft slot=0 task=0 tokens=3 drafted=4"},
		{"slot print_timing: id  0 | task 0 | draft acceptance rate = 0.75000 (    3 accepted /     4 generated)", "slot draft slot=0 task=0 tokens=3 drafted=4"},
		{"slot   operator(): id  0 | task 0 | slot context shift, n_keep = 1, n_left = 254, n_discard = 127", "slot context shift slot=0 task=0"},
		{"slot      release: id  0 | task 0 | stop processing: n_tokens = 177, truncated = 1", "slot release slot=0 task=0 tokens=177 truncated=true"},
		{"slot      release: id  0 | task 0 | stop processing: n_past = 177, truncated = 0", "slot release slot=0 task=0 tokens=177 early=true"},
		{"slot      release: id  0 | task 0 | stop processing: truncated = 0, n_past = 177, n_tokens = 176, new = 1", "slot release slot=0 task=0 tokens=176"},
		{"srv          stop: cancel task, id_task = 709", "srv cancel task=709"},
		{"srv  cancel_tasks: cancel task, id_task = 709", "srv cancel task=709"},
		{"srv  handle_sleep: server is entering sleeping state", "srv sleep"},
		{"que    start_loop: entering sleeping state", "que other"},
		{"srv  handle_sleep: server is exiting sleeping state", "srv wake"},
		{"srv    operator(): operator(): cleaning up before exit...", "srv stop"},
		{"srv          load: spawning server instance with name=org/my model on port 2:Q4 on port 37117", "srv spawn text=org/my model on port 2:Q4 port=37117"},
		{"srv           run: instance name=tiny exited with status -9", "srv child exit text=tiny"},
		{"srv    operator(): instance name=tiny exited with status 1", "srv child exit text=tiny"},
	} {
		assert.Equal(t, []string{"- - " + tc.want}, parse(tc.line))
	}
}

func TestParser_ErrorsHaveReasons(t *testing.T) {
	for text, want := range map[string]string{
		"request (602 tokens) exceeds the available context size (256 tokens), try increasing it":                 ReasonContextSize,
		"the request exceeds the available context size. try increasing the context size or enable context shift": ReasonContextSize,
		"input (602 tokens) is larger than the max context size (256 tokens). skipping":                           ReasonContextSize,
		"input is too large to process. increase the physical batch size":                                         ReasonContextSize,
		"Input prompt is too big compared to KV size. Please try increasing KV size.":                             ReasonContextSize,
		"context shift is disabled":                              ReasonContextFull,
		"Context size has been exceeded.":                        ReasonContextFull,
		"decode() failed: Context size has been exceeded.":       ReasonContextFull,
		"Prompt contains invalid tokens":                         ReasonInvalidRequest,
		"Failed to parse grammar":                                ReasonInvalidRequest,
		"Failed to initialize samplers: failed to parse grammar": ReasonInvalidRequest,
		"Invalid slot ID":                                        ReasonInvalidRequest,
		"Unable to restore slot, no available space in KV cache or invalid slot save file": ReasonInvalidRequest,
		"This feature is not supported by multimodal":                                      ReasonInvalidRequest,
		"Compute error.":                 ReasonServer,
		"Invalid input batch.":           ReasonServer,
		"pre_decode() failed: something": ReasonServer,
		"no slot available":              ReasonUnavailable,
	} {
		assert.Equal(t, []string{"1.002003s E srv request error task=7 reason=" + want}, parse("0.01.002.003 E srv    send_error: task id = 7, error: "+text), text)
	}
	for kind, want := range map[string]string{
		"exceed_context_size_error": ReasonContextSize,
		"invalid_request_error":     ReasonInvalidRequest,
		"not_supported_error":       ReasonInvalidRequest,
		"unavailable_error":         ReasonUnavailable,
		"server_error":              ReasonServer,
		"new_error":                 ReasonServer,
	} {
		for _, begin := range []string{"srv    operator(): ", ""} {
			line := begin + `got exception: {"error":{"code":400,"message":"not \"type\":\"this\"","type":"` + kind + `"}}`
			got := parse(line)
			if assert.Len(t, got, 1) {
				assert.True(t, strings.HasSuffix(got[0], " request error reason="+want), got[0])
			}
		}
	}
}

// What only repeats an error of another line is none.
func TestParser_ErrorsAreReportedOnce(t *testing.T) {
	for _, text := range []string{
		"failed to launch slot with task, id_task = 19",
		"decode() failed: Context size has been exceeded.",
		"Context size has been exceeded. off = 0, n_batch = 1, ret = 1",
		"exiting due to model loading error",
		"got exception: something that is no answer",
		"got another exception: a | while handling exception: b",
	} {
		assert.Equal(t, []string{"0s E srv other"}, parse("0.00.000.000 E srv  some_functio: "+text))
	}
	assert.Equal(t, []string{"0s E slot other slot=0 task=1"}, parse(`0.00.000.000 E slot update_slots: id  0 | task 1 | got exception: {"type":"server_error"}`))
}

func TestParser_Prefixes(t *testing.T) {
	const message = "slot launch_slot_: id  0 | task 8 | processing task"
	const launch = "slot launch slot=0 task=8"
	for line, want := range map[string]string{
		"0.00.000.001 I " + message:         "1µs I " + launch,
		"1621.16.348.559 I " + message:      "27h1m16.348559s I " + launch,
		"0.00.000.001 D " + message:         "1µs D " + launch,
		"0.00.000.001 W " + message:         "1µs W " + launch,
		"0.00.000.001 E " + message:         "1µs E " + launch,
		"I " + message:                      "- I " + launch,
		"0.00.000.001 " + message:           "1µs - " + launch,
		message:                             "- - " + launch,
		message + "\r\n":                    "- - " + launch,
		"[37117] " + message:                "- - slot launch child=37117 slot=0 task=8",
		"[ 8123] 0.00.000.001 I " + message: "1µs I slot launch child=8123 slot=0 task=8",
		"\x1b[34m0.00.000.001\x1b[0m \x1b[32mI \x1b[0m" + message:                  "1µs I " + launch,
		"\x1b[0m\x1b[34m0.00.000.001\x1b[0m \x1b[35mW " + message + "\x1b[0m\n":    "1µs W " + launch,
		"[50981] \x1b[34m0.00.000.001\x1b[0m \x1b[31mE " + message + "\x1b[0m\r\n": "1µs E slot launch child=50981 slot=0 task=8",
		"\x1b[35mW " + message: "- W " + launch,
		`{"type":"log","time":1234567,"level":"info","msg":"` + message + `\n"}`:                                                                   "1.234567s I " + launch,
		`{ "level": "warn", "msg": "` + message + `", "type": "log", "time": 5 }`:                                                                  "5µs W " + launch,
		`{"type":"log","time":1,"level":"error","msg":"slot\u0020launch_slot_: id  0 | task 8 | processing task\r\n"}` + "\r\n":                    "1µs E " + launch,
		`[37117] {"type":"log","time":5,"level":"debug","msg":"` + message + `\n"}`:                                                                "5µs D slot launch child=37117 slot=0 task=8",
		`{"type":"log","time":9,"level":"none","msg":"[ 8123] {\"type\":\"log\",\"time\":5,\"level\":\"info\",\"msg\":\"` + message + `\\n\"}\n"}`: "5µs I slot launch child=8123 slot=0 task=8",
		`{"type":"log","time":9,"level":"none","msg":"[ 8123] 0.00.000.001 I ` + message + `\n"}`:                                                  "1µs I slot launch child=8123 slot=0 task=8",
		"0.00.000.001 I llama_model_loader: loaded meta data":                                                                                      "1µs I - other",
		"0.00.000.001 E failed to parse grammar":                                                                                                   "1µs E - other",
		"W llama_init_from_model: model default pooling_type is [-1]":                                                                              "- W - other",
		"spec     operator(): adding speculative implementation":                                                                                   "- - spec other",
	} {
		assert.Equal(t, []string{want}, parse(line), line)
	}
}

func TestParser_WhatIsNoLineOfTheServersSaysNothing(t *testing.T) {
	for _, line := range []string{
		"", "\n", "\r\n", "\x00\xff", "}", "{", "[]", "[1", "null", `{"type":"log"}`,
		"llama_model_loader: loaded meta data", "prompt eval time =      62.74 ms /    21 tokens (",
		"I am a cat", "E", "E \n", "0.00.000.001", "0.00.000.001 ", "0.00.000 I srvx", "0.60.000.000 failed",
		"id  0 | task 8 | processing task", "slotx launch_slot_: id  0 | task 8 | processing task",
		"slot is processing", "srv log", "[99999] srv  llama_server: initializing ...", "[0] srv  llama_server: initializing ...",
		`{"type":"fit_memory_breakdown","data":{"unit":"MiB","rows":[{"kind":"host","name":"Host"}]}}`,
		`{"type":"log","time":-1,"level":"info","msg":"srv  llama_server: initializing ...\n"}`,
		`{"type":"log","time":9999999999999999,"level":"info","msg":"srv  llama_server: initializing ...\n"}`,
		`{"type":"log","time":1,"level":"info","msg":"srv  llama_server: initializing ...\n"`,
		`{"type":"log","time":1,"level":"info","msg":"srv  llama_server: initializing ...\`,
		"build: failed", "2026-06-05 10:33:08 [DEBUG]",
		`INFO [   launch_slot_with_task] slot is processing task | tid="0x1e89e4c00" timestamp=1720645907 id_slot=0 id_task=1`,
	} {
		assert.Empty(t, parse(line), line)
	}
}

func TestParser_AbsurdNumbersAreNotRead(t *testing.T) {
	const begin = "slot      release: id  0 | task 1 | "
	for _, text := range []string{
		"prompt eval time =     -62.74 ms /    21 tokens (", "prompt eval time = 99999999999999999999.99 ms /    21 tokens (",
		"prompt eval time =      nan ms /    21 tokens (", "prompt eval time =      inf ms /    21 tokens (", "prompt eval time =      62.74 ms /    -1 tokens (",
		"prompt eval time =      62.74 s /    21 tokens (", "prompt eval time =      62. ms /    21 tokens (", "prompt eval time = .5 ms /    21 tokens (",
		"eval time =      62.74 ms / 99999999999 tokens (", "eval time =      62.74 ms / 2147483648 tokens (", "eval time =      1.2.3 ms /    21 tokens (",
		"stop processing: n_tokens = -1, truncated = 0", "stop processing: n_tokens = 49", "stop processing: n_tokens = 4, truncated = ", "stop processing: truncated = 0",
		"prompt processing, n_tokens = 1, progress = 1.01", "prompt processing, n_tokens = 1, progress = -0.5", "prompt processing, n_tokens = 1, progress = nan",
		"n_gen = 5, tg = 99999999999.00 t/s", "n_gen = 5, tg = inf t/s", "draft acceptance = 1.5 (    5 accepted /     4 generated)",
		"kv cache rm [-1, end)", "n_tokens = 5", "new prompt, n_ctx_slot = 5",
	} {
		assert.Equal(t, []string{"- - slot other slot=0 task=1"}, parse(begin+text), text)
	}
	for _, line := range []string{
		"slot      release: id -1 | task 1 | processing task", "slot      release: id 0 | task -2 | processing task",
		"slot      release: id 99999999999 | task 1 | processing task", "slot      release: id 0 | task 99999999999 | processing task", "slot      release: id 0 | task",
	} {
		assert.Equal(t, []string{"- - slot other"}, parse(line), line)
	}
	assert.Equal(t, []string{"- - slot other slot=3"}, parse("slot get_availabl: id  3 | task -1 | selected slot by LRU"))
	assert.Equal(t, []string{"- - srv other"}, parse("srv          stop: cancel task, id_task = -1"))
	assert.Equal(t, []string{"- - srv other"}, parse("srv          load: spawning server instance with name=tiny on port 70000"))
	assert.Empty(t, parse("999999999.00.000.000 I srv  llama_server: model loaded"))
}

const oldTimings = "prompt eval time =    5093.47 ms /  1360 tokens (    3.75 ms per token,   267.01 tokens per second)\n" +
	"       eval time =     319.58 ms /    10 tokens (   31.96 ms per token,    31.29 tokens per second)\n" +
	"      total time =    5413.05 ms /  1370 tokens\n"

func TestParser_TimingsBelongToTheHeaderBeforeThem(t *testing.T) {
	header := "0.05.000.000 I slot print_timing: id  1 | task 124 | "
	want := []string{
		"5s I slot other slot=1 task=124",
		"5s I slot prompt done slot=1 task=124 tokens=1360 duration=5.09347s",
		"5s I slot generation done slot=1 task=124 tokens=10 duration=319.58ms",
	}
	assert.Equal(t, want, parse(header+"\n"+oldTimings), "one record")
	assert.Equal(t, want, parse(append([]string{header + "\n"}, lines(oldTimings)...)...), "a record a line")
	assert.Equal(t, want, parse(append([]string{strings.TrimSpace(header)}, lines(oldTimings)...)...), "blanks cut off")
	escaped := strings.ReplaceAll(strings.TrimPrefix(header, "0.05.000.000 I ")+"\n"+oldTimings, "\n", `\n`)
	assert.Equal(t, want, parse(`{"type":"log","time":5000000,"level":"info","msg":"`+escaped+`"}`), "JSON")
}

func TestParser_TimingsAfterAnotherLineBelongToNobody(t *testing.T) {
	const header, other = "slot print_timing: id  1 | task 124 | \n", "srv  update_slots: all slots are idle\n"
	assert.Equal(t, []string{"- - slot other slot=1 task=124", "- - srv other"}, parse(header, other, oldTimings))
	assert.Len(t, said(parse(header, "[37117] "+other, oldTimings)), 2, "of a child: the header stays")
	assert.Empty(t, said(parse("[37117] "+header, oldTimings)))
	assert.Empty(t, said(parse(header, "[37117] "+strings.ReplaceAll(strings.TrimSpace(oldTimings), "\n", "\n[37117] "))))
}

// With -lv 5 the server leaves out an end of line, of JSON excepted.
func TestParser_LinesAfterTheOneWithoutEnd(t *testing.T) {
	const unended = "No parser definition detected, assuming pure content parser."
	const release = "slot      release: id  0 | task 22 | stop processing: n_tokens = 48, truncated = 0"
	for line, want := range map[string]string{
		"0.00.263.251 D " + unended + "0.00.263.279 I " + release:               "263.279ms I slot release slot=0 task=22 tokens=48",
		"[37117] 0.00.263.251 D " + unended + "0.00.263.279 I " + release:       "263.279ms I slot release child=37117 slot=0 task=22 tokens=48",
		"\x1b[0m0.00.263.251 D " + unended + "\x1b[0m0.00.263.279 I " + release: "263.279ms I slot release slot=0 task=22 tokens=48",
		unended + release:                        "- - slot release slot=0 task=22 tokens=48",
		"0.00.263.251 D " + unended:              "263.251ms D - other",
		"0.00.263.251 D " + unended + "whatever": "",
	} {
		got := parse(line)
		if want == "" {
			assert.Empty(t, got, line)
		} else {
			assert.Equal(t, []string{want}, got, line)
		}
	}
}

func TestParser_EventIsFreshForEachLine(t *testing.T) {
	var p Parser
	p.Parse("0.00.000.001 I slot      release: id  0 | task 0 | stop processing: n_tokens = 177, truncated = 1", func(*Event) {})
	p.Parse("srv  llama_server: initializing ...", func(e *Event) {
		assert.Equal(t, Event{Kind: Start, Area: "srv", Slot: -1, Task: -1, Cached: -1}, *e)
	})
}

func FuzzParser(f *testing.F) {
	for _, name := range recordings(f) {
		for _, l := range lines(recording(f, name)) {
			f.Add(l)
		}
	}
	f.Add("slot print_timing: id  1 | task 124 | \n" + oldTimings)
	reasons := []string{"", ReasonContextSize, ReasonContextFull, ReasonInvalidRequest, ReasonServer, ReasonUnavailable}
	f.Fuzz(func(t *testing.T, record string) {
		var p, q Parser
		var first, second []Event
		p.Parse(record, func(e *Event) {
			switch {
			case e.Slot < -1, e.Task < -1, e.Cached < -1, e.Tokens < 0, e.Drafted < 0, e.Child < 0, e.Child > 65535, e.Port < 0, e.Port > 65535,
				e.Clock < 0, e.Duration < 0, e.Duration > 100*24*time.Hour, !(e.Progress >= 0 && e.Progress <= 1), !(e.Speed >= 0 && e.Speed <= 1e9),
				int(e.Kind) >= len(kindNames), e.Severity > Error:
				t.Errorf("%q: %s", record, show(e))
			}
			assert.Contains(t, reasons, e.Reason)
			// Of JSON the strings are parts of what was unescaped.
			if !strings.Contains(record, `\`) {
				assert.Contains(t, record, e.Text)
				assert.Contains(t, record, e.Area)
			}
			first = append(first, *e)
		})
		q.Parse(record, func(e *Event) { second = append(second, *e) })
		assert.Equal(t, first, second)
		again := len(p.headers)
		p.Parse(record, func(*Event) {})
		assert.Len(t, p.headers, again)
	})
}
