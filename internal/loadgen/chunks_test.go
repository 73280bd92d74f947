// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// streamed is an answer of three tokens a chunk, whose chunks come with the gaps.
func streamed(gaps ...time.Duration) *completion.Result {
	at := time.Now()
	r := &completion.Result{
		Due: at, Sent: at, FirstToken: at.Add(ms), LastToken: at.Add(ms), Chunks: len(gaps) + 1, Gaps: gaps,
		InputTokens: 10, CachedTokens: 1, OutputTokens: 3 * (len(gaps) + 1),
	}
	for _, g := range gaps {
		r.LastToken = r.LastToken.Add(g)
	}
	r.End = r.LastToken
	return r
}

func TestReport_HasEachGapBetweenChunksAndTheTokensOfAChunk(t *testing.T) {
	r := newRecorder(&Config{MaxErrors: 1}, nil)
	r.add(Sample{Result: streamed(10*ms, 20*ms, 300*ms)})
	r.add(Sample{Result: streamed(10 * ms)})
	failed := streamed(time.Second)
	failed.Outcome, failed.OutputTokens = completion.Failed, -1
	r.add(Sample{Result: failed})
	whole := streamed()
	whole.FirstToken, whole.Chunks, whole.OutputTokens = time.Time{}, 0, 500
	r.add(Sample{Result: whole})
	results := r.results()
	assert.EqualValues(t, 4, results.ITL.Count())
	assert.Equal(t, 300*ms, results.ITL.Max())
	assert.Equal(t, 85*ms, results.ITL.Mean())

	p := NewReport(&Config{}, results, About{}, Workload{})
	b, err := json.Marshal(p)
	require.NoError(t, err)
	var j struct {
		Latency struct{ ITL struct{ Max float64 } }
		Tokens  struct {
			PerChunk float64 `json:"per_chunk"`
		}
	}
	require.NoError(t, json.Unmarshal(b, &j))
	assert.InDelta(t, 0.3, j.Latency.ITL.Max, 1e-9)
	assert.InDelta(t, 3, j.Tokens.PerChunk, 1e-9, "of the streams whose tokens are known")
	var text, csv, markdown strings.Builder
	require.NoError(t, p.WriteText(&text))
	require.NoError(t, p.WriteCSV(&csv))
	require.NoError(t, p.WriteMarkdown(&markdown))
	assert.Contains(t, text.String(), "(3.00 a chunk)")
	assert.Regexp(t, `between chunks +10ms`, text.String())
	assert.Regexp(t, `\nitl,4,0\.0\d+,`, csv.String())
	assert.Contains(t, markdown.String(), "| between chunks | 10ms |")
}

func TestReport_TokensOfAChunkAreUnknownWithoutAStream(t *testing.T) {
	p := NewReport(&Config{}, newRecorder(&Config{}, nil).results(), About{}, Workload{})
	assert.Nil(t, p.Tokens.PerChunk)
	var b strings.Builder
	require.NoError(t, p.WriteText(&b))
	assert.NotContains(t, b.String(), "a chunk")
}

func TestObjective_BoundsTheLongestGap(t *testing.T) {
	o, err := ParseObjective("itl<100ms")
	require.NoError(t, err)
	assert.True(t, o.met(streamed(10*ms, 99*ms)))
	assert.False(t, o.met(streamed(10*ms, 100*ms, 10*ms)))
	assert.True(t, o.met(streamed()), "a single chunk has no gap")

	c, err := ParseCondition("max(itl)>150ms")
	require.NoError(t, err)
	r := newRecorder(&Config{MaxErrors: 1}, nil)
	assert.True(t, c.Holds(NewReport(&Config{}, r.results(), About{}, Workload{})), "nothing was measured")
	r.add(Sample{Result: streamed(10*ms, 20*ms)})
	assert.False(t, c.Holds(NewReport(&Config{}, r.results(), About{}, Workload{})))
}

func TestRecorder_AllocatesNothingForAChunk(t *testing.T) {
	r := newRecorder(&Config{MaxErrors: 1}, nil)
	gaps := make([]time.Duration, 1000)
	for i := range gaps {
		gaps[i] = time.Duration(i) * ms
	}
	s := Sample{Result: streamed(gaps...)}
	assert.Zero(t, testing.AllocsPerRun(100, func() { r.add(s) }))
}
