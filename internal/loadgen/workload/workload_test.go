// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

func settings(seed uint64) Settings {
	return Settings{Seed: seed, MaxTokens: Range{50, 150}, Temperature: &Interval{0.5, 0.9}, Stream: true}
}

func build(t *testing.T, s Settings, source Source) *Workload {
	t.Helper()
	w, err := New(s, source)
	require.NoError(t, err)
	return w
}

func read(t *testing.T, content string) *Prompts {
	t.Helper()
	p, err := Parse([]byte(content), "prompts.jsonl")
	require.NoError(t, err)
	return p
}

func bytesOf(t *testing.T, w *Workload, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range uint64(n) {
		j, err := json.Marshal(w.Request(i))
		require.NoError(t, err)
		b.Write(j)
	}
	return b.String()
}

func TestWorkload_SameSeedSameRequestsToTheByte(t *testing.T) {
	weighted := `{"prompt":"a","weight":3}` + "\n" + `{"messages":[{"role":"user","content":"b"}],"tools":[{"b":1,"a":2}]}`
	for name, source := range map[string]func() Source{
		"built in": func() Source { return Builtin() },
		"file":     func() Source { return read(t, weighted) },
	} {
		a, b, c := build(t, settings(7), source()), build(t, settings(7), source()), build(t, settings(8), source())
		assert.Equal(t, bytesOf(t, a, 200), bytesOf(t, b, 200), name)
		assert.Equal(t, a.Hash(), b.Hash(), name)
		assert.NotEqual(t, bytesOf(t, a, 200), bytesOf(t, c, 200), name)
		assert.NotEqual(t, a.Hash(), c.Hash(), name)
	}
}

func TestWorkload_HashChangesWithWhatIsSent(t *testing.T) {
	first := build(t, settings(1), Builtin()).Hash()
	assert.Len(t, first, 32)
	for name, change := range map[string]func(*Settings){
		"endpoint":    func(s *Settings) { s.Endpoint = completion.Messages },
		"max tokens":  func(s *Settings) { s.MaxTokens.Max++ },
		"temperature": func(s *Settings) { s.Temperature = nil },
		"stream":      func(s *Settings) { s.Stream = false },
		"ignore eos":  func(s *Settings) { s.IgnoreEOS = true },
		"cancelled":   func(s *Settings) { s.CancelShare, s.CancelAfter = 0.1, 3 },
		"repeated":    func(s *Settings) { s.Repeat = true },
		"no cache":    func(s *Settings) { s.NoCache = true },
	} {
		s := settings(1)
		change(&s)
		assert.NotEqual(t, first, build(t, s, Builtin()).Hash(), name)
	}
	other, err := Inline("another prompt")
	require.NoError(t, err)
	assert.NotEqual(t, first, build(t, settings(1), other).Hash())

	s := settings(1)
	s.Model = "another model"
	assert.Equal(t, first, build(t, s, Builtin()).Hash(), "two models can be compared by one workload")
}

func TestWorkload_DefaultsStayWithinTheirRanges(t *testing.T) {
	w := build(t, settings(1), Builtin())
	tokens, temperatures := map[int]bool{}, map[float64]bool{}
	for i := range uint64(5000) {
		q := w.Request(i)
		tokens[q.MaxTokens], temperatures[*q.Temperature] = true, true
		require.True(t, 50 <= q.MaxTokens && q.MaxTokens <= 150)
		require.True(t, 0.5 <= *q.Temperature && *q.Temperature <= 0.9)
	}
	assert.Len(t, tokens, 101, "each length comes")
	assert.Len(t, temperatures, 41, "each temperature of two decimals comes")
}

func TestWorkload_PromptsAreUniqueFromTheirFirstWordUnlessAsked(t *testing.T) {
	seen := map[string]bool{}
	w := build(t, settings(1), Builtin())
	for i := range uint64(10_000) {
		seen[w.Request(i).Prompt[:14]] = true
	}
	assert.Len(t, seen, 10_000)

	s := settings(1)
	s.Repeat = true
	w = build(t, s, Builtin())
	assert.Equal(t, w.Request(3).Prompt, w.Request(13).Prompt, "ten prompts, over and over")
	assert.False(t, strings.HasPrefix(w.Request(3).Prompt, "["))
}

func TestWorkload_ConversationsAreUniqueAndOtherwiseAsTheyWere(t *testing.T) {
	for _, c := range []struct{ name, messages, want string }{
		{
			"text", `[{"role":"system","content":"[000000000000] be short"},{"role":"user","content":"hi"}]`,
			`[{"content":"MARK[000000000000] be short","role":"system"},{"content":"hi","role":"user"}]`,
		},
		{
			"image first", `[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:x"}},{"type":"text","text":"what is \"it\"?"}]}]`,
			`[{"content":[{"image_url":{"url":"data:x"},"type":"image_url"},{"text":"MARKwhat is \"it\"?","type":"text"}],"role":"user"}]`,
		},
		{
			"tool call", `[{"role":"user","content":"sum"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},{"role":"tool","tool_call_id":"1","content":"3"}]`,
			`[{"content":"MARKsum","role":"user"},{"content":null,"role":"assistant","tool_calls":[{"id":"1"}]},{"content":"3","role":"tool","tool_call_id":"1"}]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := `{"messages":` + c.messages + `}`
			w := build(t, settings(1), read(t, file))
			a, b := string(w.Request(0).Messages), string(w.Request(1).Messages)
			assert.NotEqual(t, a, b)
			at := strings.Index(c.want, "MARK")
			assert.Regexp(t, `^\[[0-9a-f]{12}\] $`, a[at:at+15])
			assert.Equal(t, c.want, a[:at]+"MARK"+a[at+15:])

			s := settings(1)
			s.Repeat = true
			assert.JSONEq(t, c.messages, string(build(t, s, read(t, file)).Request(0).Messages))
		})
	}
}

func TestWorkload_WeightsDrawInProportion(t *testing.T) {
	w := build(t, settings(1), read(t, `{"prompt":"a","weight":3}`+"\n"+`{"prompt":"b"}`))
	n := 0
	for i := range uint64(10_000) {
		if strings.HasSuffix(w.Request(i).Prompt, "a") {
			n++
		}
	}
	assert.InDelta(t, 7500, n, 4*43.3, "three of four, within four deviations")
}

func TestWorkload_CancelsItsShare(t *testing.T) {
	s := settings(1)
	s.CancelShare, s.CancelAfter = 0.25, 5
	w := build(t, s, Builtin())
	n := 0
	for i := range uint64(10_000) {
		switch w.Request(i).CancelAfter {
		case 5:
			n++
		case 0:
		default:
			t.Fatal("left after another number of chunks")
		}
	}
	assert.InDelta(t, 2500, n, 4*43.3)
}

func TestParse_TakesWhatPromptFilesSay(t *testing.T) {
	p := read(t, "\ufeff"+`{"prompt":"one","max_tokens":7,"temperature":0,"model":"x","stream":false,"top_k":3}

{"conversations":[{"from":"system","value":"be short"},{"from":"human","value":"hi"},{"from":"gpt","value":"hello"},{"from":"human","value":"bye"},{"from":"gpt","value":"see you"}]}
`)
	s := settings(1)
	s.Repeat = true
	w := build(t, s, p)
	q := w.Request(0)
	assert.Equal(t, "one", q.Prompt)
	assert.Equal(t, 7, q.MaxTokens)
	assert.Zero(t, *q.Temperature)
	assert.True(t, q.Stream)
	assert.Equal(t, map[string]json.RawMessage{"top_k": json.RawMessage("3")}, q.Extra)

	q = w.Request(1)
	assert.JSONEq(t, `[{"role":"system","content":"be short"},{"role":"user","content":"hi"},{"role":"assistant","content":"hello"},{"role":"user","content":"bye"}]`, string(q.Messages))
}

func TestParse_AnArrayIsReadLikeLines(t *testing.T) {
	a := read(t, `{"prompt":"a"}`+"\n"+`{"prompt":"b"}`)
	b := read(t, "[{\"prompt\":\"a\"},\n {\"prompt\":\"b\"}]\n")
	assert.Equal(t, build(t, settings(1), a).Hash(), build(t, settings(1), b).Hash())
}

func TestParse_SaysFileLineCauseAndCure(t *testing.T) {
	for content, want := range map[string]string{
		"":                               "f.jsonl: no prompts in it: want JSON objects, one a line",
		"\n\n[]":                         "f.jsonl: no prompts in it",
		"{\"prompt\":\"a\"}\n\n{oops":    "f.jsonl:3: not a JSON object",
		`{}`:                             `f.jsonl:1: 0 prompts in it: want one of "messages"`,
		`{"prompt":"a","messages":[]}`:   `f.jsonl:1: 2 prompts in it: want one of`,
		`{"prompt":"  "}`:                "f.jsonl:1: the prompt is empty: want a text",
		`{"prompt":1}`:                   `f.jsonl:1: "prompt": json: cannot unmarshal number`,
		`{"prompt":"a","max_tokens":-1}`: "f.jsonl:1: negative max_tokens or weight: want 0 or more",
		`{"messages":[{"role":"assistant","content":"a"}]}`: "f.jsonl:1: no message to answer: want one whose role is not assistant",
		`{"messages":[{"content":"a"}]}`:                    "f.jsonl:1: message 1 has no role: want",
		`{"conversations":[{"from":"x","value":"a"}]}`:      `f.jsonl:1: turn from "x": want "human"`,
		"[{\"prompt\":\"a\"},\n{\"prompt\":\"\"}]":          "f.jsonl:2: the prompt is empty",
		"[{\"prompt\":\"a\"},\n\n!":                         "f.jsonl:3: not JSON",
		`[{"prompt":"a"}`:                                   "f.jsonl:1: the array has no end",
	} {
		_, err := Parse([]byte(content), "f.jsonl")
		assert.ErrorContains(t, err, want, content)
	}
}

func TestNew_RefusesWhatCannotBeSent(t *testing.T) {
	_, err := Inline(" ")
	assert.EqualError(t, err, "prompt 1 is empty: want a text")
	_, err = Inline()
	assert.ErrorContains(t, err, "no prompts")

	s := settings(1)
	s.Endpoint = completion.Native
	_, err = New(s, read(t, `{"messages":[{"role":"user","content":"a"}]}`))
	assert.EqualError(t, err, "prompts.jsonl:1: a conversation cannot be sent to the endpoint completion: send it to chat, or give it a prompt")

	_, err = New(settings(1), read(t, `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`))
	assert.ErrorContains(t, err, "prompts.jsonl:1: no message with a text that could be made unique")

	for want, change := range map[string]func(*Settings){
		"at most 0-5 tokens to generate: want 1 or more":        func(s *Settings) { s.MaxTokens = Range{0, 5} },
		"share of cancelled requests of 2: want 0 to 1":         func(s *Settings) { s.CancelShare = 2 },
		"requests cancelled after 0 chunks: want 1 or more":     func(s *Settings) { s.CancelShare = 1 },
		"llama-server uses its cache for the endpoint messages": func(s *Settings) { s.NoCache, s.Endpoint = true, completion.Messages },
		"requests cancelled within an answer that is not strea": func(s *Settings) { s.CancelShare, s.CancelAfter, s.Stream = 1, 1, false },
	} {
		s := settings(1)
		change(&s)
		_, err := New(s, Builtin())
		assert.ErrorContains(t, err, want)
	}
}

func TestParseRange_AndItsLike(t *testing.T) {
	for in, want := range map[string]Range{"100": {100, 100}, "50-150": {50, 150}} {
		got, err := ParseRange(in)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, in, got.String())
	}
	for in, want := range map[string]Interval{"0.7": {0.7, 0.7}, "0.5-0.9": {0.5, 0.9}} {
		got, err := ParseInterval(in)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, in, got.String())
	}
	for _, in := range []string{"", "a", "-1", "5-3", "1-2-3", "9223372036854775807"} {
		_, err := ParseRange(in)
		assert.ErrorContains(t, err, fmt.Sprintf("range %q: want a number, or two such as 50-150", in))
	}
	for _, in := range []string{"", "x", "0.9-0.5", "NaN", "0-Inf"} {
		_, err := ParseInterval(in)
		assert.ErrorContains(t, err, "want a number, or two such as 0.5-0.9")
	}
	l, err := ParseLengths("512@4096")
	require.NoError(t, err)
	assert.Equal(t, Lengths{New: Range{512, 512}, Depth: 4096}, l)
	for _, in := range []string{"0", "512@", "512@-1", "@5"} {
		_, err := ParseLengths(in)
		assert.ErrorContains(t, err, "with a depth 512@4096", in)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"prompt":"a","weight":1e308}`,
		`{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"t"}]}],"tools":[]}`,
		`[{"conversations":[{"from":"human","value":"h"},{"from":"gpt","value":"g"}]}]`,
		`{"messages":[{"role":"user","content":null}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data, "f")
		if err != nil {
			return
		}
		for _, repeat := range []bool{false, true} {
			s := settings(1)
			s.Repeat, s.Turns = repeat, Range{1, 3}
			w, err := New(s, p)
			if err != nil {
				continue
			}
			for i := range uint64(3) {
				for _, q := range hold(w, i) {
					if q.Messages == nil && q.Prompt == "" || q.Messages != nil && !json.Valid(q.Messages) {
						t.Fatalf("not to be sent: %+v", q)
					}
				}
			}
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	w, err := New(settings(1), Builtin())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		w.Request(i)
	}
}
