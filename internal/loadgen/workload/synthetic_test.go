// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func tokenizer(t *testing.T) *ServerTokenizer {
	t.Helper()
	sim := llamasim.Start(t, llamasim.Options{APIKey: "key"})
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return &ServerTokenizer{Base: sim.URL(), APIKey: "key", HTTP: client}
}

func synthetic(t *testing.T, tok Tokenizer, l Lengths) *Workload {
	t.Helper()
	s, err := NewSynthetic(t.Context(), tok, l, 1)
	require.NoError(t, err)
	return build(t, settings(1), s)
}

// common counts the words with which two texts begin alike.
func common(a, b string) int {
	as, bs := strings.Fields(a), strings.Fields(b)
	n := 0
	for n < min(len(as), len(bs)) && as[n] == bs[n] {
		n++
	}
	return n
}

func TestSynthetic_HasExactlyTheTokensAskedFor(t *testing.T) {
	tok := tokenizer(t)
	for _, c := range []struct {
		lengths      Lengths
		least, most  int
		alike, spare int // tokens that all prompts begin with, and chance may add
	}{
		{Lengths{New: Range{1, 1}}, 1, 1, 0, 1},
		{Lengths{New: Range{100, 300}}, 100, 300, 0, 3},
		{Lengths{New: Range{200, 200}, Shared: 0.5}, 200, 200, 100, 3},
		{Lengths{New: Range{50, 50}, Depth: 400}, 450, 450, 400, 3},
		{Lengths{New: Range{50, 50}, Depth: 400, ColdDepth: true}, 450, 450, 0, 3},
		{Lengths{New: Range{50, 50}, Shared: 1}, 50, 50, 50, 0},
	} {
		w := synthetic(t, tok, c.lengths)
		first := w.Request(0).Prompt
		for i := range uint64(20) {
			p := w.Request(i).Prompt
			n, err := tok.Count(t.Context(), p)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, n, c.least)
			assert.LessOrEqual(t, n, c.most)
			if i > 0 {
				assert.GreaterOrEqual(t, common(first, p), c.alike)
				assert.LessOrEqual(t, common(first, p), c.alike+c.spare, "unique after what is common")
			}
		}
	}
}

func TestSynthetic_SameSeedSamePrompts(t *testing.T) {
	tok := tokenizer(t)
	l := Lengths{New: Range{10, 50}, Depth: 20, Shared: 0.3}
	a, b := synthetic(t, tok, l), synthetic(t, tok, l)
	assert.Equal(t, bytesOf(t, a, 50), bytesOf(t, b, 50))
	assert.Equal(t, a.Hash(), b.Hash())
}

func TestNewSynthetic_SaysWhereItCannotBeExact(t *testing.T) {
	_, err := NewSynthetic(t.Context(), tokenizer(t), Lengths{New: Range{1, 1}, Shared: 2}, 1)
	assert.EqualError(t, err, "share of common tokens of 2: want 0 to 1")

	letters := counter(func(s string) int { return len(s) })
	_, err = NewSynthetic(t.Context(), letters, Lengths{New: Range{9, 9}}, 1)
	assert.ErrorContains(t, err, "only 0 common English words are one token to this server, too few: use a prompt file")

	// Two words may be one token, but only in a long text.
	pairs := counter(func(s string) int { n := len(strings.Fields(s)); return n - max(0, n-900)/2 })
	_, err = NewSynthetic(t.Context(), pairs, Lengths{New: Range{1000, 1000}}, 1)
	assert.EqualError(t, err, "synthetic prompt: 950 tokens instead of 1000: this tokenizer does not count word by word; use a prompt file")

	tok := tokenizer(t)
	tok.APIKey = "wrong"
	_, err = NewSynthetic(t.Context(), tok, Lengths{New: Range{9, 9}}, 1)
	assert.ErrorContains(t, err, "/tokenize: 401 Unauthorized: synthetic prompts need llama-server's /tokenize")
	tok.Base = "http://127.0.0.1:1"
	_, err = NewSynthetic(t.Context(), tok, Lengths{New: Range{9, 9}}, 1)
	assert.ErrorContains(t, err, "POST http://127.0.0.1:1/tokenize: dial tcp")
}

type counter func(string) int

func (c counter) Count(_ context.Context, s string) (int, error) { return c(s), nil }
