// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// The log of the simulator says of its requests what its answers say, to the
// rounding of the log's milliseconds, which have two decimals.
func TestTracker_SimulatorsLogSaysWhatItsAnswersSay(t *testing.T) {
	const rounding = 5100 * time.Nanosecond
	path := filepath.Join(t.TempDir(), "llama-server.log")
	log, err := os.Create(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, log.Close()) }()
	sim := llamasim.Start(t, llamasim.Options{
		Slots: 1, ContextPerSlot: 256, BatchTokens: 32, TokensPerSecond: 900, PromptTokensPerSecond: 7000, Log: log,
	})

	client := &llamatest.Client{BaseURL: sim.URL()}
	var answers []*completion.Timings
	for _, q := range []llamatest.Request{
		{PromptWords: 43, MaxTokens: 6},
		{PromptWords: 43, MaxTokens: 6}, // all but one token cached
		{PromptWords: 90, Seed: 1, MaxTokens: 70, Stream: true},
		{PromptWords: 10, Seed: 2, MaxTokens: 1},
		{PromptWords: 30, Seed: 4, MaxTokens: -1}, // until the context is full
	} {
		result, err := client.Complete(t.Context(), q)
		require.NoError(t, err)
		answers = append(answers, result.Timings)
	}
	_, err = client.Complete(t.Context(), llamatest.Request{PromptWords: 300, Seed: 3, MaxTokens: 5})
	require.ErrorContains(t, err, "exceed_context_size_error")
	_, err = client.Complete(t.Context(), llamatest.Request{PromptWords: 20, Seed: 5, MaxTokens: 200, Stream: true, CancelAfterTokens: 3})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return sim.Processing() == 0 }, 20*time.Second, 5*time.Millisecond)
	sim.Close()

	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var parser serverlog.Parser
	var events []serverlog.Event
	for line := range strings.Lines(string(text)) {
		parser.Parse(line, func(e *serverlog.Event) { events = append(events, *e) })
	}
	got := follow(events...).requests
	require.Len(t, got, len(answers)+2, "%s", text)
	for i, want := range answers {
		r := got[i]
		assert.Equal(t, Completed, r.Outcome)
		assert.Equal(t, []int{want.CachedTokens, want.PromptTokens, want.PredictedTokens}, []int{r.Cached, r.Processed, r.Generated})
		assert.InDelta(t, want.Prompt, r.PromptTime, float64(rounding))
		assert.InDelta(t, want.Predicted, r.GenerationTime, float64(rounding))
		assert.True(t, r.HasLaunch)
		assert.InDelta(t, r.PromptTime+r.GenerationTime, r.Ended-r.Launched, float64(2*rounding), "the clock says the same")
	}
	assert.Equal(t, Rejected, got[len(answers)].Outcome)
	assert.Equal(t, serverlog.ReasonContextSize, got[len(answers)].Reason)
	assert.Equal(t, Cancelled, got[len(answers)+1].Outcome)
}
