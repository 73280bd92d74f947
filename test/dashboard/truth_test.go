// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// quantile is the value below which so large a part of sorted values is.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// Requests of known lengths: the page's percentiles are theirs, its counts equal
// the server's own to the token, and nothing of that is lost or doubled by an end
// without warning.
func TestDashboard_ShowsWhatWasTrue(t *testing.T) {
	t.Parallel()
	const speed = 100 // tokens/s
	file, variable := logged(t)
	server := llamasim.Start(t, llamasim.Options{Log: file, Slots: 20, TokensPerSecond: speed, PromptTokensPerSecond: 1e6})
	c := watch(t, []string{"LLAMACPP_ENDPOINT=" + server.URL(), variable})
	c.AwaitLog("Started watching file")
	sent := 0
	// What rate sees of a counter begins with its second point. The log is read from
	// its end, which is looked for a moment after the line above.
	c.eventually(func() bool {
		if sent == 0 || sent < 5 && len(c.requests()) == 0 {
			complete(t, server, "warm up", 5)
			sent++
		}
		n, ok := c.number(`sum(llamacpp_requests_total)`)
		return ok && n >= 1 && int(n) == len(c.requests())
	}, "the first request is seen")
	warm := len(c.requests())
	began := time.Now()
	before, ok := c.number(`sum(llamacpp_tokens_predicted_total)`)
	require.True(t, ok)

	// 15 to 250 tokens, the long ones first so that the slots are full until the end.
	var lengths []int
	for i := range 100 {
		lengths = append(lengths, 250-i*235/99)
	}
	completeAll(t, server, 20, lengths...)
	c.eventually(func() bool {
		return c.is(float64(warm+100), `sum(llamacpp_requests_total)`) && c.is(float64(server.Predicted()), `sum(llamacpp_tokens_predicted_total)`) &&
			len(c.requests()) == warm+100
	}, "100 requests and %d tokens, as the server counts them", server.Predicted())
	after := time.Now()

	// The page's list has the truth: each request took its tokens' time.
	var durations []float64
	for _, r := range c.requests()[:100] {
		assert.InDelta(t, float64(r.Generated-1)/speed, r.Duration, 0.02+0.01*r.Duration, "a request of %d tokens", r.Generated)
		assert.Equal(t, "completed", r.Outcome)
		durations = append(durations, r.Duration)
	}
	slices.Sort(durations)
	// The 30 s of the panel's rate hold all of them: they were sent in 8 s.
	require.Less(t, after.Sub(began), 25*time.Second, "this machine is too slow for this test")
	shown := c.snapshot("window=60").last("request-time")
	for name, q := range map[string]float64{"P50": 0.50, "P95": 0.95} {
		want := quantile(durations, q)
		require.Contains(t, shown, name)
		assert.InEpsilon(t, want, shown[name], 0.05, "%s: the truth is %.3f s, the page shows %.3f s", name, want, shown[name])
	}

	t.Run("the plain scrape has explicit buckets", func(t *testing.T) {
		response, err := http.Get(c.prometheus)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		bounds := 0
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "gen_ai_server_request_duration_seconds_bucket{") {
				bounds++
			}
		}
		assert.Greater(t, bounds, 10)
	})
	t.Run("the increase is exact", func(t *testing.T) {
		now, ok := c.number(`sum(llamacpp_tokens_predicted_total)`, after)
		require.True(t, ok)
		var tokens int64
		for _, r := range c.requests()[:100] {
			tokens += r.Generated
		}
		// The server's counter leaves out what its own builds leave out as well.
		assert.InDelta(t, float64(server.Predicted())-before, now-before, 0)
		assert.InDelta(t, float64(server.Decoded()), c.sumOf(t, `sum(llamacpp_slots_tokens_decoded_total)`), 0)
		var want int64
		for _, n := range lengths {
			want += int64(n)
		}
		assert.Equal(t, want, tokens, "tokens of the requests in the list")
	})
	t.Run("kill -9 loses and doubles nothing", func(t *testing.T) {
		const tokens = `llamacpp_tokens_predicted_total`
		past, list := matrix(t, c.base, tokens, began, after), c.requests()
		require.NotEmpty(t, past)
		c.Kill()
		completeAll(t, server, 5, 20, 21, 22, 23, 24) // nobody watches
		c.Start()
		c.AwaitLog("Everything is ready")
		assert.True(t, alike(past, matrix(t, c.base, tokens, began, after)), "the history before the end")
		c.eventually(func() bool { return c.is(float64(warm+105), `sum(llamacpp_requests_total)`) }, "the lines of the log in between are read")
		c.eventually(func() bool { return len(c.requests()) >= warm+105 }, "the list has the new requests")
		assert.True(t, alike(past, matrix(t, c.base, tokens, began, after)), "the history before the end, later")
		assert.Equal(t, list, c.requests()[5:], "the list of requests before the end")
		c.eventually(func() bool { return c.is(float64(server.Predicted()), `sum(llamacpp_tokens_predicted_total)`) }, "the counters go on")
		completeAll(t, server, 2, 30, 31)
		c.eventually(func() bool {
			return c.is(float64(warm+107), `sum(llamacpp_requests_total)`) && c.is(float64(server.Predicted()), `sum(llamacpp_tokens_predicted_total)`)
		}, "and what comes then")
		c.eventually(func() bool { return len(c.requests()) == warm+107 }, "the list goes on")
		seen := map[string]bool{}
		for _, r := range c.requests() {
			assert.False(t, seen[r.ID], "request %s is there twice", r.ID)
			seen[r.ID] = true
		}
		assert.Len(t, c.vector(`count by (__name__) (llamacpp_tokens_predicted_total)`), 1)
		assert.True(t, c.is(0, `sum(resets(llamacpp_tokens_predicted_total[5m]))`), "no counter began anew")
	})
}

// sumOf waits until an expression rests, and is its value.
func (c *collector) sumOf(t *testing.T, expr string) float64 {
	t.Helper()
	last := math.NaN()
	c.eventually(func() bool {
		now, ok := c.number(expr)
		rests := ok && now == last
		last = now
		return rests
	}, "%s rests", expr)
	return last
}
