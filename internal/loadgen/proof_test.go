// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// against sends to a real server whose true times are known.
func against(t *testing.T, s *scriptedserver.Server, c Config) *Results {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := completion.New(s.URL, &http.Client{Transport: transport}, completion.Options{Timeout: time.Minute})
	require.NoError(t, err)
	w, err := workload.New(workload.Settings{MaxTokens: workload.Range{Min: 4, Max: 4}, Stream: true}, workload.Builtin())
	require.NoError(t, err)
	r, err := Start(t.Context(), c, client, w)
	require.NoError(t, err)
	results, err := r.Wait()
	require.NoError(t, err)
	return results
}

// The test of coordinated omission in real time and over HTTP: the server stalls
// once for two seconds while few requests may be in flight.
func TestProof_AStallOfTheServerShowsInFullFromDueTime(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("a", 5, scriptedserver.Every(5*ms, 4, 2*ms)...)))
	var stall sync.WaitGroup
	stall.Go(func() {
		time.Sleep(time.Second)
		s.Stall(2 * time.Second)
	})
	r := against(t, s, Config{
		Arrivals: arrival.Times(arrival.Constant(50), arrival.Regular, 0), Duration: 6 * time.Second,
		MaxInFlight: 2, MaxWait: time.Minute, Drain: time.Minute, MaxErrors: 0, Sleep: PreciseSleep,
	})
	stall.Wait()
	require.Equal(t, Counts{Due: 300, Sent: 300, OK: 300}, r.Counts)
	// A hundred of three hundred were due in the stall: the latencies of these
	// fall from two seconds to nothing, so one in six of all is above a second.
	for _, h := range []*Histogram{r.TTFT, r.E2E} {
		assert.Greater(t, h.Max(), 1900*ms)
		assert.Greater(t, h.Percentile(84), time.Second)
		assert.Greater(t, h.Percentile(95), 1600*ms)
	}
	// A closed loop would have seen two slow requests of three hundred.
	for _, h := range []*Histogram{r.TTFTFromSend, r.E2EFromSend} {
		assert.Greater(t, h.Max(), 1900*ms)
		assert.Less(t, h.Percentile(95), time.Second)
	}
}

func TestProof_DropsAreCountedExactly(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Script{End: scriptedserver.Never}))
	r := against(t, s, Config{
		Arrivals: arrival.Times(arrival.Constant(100), arrival.Poisson, 5), Requests: 120,
		MaxInFlight: 7, Drain: 100 * ms, MaxErrors: 1,
	})
	assert.Equal(t, Counts{Due: 120, Sent: 7, Cancelled: 7, Dropped: 113}, r.Counts)
	assert.Len(t, s.Exchanges(), 7)
}

func TestProof_ReportedTimesAreTheServersOwn(t *testing.T) {
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("a", 5, scriptedserver.Every(30*ms, 11, 10*ms)...)))
	r := against(t, s, Config{
		Arrivals: arrival.Times(arrival.Constant(20), arrival.Poisson, 1), Duration: 3 * time.Second,
		MaxInFlight: 100, Drain: time.Minute, MaxErrors: 0, Sleep: PreciseSleep,
	})
	n := r.Counts.OK
	require.Positive(t, n)
	// The server's own sleeps are late as well, so compare with what it really did.
	var first, tpot, end time.Duration
	for _, x := range s.Exchanges() {
		first += x.Sent[0].Sub(x.Arrived)
		tpot += x.Sent[10].Sub(x.Sent[0]) / 10
		end += x.Sent[len(x.Sent)-1].Sub(x.Arrived)
	}
	of := time.Duration(n)
	assert.Len(t, s.Exchanges(), n)
	assert.InDelta(t, (tpot / of).Seconds(), r.TPOT.Mean().Seconds(), 0.001)
	assert.Greater(t, r.TTFTFromSend.Mean(), first/of)
	assert.Greater(t, r.E2EFromSend.Mean(), end/of)
	assert.InDelta(t, (first / of).Seconds(), r.TTFTFromSend.Mean().Seconds(), 0.02)
	assert.Equal(t, Tokens{Input: 5 * n, Output: 11 * n, cachedKnown: 5 * n}, r.Tokens)
}
