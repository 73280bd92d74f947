// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// instant answers at once.
type instant struct{}

func (instant) Do(_ context.Context, _ *completion.Request, due time.Time) completion.Result {
	now := time.Now()
	return completion.Result{Due: due, Sent: now, FirstToken: now, LastToken: now, End: now, OutputTokens: 8}
}

// BenchmarkRun_SendTimeError measures how late the load generator sends requests
// at a rate of 1,000 per second.
func BenchmarkRun_SendTimeError(b *testing.B) {
	for name, wait := range map[string]func(context.Context, time.Time){"precise": PreciseSleep, "timer": sleep} {
		b.Run(name, func(b *testing.B) {
			w, err := workload.New(workload.Settings{MaxTokens: workload.Range{Min: 1, Max: 9}}, workload.Builtin())
			require.NoError(b, err)
			for b.Loop() {
				r, err := Start(b.Context(), Config{
					Arrivals: arrival.Times(arrival.Constant(1000), arrival.Poisson, 1), Duration: 3 * time.Second,
					MaxInFlight: 1000, MaxErrors: 1, Sleep: wait,
				}, instant{}, w)
				require.NoError(b, err)
				results, err := r.Wait()
				require.NoError(b, err)
				b.ReportMetric(results.Lag.Percentile(50).Seconds()*1e6, "p50-µs")
				b.ReportMetric(results.Lag.Percentile(99).Seconds()*1e6, "p99-µs")
			}
		})
	}
}

// BenchmarkRun_Dispatch measures the load generator's cost of a request, without
// sending it.
func BenchmarkRun_Dispatch(b *testing.B) {
	w, err := workload.New(workload.Settings{MaxTokens: workload.Range{Min: 1, Max: 9}}, workload.Builtin())
	require.NoError(b, err)
	b.ReportAllocs()
	r, err := Start(b.Context(), Config{
		Arrivals: arrival.Times(arrival.Constant(1e9), arrival.Regular, 1), Requests: uint64(b.N),
		MaxInFlight: b.N, MaxErrors: 1,
	}, instant{}, w)
	require.NoError(b, err)
	_, err = r.Wait()
	require.NoError(b, err)
}
