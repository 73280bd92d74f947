// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// answered is a sender whose requests all get the same result at once.
type answered completion.Result

func (a *answered) Do(ctx context.Context, _ *completion.Request, _ time.Time) completion.Result {
	Prepare(ctx, map[string][]string{})
	return completion.Result(*a)
}

// BenchmarkRun_Request measures what the telemetry of a request costs, from its
// instruments to the consumer, without sending it. The time between two points of a
// series is that of the extension's default.
func BenchmarkRun_Request(b *testing.B) {
	for _, tokens := range []int{8, 100} {
		for _, with := range []struct{ spans, both bool }{{false, false}, {true, false}, {true, true}} {
			name := fmt.Sprintf("tokens=%d/spans=%t", tokens, with.spans)
			if with.both {
				name += "/kinds=2"
			}
			b.Run(name, func(b *testing.B) {
				var p Pipe
				p.AttachMetrics(consumertest.NewNop(), Explicit)
				if with.both {
					p.AttachMetrics(consumertest.NewNop(), histogram.DefaultSize)
				}
				if with.spans {
					p.AttachTraces(consumertest.NewNop())
				}
				s := settings()
				s.Interval = time.Second
				r, err := NewRun(b.Context(), &p, s)
				require.NoError(b, err)
				result := (&server{}).Do(b.Context(), nil, time.Now())
				for len(result.Gaps) < tokens-1 {
					result.Gaps = append(result.Gaps, time.Duration(len(result.Gaps))*ms)
				}
				send := r.Sender((*answered)(&result))
				temperature, seed := 0.5, int64(9)
				q := &completion.Request{MaxTokens: tokens, Temperature: &temperature, Seed: &seed, Stream: true}
				b.ReportAllocs()
				before := cpuTime(b)
				for n := 1; b.Loop(); n++ {
					done := send.Do(b.Context(), q, result.Due)
					r.Count(loadgen.Sample{Good: true, Result: &done})
					if n%(spanQueue/2) == 0 { // or spans would be dropped
						require.NoError(b, r.traces.ForceFlush(b.Context()))
					}
				}
				require.NoError(b, r.Close(b.Context()))
				b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/request")
			})
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
