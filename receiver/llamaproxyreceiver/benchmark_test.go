// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver

import (
	"net/http"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"
)

// What it costs, besides reading its answer, to measure a request that has a client's
// trace context: noting its arrival, counting it, and making its four spans.
func BenchmarkRequest(b *testing.B) {
	for name, traces := range map[string]bool{"metrics": false, "metrics and spans": true} {
		b.Run(name, func(b *testing.B) {
			cfg := newDefaultConfig()
			where, err := endpoint.Parse(cfg.Upstream.Endpoint)
			if err != nil {
				b.Fatal(err)
			}
			h := &hub{cfg: cfg, where: where}
			counted := newMetricsOutput(cfg, receivertest.NewNopSettings(metadata.Type), consumertest.NewNop())
			counted.hub = h
			h.attach(counted)
			header := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				x := streamed().Exchange
				timings := *x.Result.Timings
				timings.Predicted += time.Duration(n) * time.Microsecond // no two requests are alike
				x.Header, x.Result.Timings = header, &timings
				h.Arrived(x)
				h.Answering(x)
				h.Ended(x)
				if traces {
					to := ptrace.NewSpanSlice()
					x.Measurement.(*measured).spans(to)
					if to.Len() != 4 {
						b.Fatalf("%d spans", to.Len())
					}
				}
				n++
			}
			of := labels{operation: "chat", model: "gpt-4", outcome: proxy.Completed}
			if got := counted.instances[where.Instance].requests[of]; got != int64(n) {
				b.Fatalf("%d of %d requests were counted", got, n)
			}
		})
	}
}
