// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
)

// batches of a hundred records, as file_log hands them on, of requests that go on
// from batch to batch.
func batches(n int) []plog.Logs {
	const request = `0.%02d.%03d.218 I slot get_availabl: id  0 | task -1 | selected slot by LCP similarity, f_sim_best = 0.250 (> 0.100 thold), f_keep = 0.224
0.%02[1]d.%03[2]d.218 I slot launch_slot_: id  0 | task %[3]d | processing task, is_child = 0
0.%02[1]d.%03[2]d.300 I slot print_timing: id  0 | task %[3]d | prompt eval time =       1.44 ms /    44 tokens (    0.03 ms per token, 30576.79 tokens per second)
0.%02[1]d.%03[2]d.300 I slot print_timing: id  0 | task %[3]d |        eval time =       0.53 ms /     6 tokens (    0.11 ms per token,  9523.81 tokens per second)
0.%02[1]d.%03[2]d.300 I slot print_timing: id  0 | task %[3]d |       total time =       1.96 ms /    50 tokens
0.%02[1]d.%03[2]d.300 I slot print_timing: id  0 | task %[3]d |    graphs reused =          5
0.%02[1]d.%03[2]d.300 I slot print_timing: id  0 | task %[3]d |   graph reallocs =          0    /     0        (same size) / (changed size)
0.%02[1]d.%03[2]d.310 I slot      release: id  0 | task %[3]d | stop processing: n_tokens = 49, truncated = 0
`
	var all []plog.Logs
	var b strings.Builder
	task := 0
	for range n {
		for strings.Count(b.String(), "\n") < 100 {
			fmt.Fprintf(&b, request, task/1000%60, task%1000, task)
			task++
		}
		all = append(all, logs(b.String(), map[string]any{"host.name": "h", "service.name": "llama-server"}))
		b.Reset()
	}
	return all
}

func BenchmarkConsumeLogs(b *testing.B) {
	for _, bb := range []struct {
		name string
		make func(connector.Settings, *Config) (connector.Logs, error)
	}{
		{"metrics", func(set connector.Settings, cfg *Config) (connector.Logs, error) {
			return newMetricsConnector(cfg, set, consumertest.NewNop())
		}},
		{"traces", func(set connector.Settings, cfg *Config) (connector.Logs, error) {
			return newTracesConnector(cfg, set, consumertest.NewNop())
		}},
	} {
		for _, stored := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/stored=%t", bb.name, stored), func(b *testing.B) {
				cfg, h := newDefaultConfig(), componenttest.NewNopHost()
				if stored {
					cfg, h = storedConfig(), host{storageID: &memory{held: map[string][]byte{}}}
				}
				set, _ := settings()
				c, err := bb.make(set, cfg)
				require.NoError(b, err)
				require.NoError(b, c.Start(b.Context(), h))
				all := batches(400)
				records := 0
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				b.ResetTimer()
				for i := range b.N {
					ld := all[i%len(all)]
					records += ld.LogRecordCount()
					if err := c.ConsumeLogs(b.Context(), ld); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(records), "allocs/record")
				require.NoError(b, c.Shutdown(b.Context()))
			})
		}
	}
}
