// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func TestRun_HoldsConversations(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	dir := t.TempDir()
	report, requests := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.jsonl")
	code, stdout, stderr := llamaload(t, "run", "--url", url, "--rate", "20", "--count", "4", "--duration", "0", "--turns", "3", "--think", "20ms",
		"--prompt-tokens", "50", "--max-tokens", "10", "--json", report, "--requests", requests)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "conversations of 3 turns with 20ms between an answer and the next, at most 4 requests")
	assert.Contains(t, stdout, "12 due, 12 sent, 12 ok")
	assert.Regexp(t, `(?m)^ +turn +ok +input tokens`, stdout)
	var r struct {
		Turns []struct {
			Turn     int
			Requests struct{ OK int }
			Tokens   struct {
				CacheHitRate float64 `json:"cache_hit_rate"`
			}
		}
	}
	b, err := os.ReadFile(report)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	require.Len(t, r.Turns, 3)
	for i, turn := range r.Turns {
		assert.Equal(t, i+1, turn.Turn)
		assert.Equal(t, 4, turn.Requests.OK)
	}
	assert.Less(t, r.Turns[0].Tokens.CacheHitRate, 0.2)
	assert.Greater(t, r.Turns[2].Tokens.CacheHitRate, 0.5)

	seen := map[[2]int]bool{}
	f, err := os.Open(requests)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		var l line
		require.NoError(t, json.Unmarshal(s.Bytes(), &l))
		seen[[2]int{int(l.N), l.Turn}] = true
	}
	assert.Len(t, seen, 12)
	assert.True(t, seen[[2]int{3, 3}])

	for want, args := range map[string][]string{
		"--turns: 0 turns: want 1 or more":           {"--turns", "0"},
		`--turns: range "many": want a number`:       {"--turns", "many"},
		"embeddings have no answer that a conversat": {"--turns", "2", "--endpoint", "embeddings"},
		"llama-server uses its cache for the endpoi": {"--no-cache", "--endpoint", "messages"},
	} {
		code, _, stderr := llamaload(t, append([]string{"run", "--url", url}, args...)...)
		assert.Equal(t, exitUsage, code)
		assert.Contains(t, stderr, want)
	}
}
