// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// recorderConfig is a collector that writes the requests of a server into a file;
// %s are the server's log, the endpoint and the file.
const recorderConfig = `
receivers:
  file_log: {include: ["%s"], start_at: beginning, include_file_path: true, include_file_record_offset: true}
connectors:
  llamacpplog: {endpoint: "%s"}
exporters:
  file: {path: "%s", flush_interval: 100ms}
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    traces: {receivers: [llamacpplog], exporters: [file]}
  telemetry:
    metrics: {level: none}
`

// send sends the requests of a run one at a time at the given times, and returns
// what came of each.
func send(t *testing.T, s *llamatest.Server, dues []time.Duration, q loadgen.Requests) []completion.Result {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(h.CloseIdleConnections)
	client, err := completion.New(s.URL(), h, completion.Options{Timeout: time.Minute})
	require.NoError(t, err)
	curve, err := arrival.NewReplay(dues, 1)
	require.NoError(t, err)
	results := make([]completion.Result, len(dues))
	r, err := loadgen.Start(t.Context(), loadgen.Config{
		Arrivals: arrival.Times(curve, arrival.Regular, 0), Requests: uint64(len(dues)), MaxInFlight: len(dues), Drain: time.Minute, MaxErrors: 1,
		Record: func(s loadgen.Sample) { results[s.N] = *s.Result },
	}, client, q)
	require.NoError(t, err)
	_, err = r.Wait()
	require.NoError(t, err)
	return results
}

// prompts are the requests of two users who alternate, each beginning with what was
// sent before, and of one who left.
type prompts struct{}

func (prompts) Request(n uint64) *completion.Request {
	q := &completion.Request{Prompt: llamatest.Words(150+20*int(n), n%2), MaxTokens: 5 + int(n), Stream: true}
	if n == 3 {
		q.MaxTokens, q.CancelAfter = 1500, 3
	}
	return q
}

func TestReplay_RepeatsWhatTheCollectorRecordedOfARealServer(t *testing.T) {
	t.Parallel()
	real := logged(t, llamatest.Options{})
	file := filepath.Join(t.TempDir(), "traces.jsonl")
	collectortest.Start(t, nil, "--config", collectortest.ConfigFile(t, fmt.Sprintf(recorderConfig, real.Log(), real.URL(), file)))
	dues := make([]time.Duration, 12)
	for i := range dues {
		dues[i] = time.Duration(i) * 300 * time.Millisecond
	}
	sent := send(t, real, dues, prompts{})

	var rec *traffic.Recording
	require.Eventually(t, func() bool {
		f, err := os.Open(file)
		if err != nil {
			return false
		}
		defer func() { _ = f.Close() }()
		rec, err = traffic.Read(f, file, traffic.Window{})
		return err == nil && len(rec.Requests)+rec.LeftOut == len(sent)
	}, 30*time.Second, 50*time.Millisecond, "all requests are in the file")
	assert.Equal(t, 1, rec.LeftOut, "nobody knows how much the cancelled one had")
	sent = append(sent[:3], sent[4:]...)
	cached := 0
	for i, q := range rec.Requests {
		assert.Equal(t, []int{sent[i].InputTokens, sent[i].CachedTokens, sent[i].OutputTokens}, []int{int(q.Input), int(q.Cached), int(q.Output)}, "request %d", i)
		cached += int(q.Cached)
	}
	require.Greater(t, cached, 1000, "what users sent before is in the cache")

	other := llamatest.Start(t, llamatest.Options{})
	h := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(h.CloseIdleConnections)
	for _, e := range []completion.Endpoint{completion.Completions, completion.Chat} {
		source, err := workload.NewReplay(t.Context(), &workload.ServerTokenizer{Base: other.URL(), HTTP: h}, e, rec, uint64(e))
		require.NoError(t, err)
		w, err := workload.New(workload.Settings{Endpoint: e, Seed: uint64(e), Stream: true, IgnoreEOS: true, MaxTokens: workload.Range{Min: 1, Max: 1}}, source)
		require.NoError(t, err)
		dues := make([]time.Duration, len(rec.Requests))
		for i, q := range rec.Requests {
			dues[i] = q.Due
		}
		repeated := send(t, other, dues, w)
		hit := 0
		for i, r := range repeated {
			require.NoError(t, r.Err)
			assert.Equal(t, []int{sent[i].InputTokens, sent[i].OutputTokens}, []int{r.InputTokens, r.OutputTokens}, "%s: request %d", e, i)
			hit += r.CachedTokens
			// The log knows when a request got its slot, to some milliseconds.
			assert.InDelta(t, sent[i].Sent.Sub(sent[0].Sent).Seconds(), r.Sent.Sub(repeated[0].Sent).Seconds(), 0.2, "%s: request %d", e, i)
		}
		assert.InEpsilon(t, cached, hit, 0.05, "%s: cached tokens", e)
	}
}
