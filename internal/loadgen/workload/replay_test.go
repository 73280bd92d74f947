// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"
)

// users is a recording of two users and somebody who came once.
func users() *traffic.Recording {
	return &traffic.Recording{Requests: []traffic.Request{
		{Input: 100, Output: 7, From: -1},
		{Input: 300, Output: 8, From: -1},
		{Input: 250, Cached: 110, Output: 9, From: 0, Shared: 100},
		{Input: 120, Cached: 60, Output: 1, From: 0, Shared: 60},
		{Input: 400, Cached: 250, Output: 2, From: 2, Shared: 250},
		{Input: 3, Output: 3, From: -1},
	}}
}

func replayed(t *testing.T, s Settings, rec *traffic.Recording) *Workload {
	t.Helper()
	p, err := NewReplay(t.Context(), tokenizer(t), s.Endpoint, rec, s.Seed)
	require.NoError(t, err)
	return build(t, s, p)
}

func TestReplay_RepeatsLengthsAndWhatPromptsHadInCommon(t *testing.T) {
	tok := tokenizer(t)
	for _, c := range []struct {
		endpoint       completion.Endpoint
		before, around int // tokens that the server adds in front of a text, and in all
	}{
		{completion.Native, 1, 1}, {completion.Chat, 6, 20},
	} {
		rec := users()
		s := settings(3)
		s.Endpoint = c.endpoint
		w := replayed(t, s, rec)
		prompts := make([]string, len(rec.Requests))
		for i, q := range rec.Requests {
			r := w.Request(uint64(i))
			prompts[i] = r.Prompt
			n, err := tok.Count(t.Context(), r.Prompt)
			require.NoError(t, err)
			assert.Equal(t, max(1, int(q.Input)-c.around), n, "%s: tokens of request %d", c.endpoint, i)
			assert.Equal(t, int(q.Output), r.MaxTokens)
		}
		for i, q := range rec.Requests {
			for j := range i {
				want := 0
				if int(q.From) == j {
					want = min(int(q.Shared)-c.before, len(strings.Fields(prompts[j])))
				}
				if i == 4 && j == 0 { // by way of request 2
					want = len(strings.Fields(prompts[0]))
				}
				if i == 3 && j == 2 || i == 4 && j == 3 { // both begin like request 0
					want = min(60, 100) - c.before
				}
				assert.InDelta(t, want, common(prompts[i], prompts[j]), 2, "%s: requests %d and %d; two words may be alike by chance", c.endpoint, i, j)
			}
		}
	}
}

func TestReplay_SameRecordingAndSeedSameRequests(t *testing.T) {
	a, b := replayed(t, settings(1), users()), replayed(t, settings(1), users())
	assert.Equal(t, bytesOf(t, a, 6), bytesOf(t, b, 6))
	assert.Equal(t, a.Hash(), b.Hash())
	assert.NotEqual(t, a.Hash(), replayed(t, settings(2), users()).Hash())
	for name, change := range map[string]func(*traffic.Request){
		"time":   func(q *traffic.Request) { q.Due = time.Second },
		"length": func(q *traffic.Request) { q.Input++ },
		"answer": func(q *traffic.Request) { q.Output++ },
		"prefix": func(q *traffic.Request) { q.Shared-- },
	} {
		other := users()
		change(&other.Requests[2])
		assert.NotEqual(t, a.Hash(), replayed(t, settings(1), other).Hash(), name)
	}
}

func TestNewReplay_SaysWhereItCannotBeExact(t *testing.T) {
	tok := tokenizer(t)
	for want, s := range map[string]Server{
		"the server's chat template leaves out the message: use the endpoint completion":        odd{tok, nil, ""},
		"prompt of request 1: 300 tokens instead of 299: this tokenizer does not count word by": odd{tok, func(n int) int { return n + n/290 }, "[000000000000]"},
	} {
		_, err := NewReplay(t.Context(), s, completion.Chat, users(), 1)
		assert.ErrorContains(t, err, want)
	}
	tok.APIKey = "wrong"
	_, err := NewReplay(t.Context(), tok, completion.Chat, users(), 1)
	assert.ErrorContains(t, err, "/apply-template: 401 Unauthorized: synthetic prompts need llama-server's /apply-template")
}

// odd is a server that counts otherwise, or has another template.
type odd struct {
	*ServerTokenizer
	count    func(int) int
	template string
}

func (o odd) CountPrompt(ctx context.Context, s string) (int, error) {
	n, err := o.ServerTokenizer.CountPrompt(ctx, s)
	if o.count != nil {
		n = o.count(n)
	}
	return n, err
}

func (o odd) ApplyTemplate(context.Context, string) (string, error) { return o.template, nil }

func BenchmarkReplay(b *testing.B) {
	var rec traffic.Recording
	for range 100 {
		rec.Requests = append(rec.Requests, traffic.Request{Input: 4096, Output: 1, From: -1})
	}
	p := &Replay{lexicon: lexicon{heads: []string{"the"}, words: strings.Fields(vocabulary)}, requests: rec.Requests}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		p.text(n % 100)
	}
}
