// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

func TestHistogram_MaxAndMeanAreExactAndPercentilesNearly(t *testing.T) {
	h := newHistogram()
	for i := range 1000 {
		h.record(time.Duration(i+1) * 1_234_567)
	}
	assert.EqualValues(t, 1000, h.Count())
	assert.EqualValues(t, 1000*1_234_567, h.Max())
	assert.Equal(t, time.Duration(1_234_567*1001/2), h.Mean())
	assert.InEpsilon(t, 950*1_234_567, int64(h.Percentile(95)), 0.001)
	assert.Equal(t, h.Max(), h.Percentile(100))

	h.record(3 * time.Hour)
	assert.Equal(t, 3*time.Hour, h.Max(), "longer than the percentiles reach")
}

func TestHistogram_JSONHasSecondsAndTheDistribution(t *testing.T) {
	empty, err := json.Marshal(newHistogram())
	require.NoError(t, err)
	assert.JSONEq(t, `{"count":0,"p50":null,"p95":null,"p99":null,"max":null,"mean":null}`, string(empty))

	h := newHistogram()
	h.record(250 * ms)
	b, err := json.Marshal(h)
	require.NoError(t, err)
	var j struct {
		P50, Max float64
		HDR      string
	}
	require.NoError(t, json.Unmarshal(b, &j))
	assert.InDelta(t, 0.25, j.P50, 1e-9)
	assert.InDelta(t, 0.25, j.Max, 1e-9)
	decoded, err := hdrhistogram.Decode([]byte(j.HDR))
	require.NoError(t, err)
	assert.InEpsilon(t, int64(250*ms), decoded.ValueAtPercentile(50), 0.001)
}

func TestReport_FirstLineSaysWhetherTheGeneratorWasTheBottleneck(t *testing.T) {
	for name, c := range map[string]struct {
		lag     time.Duration
		dropped int
		want    string
	}{
		"kept up": {ms, 0, "honesty generator kept up: 99 % of requests were sent within 1ms of when they were due"},
		"late":    {20 * ms, 0, "honesty GENERATOR WAS THE BOTTLENECK: 99 % of requests were sent within 20ms of when they were due"},
		"dropped": {ms, 3, "honesty GENERATOR WAS THE BOTTLENECK: 3 of 4 requests were dropped, since 8 were in flight already"},
	} {
		r := newRecorder(&Config{}, nil).results()
		r.Lag.record(c.lag)
		r.Counts = Counts{Due: 1 + c.dropped, Sent: 1, Dropped: c.dropped}
		p := NewReport(&Config{MaxInFlight: 8}, r, About{}, Workload{})
		var b strings.Builder
		require.NoError(t, p.WriteText(&b))
		line, _, _ := strings.Cut(b.String(), "\n")
		assert.Equal(t, c.want, strings.Join(strings.Fields(line), " "), name)
		assert.Equal(t, name != "kept up", p.Generator.Limited)
	}
}

func TestReconcile_SaysWhoseTokensDiffer(t *testing.T) {
	results := func(input, cached, output, uncounted int) *Results {
		return &Results{AllTokens: Tokens{Input: input, Cached: cached, Output: output}, Uncounted: uncounted}
	}
	before := Counters{process: "1", prompt: 100, cached: 10, predicted: 50, hasCached: true}
	after := Counters{process: "1", prompt: 190, cached: 20, predicted: 80, hasCached: true}
	busy, old, other := before, before, after
	busy.busy, old.hasCached, other.process = 1, false, "2"
	large, larger := before, after
	large.predicted, larger.predicted = 1_000_000, 1_000_040 // printed as 1.00004e+06

	for _, c := range []struct {
		name          string
		before, after Counters
		r             *Results
		agrees        bool
		note          string
	}{
		{"equal", before, after, results(100, 10, 30, 0), true, "agree to the token"},
		{"one token off", before, after, results(100, 10, 29, 0), false, "others used it during the run"},
		{"cached one off", before, after, results(100, 11, 30, 0), false, "fewer tokens than it told"},
		{"busy before", busy, after, results(100, 10, 29, 0), false, "was busy with others' requests when the run began"},
		{"cut", before, after, results(100, 10, 20, 2), false, "2 requests were left or cut before it told their tokens"},
		{"too many here", before, after, results(100, 10, 31, 0), false, "fewer tokens than it told"},
		{"restart", before, other, results(100, 10, 30, 0), false, "was restarted during the run"},
		{"an old build", old, after, results(100, 10, 30, 0), true, "agree to the token"},
		{"six digits", large, larger, results(100, 10, 45, 0), true, "as exactly as it prints them"},
		{"more than the digits hide", large, larger, results(100, 10, 55, 0), false, "fewer tokens"},
	} {
		got := Reconcile(&c.before, &c.after, c.r)
		assert.Equal(t, c.agrees, got.Agrees, c.name)
		assert.Contains(t, got.Note, c.note, c.name)
	}
}

type foreign struct{}

func (foreign) Metrics(context.Context, string) (*llamaserver.Metrics, error) {
	return llamaserver.ParseMetrics([]byte("llamacpp:requests_processing 1\n"))
}

func TestReadCounters_RefusesAServerWithoutThem(t *testing.T) {
	_, err := ReadCounters(t.Context(), foreign{}, "")
	assert.EqualError(t, err, "/metrics has no prompt_tokens_total or tokens_predicted_total: is this a llama-server?")
}

func TestPlain_WritesDurationsAsPeopleDo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Hour:               "1h",
		90 * time.Minute:        "1h30m",
		time.Hour + time.Second: "1h0m1s",
		10 * time.Minute:        "10m",
		90 * time.Second:        "1m30s",
		10 * time.Second:        "10s",
		750 * time.Millisecond:  "750ms",
		0:                       "0s",
	} {
		assert.Equal(t, want, Plain(d))
	}
}
