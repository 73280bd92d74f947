// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadreal

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func TestRun_TokensEqualTheServersCountersToTheLastOne(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(h.CloseIdleConnections)
	server, err := llamaserver.New(s.URL(), h, "", 1<<20)
	require.NoError(t, err)
	synthetic, err := workload.NewSynthetic(t.Context(), &workload.ServerTokenizer{Base: s.URL(), HTTP: h},
		workload.Lengths{New: workload.Range{Min: 20, Max: 60}, Depth: 100}, 1)
	require.NoError(t, err)

	for name, source := range map[string]workload.Source{"built in": workload.Builtin(), "synthetic": synthetic} {
		for _, endpoint := range []completion.Endpoint{completion.Chat, completion.Native} {
			t.Run(name+" "+endpoint.String(), func(t *testing.T) {
				w, err := workload.New(workload.Settings{
					Endpoint: endpoint, Seed: 1, Stream: true, MaxTokens: workload.Range{Min: 20, Max: 50}, Temperature: &workload.Interval{Min: 0.5, Max: 0.9},
				}, source)
				require.NoError(t, err)
				before, err := loadgen.ReadCounters(t.Context(), server, "")
				require.NoError(t, err)
				var input []int
				r, err := loadgen.Start(t.Context(), loadgen.Config{
					Arrivals: arrival.Times(arrival.Constant(20), arrival.Poisson, 1), Requests: 60, WarmUp: time.Second,
					MaxInFlight: 100, Drain: time.Minute, MaxErrors: 0, Sleep: loadgen.PreciseSleep,
					Record: func(s loadgen.Sample) { input = append(input, s.Result.InputTokens) },
				}, newClient(t, s.URL(), completion.Options{}), w)
				require.NoError(t, err)
				results, err := r.Wait()
				require.NoError(t, err)
				assert.Equal(t, 60, results.Counts.OK+results.Outside.OK)
				c, err := loadgen.AwaitCounters(t.Context(), server, "", before, results)
				require.NoError(t, err)
				assert.True(t, c.Agrees, "%s: %+v", c.Note, c)
				if name == "synthetic" && endpoint == completion.Native {
					for _, n := range input {
						assert.True(t, 121 <= n && n <= 161, "%d tokens: those asked for and the one that begins every prompt", n)
					}
				}
			})
		}
	}
}
