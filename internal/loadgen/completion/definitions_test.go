// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// One answer of four tokens in three chunks with text, at milliseconds after
// the request was sent. The stream of docs/load.md.
var oneStream = []struct {
	at, tokens int
	choice     bool
	bytes      string
}{
	{at: 100, choice: true, bytes: scriptedserver.Chunk("1", `{"role":"assistant","content":null}`, "null")},
	{at: 110, choice: true, tokens: 1, bytes: scriptedserver.Chunk("1", `{"content":" one"}`, "null")},
	{at: 150, choice: true, tokens: 2, bytes: scriptedserver.Chunk("1", `{"content":" two three"}`, "null")},
	{at: 200, choice: true, tokens: 1, bytes: scriptedserver.Chunk("1", `{"content":" four"}`, "null")},
	{at: 230, choice: true, bytes: scriptedserver.Chunk("1", `{}`, `"stop"`)},
	{at: 240, bytes: scriptedserver.Usage("1", 7, 2, 4)},
	{at: 250, bytes: scriptedserver.Done},
}

// definition holds the results by a tool's definitions, in milliseconds.
type definition struct {
	ttft, e2e, tpot float64
	gaps            []int
}

func (d definition) String() string {
	gaps := strings.Trim(strings.ReplaceAll(fmt.Sprint(d.gaps), " ", ", "), "[]")
	return fmt.Sprintf("%.4g | %.4g | %s | %.4g", d.ttft, d.tpot, gaps, d.e2e)
}

// ours reads the stream with the client's own reader and a fake clock that returns
// when each part arrived. The request was due 30 ms before it was sent.
func ours(t *testing.T) (Result, time.Time) {
	t.Helper()
	sent := time.Now()
	part := -1
	in := &reads{}
	for _, e := range oneStream {
		in.parts = append(in.parts, e.bytes)
	}
	x := newExchange(&Client{}, &Request{Stream: true}, sent.Add(-30*time.Millisecond))
	x.events = eventReader{in: in, limit: 1 << 20, now: func() time.Time {
		part++
		return sent.Add(time.Duration(oneStream[part].at) * time.Millisecond)
	}}
	require.True(t, x.stream())
	x.answer.into(&x.result)
	return x.result, sent
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// The same stream by the definitions of four other tools: the formulas are those
// of the code that docs/load.md names, the numbers were computed by hand.
func TestDefinitions_OneStreamInFiveTools(t *testing.T) {
	const tokens = 4
	var (
		choices, texts []int // when chunks with a choice, and those with text, came
		each           []int // when each token came
		end            = oneStream[len(oneStream)-1].at
	)
	for _, e := range oneStream {
		if e.choice {
			choices = append(choices, e.at)
		}
		if e.tokens > 0 {
			texts = append(texts, e.at)
		}
		for range e.tokens {
			each = append(each, e.at)
		}
	}
	between := func(at []int) (gaps []int) {
		for i := range at[1:] {
			gaps = append(gaps, at[i+1]-at[i])
		}
		return gaps
	}
	last := func(at []int) float64 { return float64(at[len(at)-1]) }

	r, sent := ours(t)
	tpot, ok := r.TPOT()
	require.True(t, ok)
	var gaps []int
	for _, g := range r.Gaps {
		gaps = append(gaps, int(milli(g)))
	}
	ttft, ok := r.TTFT(r.Due)
	require.True(t, ok)
	fromSend, _ := r.TTFT(sent)

	first := float64(choices[0])
	got := map[string]definition{
		"llamaload, from due":  {ttft: milli(ttft), e2e: milli(r.End.Sub(r.Due)), tpot: milli(tpot), gaps: gaps},
		"llamaload, from send": {ttft: milli(fromSend), e2e: milli(r.End.Sub(sent)), tpot: milli(tpot), gaps: gaps},
		"vllm bench":           {ttft: first, e2e: last(choices), tpot: (last(choices) - first) / (tokens - 1), gaps: between(choices)},
		"guidellm":             {ttft: float64(texts[0]), e2e: float64(end), tpot: last(texts) / tokens, gaps: []int{int(last(texts)-float64(texts[0])) / (tokens - 1)}},
		"inference-perf":       {ttft: float64(each[0]), e2e: float64(end), tpot: (last(each) - float64(each[0])) / (tokens - 1), gaps: between(each)},
		"aiperf":               {ttft: float64(texts[0]), e2e: last(texts), tpot: (last(texts) - float64(texts[0])) / (tokens - 1), gaps: between(texts)},
	}
	want := map[string]definition{
		"llamaload, from due":  {ttft: 140, e2e: 280, tpot: 30, gaps: []int{40, 50}},
		"llamaload, from send": {ttft: 110, e2e: 250, tpot: 30, gaps: []int{40, 50}},
		"vllm bench":           {ttft: 100, e2e: 230, tpot: 130. / 3, gaps: []int{10, 40, 50, 30}},
		"guidellm":             {ttft: 110, e2e: 250, tpot: 50, gaps: []int{30}},
		"inference-perf":       {ttft: 110, e2e: 250, tpot: 30, gaps: []int{40, 0, 50}},
		"aiperf":               {ttft: 110, e2e: 200, tpot: 30, gaps: []int{40, 50}},
	}
	document, err := os.ReadFile("../../../docs/load.md")
	require.NoError(t, err)
	for tool, d := range want {
		assert.Equal(t, d, got[tool], tool)
		assert.Contains(t, string(document), "| "+tool+" | "+d.String()+" |")
	}

	assert.Equal(t, sent.Add(100*time.Millisecond), r.FirstChunk, "the role is a chunk")
	perChunk, ok := r.TokensPerChunk()
	assert.True(t, ok)
	assert.InDelta(t, 4./3, perChunk, 1e-9)
	assert.Equal(t, []int{7, 2, 4}, []int{r.InputTokens, r.CachedTokens, r.OutputTokens})
}
