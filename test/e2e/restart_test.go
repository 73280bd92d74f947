// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

var (
	predictedTokens = otlpsink.Metric("llamacpp.tokens.predicted")
	decodedTokens   = otlpsink.Metric("llamacpp.slots.tokens.decoded")
)

func TestRestart_CountersStartAgainWithoutNegativeSteps(t *testing.T) {
	for name, end := range map[string]func(*llamatest.Server){
		"SIGTERM": (*llamatest.Server).Terminate,
		"SIGKILL": (*llamatest.Server).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := llamatest.Start(t, llamatest.Options{})
			c := watch(t, s.URL())
			c.awaitState("ok")
			users := clientsOf(t, s)
			users.send(llamatest.Request{PromptWords: 20, MaxTokens: 150, Stream: true})
			checkTotals(t, c, users)

			end(s)
			c.awaitState("unreachable")
			c.awaitScrapes(3)
			require.NoError(t, s.Restart(t.Context()))
			c.awaitState("ok")
			users.send(llamatest.Request{PromptWords: 20, MaxTokens: 100, Stream: true})

			_, _, predicted := users.counts()
			for _, counter := range []otlpsink.Match{predictedTokens, decodedTokens} {
				c.eventually(func() bool { return c.Points(counter).Total() == predicted }, "both processes' tokens are counted")
				assert.True(t, c.Points(counter).LastIs(100))
				assert.Len(t, c.Points(counter).Starts(), 2)
			}
			states := c.states("llamacpp")
			// A scrape may or may not come while the model is being loaded.
			states = slices.DeleteFunc(states, func(s string) bool { return s == "loading" })
			assert.Equal(t, []string{"ok", "unreachable", "ok"}, states, "one line a change")
			assert.Len(t, c.complaints("llamacpp"), 1)
		})
	}
}

// The new process has counted more than the old one before the next scrape: no
// counter is ever seen to be lower than before.
func TestRestart_UnnoticedByScrapesIsStillARestart(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	c := watch(t, s.URL(), "scrapers: {server: {collection_interval: 4s}, slots: {collection_interval: 2s}}")
	users := clientsOf(t, s)
	users.send(llamatest.Request{PromptWords: 5, MaxTokens: 20, Stream: true})
	checkTotals(t, c, users)

	c.awaitScrapes(1) // from here the next one is seconds away
	require.NoError(t, s.Restart(t.Context()))
	users.send(llamatest.Request{PromptWords: 5, MaxTokens: 500, Stream: true})
	_, _, predicted := users.counts()
	for _, counter := range []otlpsink.Match{predictedTokens, decodedTokens} {
		c.eventually(func() bool { return c.Points(counter).Total() == predicted }, "both processes' tokens are counted")
	}
}

// What a request had got when the server was killed, only /slots has shown.
func TestRestart_KilledDuringAStream(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Model: slow})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	users.send(llamatest.Request{PromptWords: 20, MaxTokens: 50, Stream: true})
	checkTotals(t, c, users)

	cut := clientsOf(t, s)
	cut.wg.Go(func() {
		_, err := cut.client.Complete(t.Context(), llamatest.Request{PromptWords: 40, Seed: 1, MaxTokens: 1500, Stream: true})
		assert.Error(t, err)
	})
	c.eventually(func() bool { return c.Points(decodedTokens).Max() >= 150 }, "the stream is counted live")
	s.Kill()
	cut.wg.Wait()
	received := cut.received(time.Now())
	c.awaitState("unreachable")
	before := c.Points(decodedTokens).Max()
	assert.LessOrEqual(t, before, 50+received+5, "what the clients got, and tokens on their way")

	require.NoError(t, s.Restart(t.Context()))
	c.awaitState("ok")
	users.send(llamatest.Request{PromptWords: 20, MaxTokens: 70, Stream: true})
	c.eventually(func() bool { return c.Points(predictedTokens).Total() == 120 }, "finished requests are counted")
	c.await(70, "llamacpp.slots.tokens.decoded")
	assert.InDelta(t, before+70, c.Points(decodedTokens).Total(), 0)
	assert.Len(t, c.Points(predictedTokens).Starts(), 2)
	assert.Len(t, c.Points(decodedTokens).Starts(), 2)
}

func TestLoading_IsSeenWhenTheServerComesAfterTheCollector(t *testing.T) {
	port := freeport.For(t)
	c := watch(t, fmt.Sprintf("http://127.0.0.1:%d", port), "scrapers: {server: {collection_interval: 50ms}, slots: }")
	c.awaitState("unreachable")
	c.awaitScrapes(4)

	s := llamatest.Start(t, llamatest.Options{Model: slow, Port: port, WithoutWait: true})
	c.awaitState("ok")
	c.awaitStates("llamacpp", "unreachable", "loading", "ok")
	assert.InDelta(t, 1, c.Points(inState("loading")).Max(), 0)
	assert.Len(t, c.complaints("llamacpp"), 1)
	clientsOf(t, s).send(llamatest.Request{PromptWords: 5, MaxTokens: 10, Stream: true})
	c.await(10, "llamacpp.slots.tokens.decoded")
}
