// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// timeErrors are reported times minus those of the server, on the same clock, in order.
// Of gaps they are absolute.
type timeErrors struct{ first, gap, end []time.Duration }

// percentile returns an error that p percent of all do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration { return sorted[len(sorted)*p/100] }

// reportedMinusTrue runs concurrent streams, which start one after another within the
// time spread, and whose tokens have the given gaps.
func reportedMinusTrue(tb testing.TB, streams int, spread time.Duration, gaps []time.Duration) timeErrors {
	tb.Helper()
	s := scriptedserver.Start(tb, func(n int, _ *http.Request, _ []byte) scriptedserver.Script {
		return scriptedserver.Chat(fmt.Sprint(n), 5, gaps...)
	})
	c := newClient(tb, s.URL, completion.Options{})
	results := make([]completion.Result, streams)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			time.Sleep(spread * time.Duration(i) / time.Duration(streams))
			results[i] = c.Do(tb.Context(), chat, time.Now())
		})
	}
	all.Wait()
	exchanges := s.Exchanges()
	var e timeErrors
	for _, r := range results {
		require.NoError(tb, r.Err)
		n, err := strconv.Atoi(r.ID)
		require.NoError(tb, err)
		sent := exchanges[n].Sent
		e.first = append(e.first, r.FirstToken.Sub(sent[0]))
		e.end = append(e.end, r.End.Sub(sent[len(gaps)]))
		require.Len(tb, r.Gaps, len(gaps)-1)
		for i, g := range r.Gaps {
			e.gap = append(e.gap, (g - sent[i+1].Sub(sent[i])).Abs())
		}
	}
	for _, errors := range [][]time.Duration{e.first, e.gap, e.end} {
		slices.Sort(errors)
	}
	return e
}

// go test -v prints the errors.
func TestClient_ReportedMinusTrue(t *testing.T) {
	const (
		tokens      = 12
		short, long = 50 * ms, 150 * ms
		// A token that is taken for its neighbour is further off than this: the first and the
		// last one by a long gap, the gaps by the difference of the two. A busy machine
		// delays many tokens by more, but not the quickest tenth of them.
		off = 75 * ms
	)
	gaps := scriptedserver.Every(40*ms, tokens, short)
	for i := 1; i < tokens; i += 2 {
		gaps[i] = long
	}
	for _, streams := range []int{1, 30, 120} {
		t.Run(fmt.Sprint(streams, " streams"), func(t *testing.T) {
			e := reportedMinusTrue(t, streams, time.Duration(streams)*4*ms, gaps)
			for name, errors := range map[string][]time.Duration{"first token": e.first, "gap": e.gap, "end to end": e.end} {
				t.Logf("%s: p50 %s, p99 %s, max %s", name, percentile(errors, 50), percentile(errors, 99), errors[len(errors)-1])
				assert.GreaterOrEqual(t, errors[0], time.Duration(0), "%s: seen before it was sent", name)
				assert.Less(t, percentile(errors, 10), off, name)
			}
		})
	}
}

// BenchmarkReportedMinusTrue measures the error of the reported times at rising load:
// streams of 50 tokens a second, for 5 s.
func BenchmarkReportedMinusTrue(b *testing.B) {
	for _, streams := range []int{1, 10, 100, 300} {
		b.Run(fmt.Sprint("streams=", streams), func(b *testing.B) {
			var e timeErrors
			for b.Loop() {
				e = reportedMinusTrue(b, streams, time.Second, scriptedserver.Every(100*ms, 250, 20*ms))
			}
			b.ReportMetric(0, "ns/op")
			for name, errors := range map[string][]time.Duration{"first": e.first, "gap": e.gap, "e2e": e.end} {
				for _, p := range []int{50, 99} {
					b.ReportMetric(float64(percentile(errors, p))/float64(ms), fmt.Sprintf("%s-p%d-ms", name, p))
				}
			}
		})
	}
}
