// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadreal

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func TestConversation_TheTurnsBeforeComeFromTheServersCache(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(h.CloseIdleConnections)
	server, err := llamaserver.New(s.URL(), h, "", 1<<20)
	require.NoError(t, err)
	source, err := workload.NewSynthetic(t.Context(), &workload.ServerTokenizer{Base: s.URL(), HTTP: h}, workload.Lengths{New: workload.Range{Min: 60, Max: 60}}, 1)
	require.NoError(t, err)

	seed := uint64(0)
	for _, e := range []completion.Endpoint{completion.Chat, completion.Completions, completion.Responses, completion.Messages, completion.Native} {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, stream %t", e, stream), func(t *testing.T) {
				seed++ // or their prompts would be in the cache
				w, err := workload.New(workload.Settings{
					Endpoint: e, Seed: seed, Stream: stream, MaxTokens: workload.Range{Min: 20, Max: 30}, Turns: workload.Range{Min: 4, Max: 4},
				}, source)
				require.NoError(t, err)
				before, err := loadgen.ReadCounters(t.Context(), server, "")
				require.NoError(t, err)
				held := map[uint64]int{} // tokens of each conversation so far
				r, err := loadgen.Start(t.Context(), loadgen.Config{
					Users: 3, Think: 20 * time.Millisecond, Requests: 6, Drain: time.Minute,
					Record: func(s loadgen.Sample) {
						q := s.Result
						assert.Equal(t, completion.OK, q.Outcome, "%v", q.Err)
						if s.Turn > 0 {
							// The last token of an answer was never computed, and the words of an answer
							// may make other tokens when they are read back.
							assert.InDelta(t, held[s.N]-1, q.CachedTokens, 3, "turn %d of %d", s.Turn, s.N)
							assert.Greater(t, q.InputTokens, held[s.N]+60)
						}
						held[s.N] = q.InputTokens + q.OutputTokens
					},
				}, newClient(t, s.URL(), completion.Options{}), w)
				require.NoError(t, err)
				results, err := r.Wait()
				require.NoError(t, err)
				assert.Equal(t, 24, results.Counts.OK)
				require.Len(t, results.Turns, 4)
				first, _ := results.Turns[0].Tokens.HitRate()
				last, _ := results.Turns[3].Tokens.HitRate()
				assert.Less(t, first, 0.2, "each conversation is unique")
				assert.Greater(t, last, 0.6)
				c, err := loadgen.AwaitCounters(t.Context(), server, "", before, results)
				require.NoError(t, err)
				assert.True(t, c.Agrees, "%s: %+v", c.Note, c)
			})
		}
	}
}
