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

// A Prometheus that is away for less time than remote write tries a batch has
// every point afterwards. A sink that is never away knows what there was.
func TestRemoteWrite_OutlastsARestartOfPrometheus(t *testing.T) {
	t.Parallel()
	server := llamasim.Start(t, llamasim.Options{})
	server.AddLoad(llamasim.Load{Concurrency: 6})
	sink := otlpsink.Start(t)
	prometheus, _ := startWay(t, ways[2], "15s", fmt.Sprintf(`
exporters: {otlp_http/sink: {endpoint: %q, sending_queue: {enabled: false}}}
service: {pipelines: {metrics: {exporters: [prometheus_remote_write, otlp_http/sink]}}}
`, sink.URL()), "LLAMACPP_ENDPOINT="+server.URL())
	const metric = "llamacpp_requests_processing"
	lost := func(sent otlpsink.Points) int {
		got := map[int64]bool{}
		for _, series := range prometheus.Samples(metric + "[10m]") {
			for _, sample := range series.Values {
				got[int64(sample.Timestamp)] = true
			}
		}
		n := 0
		for _, p := range sent {
			if !got[p.Time.UnixMilli()] {
				n++
			}
		}
		return n
	}
	otlpsink.Eventually(t, 40*time.Second, func() bool { return len(prometheus.Query(metric)) == 1 }, "points arrive")
	prometheus.Stop()
	time.Sleep(6 * time.Second)
	prometheus.Start()
	sent := sink.Points(otlpsink.Metric("llamacpp.requests.processing"))
	assert.Greater(t, len(sent), 5)
	otlpsink.Eventually(t, 40*time.Second, func() bool { return lost(sent) == 0 }, "all points arrive: %d of %d are missing", lost(sent), len(sent))
}
