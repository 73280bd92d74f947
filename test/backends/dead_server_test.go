// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// What was true of a server while it ran is not shown as true when it has gone,
// on any way to Prometheus.
func TestDeadServer_DoesNotLookBusy(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			server := llamasim.Start(t, llamasim.Options{})
			server.AddLoad(llamasim.Load{Concurrency: 12, MaxTokens: 1000})
			prometheus, _ := startWay(t, w, "1s", "", "LLAMACPP_ENDPOINT="+server.URL())
			of := fmt.Sprintf(`{job="llama-server", instance=%q}`, instance(server.URL()))
			gone := []string{"llamacpp_requests_processing", "llamacpp_requests_deferred", "llamacpp_slots", "llamacpp_context_utilization_ratio"}
			otlpsink.Eventually(t, 40*time.Second, func() bool {
				for _, metric := range gone {
					if len(prometheus.Query(metric+of)) == 0 {
						return false
					}
				}
				return prometheus.Value("llamacpp_requests_processing"+of) == 4 && prometheus.Value("llamacpp_requests_deferred"+of) == 8
			}, "4 requests run and 8 wait")

			server.Stop()
			unreachable := fmt.Sprintf(`llamacpp_server_status{job="llama-server", instance=%q, llamacpp_server_state="unreachable"}`, instance(server.URL()))
			otlpsink.Eventually(t, 10*time.Second, func() bool { return prometheus.Value(unreachable) == 1 }, "unreachable")
			for _, metric := range gone {
				otlpsink.Eventually(t, 10*time.Second, func() bool { return len(prometheus.Query(metric+of)) == 0 }, "no %s: %v", metric, prometheus.Query(metric+of))
			}
		})
	}
}
