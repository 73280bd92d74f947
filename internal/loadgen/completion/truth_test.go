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

// The reported times are compared with those of the server, on the same clock.
// go test -v prints the differences.
func TestClient_ReportedMinusTrue(t *testing.T) {
	const (
		tokens = 20
		gap    = 20 * ms
		// The median may be off by so much on a busy machine under the race
		// detector; a token that is taken for the one before or after is further off.
		off = 15 * ms
	)
	for _, streams := range []int{1, 30, 120} {
		t.Run(fmt.Sprint(streams, " streams"), func(t *testing.T) {
			s := scriptedserver.Start(t, func(n int, _ *http.Request, _ []byte) scriptedserver.Script {
				return scriptedserver.Chat(fmt.Sprint(n), 5, scriptedserver.Every(40*ms, tokens, gap)...)
			})
			c := newClient(t, s.URL, completion.Options{})
			results := make([]completion.Result, streams)
			var all sync.WaitGroup
			for i := range results {
				all.Go(func() {
					time.Sleep(time.Duration(i) * 4 * ms)
					results[i] = c.Do(t.Context(), chat, time.Now())
				})
			}
			all.Wait()
			exchanges := s.Exchanges()
			var first, gaps, whole []time.Duration
			for _, r := range results {
				require.NoError(t, r.Err)
				n, err := strconv.Atoi(r.ID)
				require.NoError(t, err)
				sent := exchanges[n].Sent
				first = append(first, r.FirstToken.Sub(sent[0]))
				whole = append(whole, r.End.Sub(sent[tokens]))
				require.Len(t, r.Gaps, tokens-1)
				for i, g := range r.Gaps {
					gaps = append(gaps, (g - sent[i+1].Sub(sent[i])).Abs())
				}
			}
			for name, errors := range map[string][]time.Duration{"first token": first, "gap": gaps, "end to end": whole} {
				slices.Sort(errors)
				p50, p99 := errors[len(errors)/2], errors[len(errors)*99/100]
				t.Logf("%s: p50 %s, p99 %s, max %s", name, p50, p99, errors[len(errors)-1])
				assert.GreaterOrEqual(t, errors[0], time.Duration(0), "%s: seen before it was sent", name)
				assert.Less(t, p50, off, name)
			}
		})
	}
}
