// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// Prometheus is down for a while, and the collector is killed meanwhile: every
// point is there afterwards. A sink that is never down knows what there was, except
// in the moment of the kill: what it got then, the queue may not have.
func TestPush_LosesNothingInAnOutage(t *testing.T) {
	t.Parallel()
	server := llamasim.Start(t, llamasim.Options{})
	server.AddLoad(llamasim.Load{Concurrency: 6})
	sink := otlpsink.Start(t)
	prometheus, collector := startWay(t, ways[1], "15s", fmt.Sprintf(`
receivers: {llamacpp: {scrapers: {server: {collection_interval: 100ms}, slots: {collection_interval: 100ms}}}}
exporters:
  otlp_http/prometheus: {retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}
  otlp_http/sink: {endpoint: %q, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
service: {pipelines: {metrics: {exporters: [otlp_http/prometheus, otlp_http/sink]}}}
`, sink.URL()), "LLAMACPP_ENDPOINT="+server.URL())

	// How many points have been stored for each time. A histogram has several series, of which one counts here.
	stored := func() map[int64]int {
		at := map[int64]int{}
		for _, series := range prometheus.Samples(`{__name__=~".+", __name__!~"target_info|.+_bucket|.+_seconds_sum"}[10m]`) {
			for _, sample := range series.Values {
				at[int64(sample.Timestamp)]++
			}
		}
		return at
	}
	var killed time.Time
	missing := func(sent otlpsink.Points) int {
		want, got := map[int64]int{}, stored()
		for _, p := range sent {
			if p.Arrived.After(killed.Add(-100*time.Millisecond)) && p.Arrived.Before(killed) {
				continue
			}
			want[p.Time.UnixMilli()]++
		}
		n := 0
		for at, count := range want {
			n += max(0, count-got[at])
		}
		return n
	}
	otlpsink.Eventually(t, 40*time.Second, func() bool { return len(stored()) > 10 }, "points arrive")

	prometheus.Stop()
	time.Sleep(12 * time.Second)
	collector.Kill()
	killed = time.Now()
	collector.Start()
	time.Sleep(8 * time.Second)
	prometheus.Start()
	time.Sleep(2 * time.Second)
	sent := sink.Points()
	lost := missing(sent)
	for end := time.Now().Add(time.Minute); lost > 0 && time.Now().Before(end); lost = missing(sent) {
		time.Sleep(500 * time.Millisecond)
	}
	assert.Zero(t, lost, "points of %d are missing", len(sent))
	assert.NotContains(t, collector.Log(), "not retryable", "Prometheus refused points")
}
