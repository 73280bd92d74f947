// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadreal

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func newClient(t *testing.T, url string, o completion.Options) *completion.Client {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	c, err := completion.New(url, &http.Client{Transport: transport}, o)
	require.NoError(t, err)
	return c
}

// tokens are the totals of the server's counters or of a client's results.
type tokens struct{ computed, cached, predicted float64 }

func (n *tokens) add(r completion.Result) {
	n.computed += float64(r.InputTokens - r.CachedTokens)
	n.cached += float64(r.CachedTokens)
	n.predicted += float64(r.OutputTokens)
}

// metrics reads the server's /metrics and returns none if it does not answer.
func metrics(s *llamatest.Server) func(name string) float64 {
	c, err := llamaserver.New(s.URL(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "", 1<<20)
	if err != nil {
		return func(string) float64 { return -1 }
	}
	m, err := c.Metrics(context.Background(), "")
	return func(name string) float64 {
		if err != nil {
			return -1
		}
		v, _ := m.Value(name)
		return v
	}
}

func counted(s *llamatest.Server) tokens {
	value := metrics(s)
	return tokens{value("prompt_tokens_total"), value("prompt_tokens_cached_total"), value("tokens_predicted_total")}
}

// The server may count a request just after its answer has ended.
func assertCounted(t *testing.T, s *llamatest.Server, want tokens) {
	t.Helper()
	var got tokens
	if !assert.Eventually(t, func() bool { got = counted(s); return got == want }, 5*time.Second, 10*time.Millisecond) {
		assert.Equal(t, want, got)
	}
}

func TestCompletion_TokensOfEachEndpointAreTheServersToTheLast(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	c := newClient(t, s.URL(), completion.Options{})
	sum := counted(s)
	for _, e := range []completion.Endpoint{completion.Chat, completion.Completions, completion.Responses, completion.Messages, completion.Native} {
		for _, stream := range []bool{true, false} {
			for repeat := range 2 { // the second time, the prompt is in the cache
				q := &completion.Request{Endpoint: e, Prompt: llamatest.Words(20, uint64(e)*20+7), MaxTokens: 11, Stream: stream}
				name := fmt.Sprintf("%s, stream %t, time %d", e, stream, repeat)
				r := c.Do(t.Context(), q, time.Now())
				require.NoError(t, r.Err, name)
				assert.Equal(t, 11, r.OutputTokens, name)
				assert.Greater(t, r.InputTokens, 20, name)
				if repeat == 1 {
					assert.Equal(t, r.InputTokens-1, r.CachedTokens, name)
				}
				sum.add(r)
				assertCounted(t, s, sum)

				if r.Timings != nil {
					assert.Equal(t, []int{r.InputTokens - r.CachedTokens, r.CachedTokens, r.OutputTokens},
						[]int{r.Timings.PromptTokens, r.Timings.CachedTokens, r.Timings.PredictedTokens}, name)
				}
				if !stream {
					assert.True(t, r.FirstToken.IsZero(), name)
					continue
				}
				assert.Equal(t, 11, r.Chunks, name)
				assert.Len(t, r.Gaps, 10, name)
				order := []time.Time{r.Due, r.Sent, r.GotConn, r.Headers, r.FirstChunk, r.FirstToken, r.LastToken, r.End}
				for i := range order[1:] {
					assert.False(t, order[i+1].Before(order[i]), "%s: time %d comes before the one before it", name, i+1)
				}
				assert.Equal(t, r.FirstToken, r.FirstAnswer, name)
			}
		}
	}
}

func TestCompletion_WithoutTheCacheEachPromptIsComputedInFull(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	c := newClient(t, s.URL(), completion.Options{})
	for _, e := range []completion.Endpoint{completion.Chat, completion.Completions, completion.Responses, completion.Messages, completion.Native} {
		for repeat := range 2 {
			q := &completion.Request{Endpoint: e, Prompt: llamatest.Words(20, uint64(e)+1), MaxTokens: 2, Stream: true, CachePrompt: new(bool)}
			r := c.Do(t.Context(), q, time.Now())
			require.NoError(t, r.Err, e)
			if e == completion.Messages && repeat == 1 {
				assert.Equal(t, r.InputTokens-1, r.CachedTokens, "the server does not pass this on: workload refuses it")
			} else if e != completion.Messages {
				assert.Zero(t, r.CachedTokens, e)
			}
		}
	}
}

func TestCompletion_Embeddings(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Args: []string{"--embeddings", "--pooling", "mean"}})
	c := newClient(t, s.URL(), completion.Options{})
	for _, q := range []*completion.Request{
		{Endpoint: completion.Embeddings, Prompt: llamatest.Words(20, 1)},
		{Endpoint: completion.Embeddings, PromptTokens: []int{1, 300, 301}},
	} {
		r := c.Do(t.Context(), q, time.Now())
		require.NoError(t, r.Err)
		if q.PromptTokens != nil {
			assert.Equal(t, 3, r.InputTokens)
		} else {
			assert.Equal(t, 21, r.InputTokens, "with the token of the beginning")
		}
		assert.Equal(t, "tiny", r.Model)
	}
}

func TestCompletion_PromptOfTokens(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	c := newClient(t, s.URL(), completion.Options{})
	for _, e := range []completion.Endpoint{completion.Completions, completion.Native} {
		r := c.Do(t.Context(), &completion.Request{Endpoint: e, PromptTokens: []int{1, 300, 301, 302}, MaxTokens: 3, Stream: true}, time.Now())
		require.NoError(t, r.Err)
		assert.Equal(t, 4, r.InputTokens)
	}
}

// llama-server ends the connection of each stream although it announces to
// keep it, and that of each hundredth request.
func TestCompletion_NoErrorIsOfOurOwnMaking(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	c := newClient(t, s.URL(), completion.Options{})
	sum := counted(s)
	var (
		mu      sync.Mutex
		workers sync.WaitGroup
	)
	for worker := range 8 { // twice as many as slots
		workers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 50 {
				q := &completion.Request{
					Endpoint: completion.Endpoint(random.IntN(5)), Prompt: llamatest.Words(1+random.IntN(40), random.Uint64()),
					MaxTokens: 1 + random.IntN(20), Stream: i%3 != 0,
				}
				r := c.Do(t.Context(), q, time.Now())
				assert.NoError(t, r.Err)
				assert.Equal(t, completion.OK, r.Outcome)
				assert.Equal(t, q.MaxTokens, r.OutputTokens, q.Endpoint)
				mu.Lock()
				sum.add(r)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	assertCounted(t, s, sum)
}

func TestCompletion_CancelledStreamFreesItsSlot(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow})
	c := newClient(t, s.URL(), completion.Options{})
	q := &completion.Request{Prompt: llamatest.Words(5, 1), MaxTokens: 1500, Stream: true, CancelAfter: 12}
	r := c.Do(t.Context(), q, time.Now())
	assert.NoError(t, r.Err)
	assert.Equal(t, completion.Cancelled, r.Outcome)
	assert.Equal(t, 12, r.Chunks)
	assert.Eventually(t, func() bool { return counted(s).predicted >= 12 }, 5*time.Second, 10*time.Millisecond, "the server notices")
	assert.Less(t, counted(s).predicted, 500.0)
}

func TestCompletion_ServerThatEndsWithinAStream(t *testing.T) {
	for name, end := range map[string]func(*llamatest.Server){"SIGTERM": (*llamatest.Server).Terminate, "SIGKILL": (*llamatest.Server).Kill} {
		t.Run(name, func(t *testing.T) {
			s := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow})
			c := newClient(t, s.URL(), completion.Options{})
			go func() {
				for metrics(s)("n_decode_total") < 20 {
					time.Sleep(10 * time.Millisecond)
				}
				end(s)
			}()
			r := c.Do(t.Context(), &completion.Request{Prompt: llamatest.Words(5, 1), MaxTokens: 1800, Stream: true}, time.Now())
			assert.Equal(t, completion.Failed, r.Outcome)
			assert.Equal(t, completion.StreamCut, r.ErrorType, "%v", r.Err)
			assert.Positive(t, r.Chunks)
			assert.Equal(t, -1, r.OutputTokens)

			<-s.Exited()
			r = c.Do(t.Context(), &completion.Request{Prompt: "hello", Stream: true}, time.Now())
			assert.Equal(t, netfailure.ConnectionRefused, r.ErrorType, "%v", r.Err)
		})
	}
}

func TestCompletion_Refusals(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{APIKey: "secret", Slots: 1, Context: 256})
	keyed := newClient(t, s.URL(), completion.Options{APIKey: "secret"})
	q := &completion.Request{Prompt: "hello", MaxTokens: 2, Stream: true}
	require.NoError(t, keyed.Do(t.Context(), q, time.Now()).Err)
	anthropic := *q
	anthropic.Endpoint = completion.Messages
	require.NoError(t, keyed.Do(t.Context(), &anthropic, time.Now()).Err)

	for want, c := range map[string]struct {
		client  *completion.Client
		request completion.Request
	}{
		"401: authentication_error":      {newClient(t, s.URL(), completion.Options{}), *q},
		"400: exceed_context_size_error": {keyed, completion.Request{Prompt: llamatest.Words(500, 1), Stream: true}},
		"400: invalid_request_error":     {keyed, completion.Request{Extra: map[string]json.RawMessage{"messages": []byte(`[1]`)}}},
		"501: not_supported_error":       {keyed, completion.Request{Endpoint: completion.Embeddings, Prompt: "hello"}},
		"404: not_found_error":           {newClient(t, s.URL()+"/prefix", completion.Options{APIKey: "secret"}), *q},
	} {
		r := c.client.Do(t.Context(), &c.request, time.Now())
		assert.Equal(t, want[:3], r.ErrorType)
		assert.ErrorContains(t, r.Err, want)
	}
}

func TestCompletion_WhileTheModelIsLoaded(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow, WithoutWait: true})
	c := newClient(t, s.URL(), completion.Options{})
	seen := map[string]bool{}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		r := c.Do(t.Context(), &completion.Request{Prompt: "hello", MaxTokens: 1, Stream: true}, time.Now())
		seen[r.ErrorType] = true
		if r.Outcome == completion.OK {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	assert.True(t, seen[""], "it is loaded in the end")
	assert.True(t, seen["503"], "%v", seen)
	delete(seen, "")
	delete(seen, "503")
	delete(seen, netfailure.ConnectionRefused)
	assert.Empty(t, seen)
}
