// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// slow is for what has to last: it generates some 140 tokens/s and takes a whole core.
var slow = tinygguf.Slow

// checkTotals waits until all that the clients have got is in the counters.
func checkTotals(t *testing.T, c *collector, users *clients) {
	t.Helper()
	prompt, cached, predicted := users.counts()
	c.await(predicted, "llamacpp.tokens.predicted")
	c.await(predicted, "llamacpp.slots.tokens.decoded")
	c.await(prompt, "llamacpp.tokens.prompt", otlpsink.With("llamacpp.tokens.source", "computed"))
	c.await(cached, "llamacpp.tokens.prompt", otlpsink.With("llamacpp.tokens.source", "cached"))
	c.await(prompt, "llamacpp.slots.tokens.processed")
	c.await(0, "llamacpp.requests.processing")
	c.await(0, "llamacpp.requests.deferred")
	c.await(4, "llamacpp.slots", slots("idle"))
}

// checkLive holds every point of the live counter against what the clients had
// at that time.
func checkLive(t *testing.T, c *collector, users *clients) {
	t.Helper()
	const (
		// A token is decoded, then sent, then received: for this long after the
		// point has arrived it may still be on its way.
		onItsWay = 500 * time.Millisecond
		// The count follows within an interval of /slots, or of /metrics for a
		// request that /slots has not shown; the rest is for a busy machine.
		behind = 2 * time.Second
	)
	live := 0
	for _, p := range c.Points(otlpsink.Metric("llamacpp.slots.tokens.decoded")) {
		assert.LessOrEqual(t, p.Value, users.received(p.Arrived.Add(onItsWay)), "ahead of the clients at %s", p.Time)
		assert.GreaterOrEqual(t, p.Value, users.received(p.Time.Add(-behind)), "behind the clients at %s", p.Time)
		if p.Value > 0 && p.Value < users.received(time.Now()) {
			live++
		}
	}
	assert.GreaterOrEqual(t, live, 2, "it moved while requests ran")
}

func TestStreams_LiveCountAndExactTotals(t *testing.T) {
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := llamatest.Start(t, llamatest.Options{Model: slow})
			c := watch(t, s.URL())
			c.awaitState("ok")
			users := clientsOf(t, s)
			for i := range n {
				users.start(llamatest.Request{PromptWords: 40, Seed: uint64(i), MaxTokens: 1000 / (n + 1), Stream: true})
			}
			c.eventually(func() bool { return c.Points(otlpsink.Metric("llamacpp.slots.tokens.decoded")).Max() > 0 }, "the live count moves")
			assert.Zero(t, users.finished(), "before any request has ended")
			assert.Zero(t, c.Points(otlpsink.Metric("llamacpp.tokens.predicted")).Max(), "and so before the server counts it")

			c.eventually(func() bool { return c.Points(otlpsink.Metric("llamacpp.requests.processing")).Max() == float64(n) }, "%d requests run", n)
			c.eventually(func() bool { return c.Points(slots("generating")).Max() == float64(n) }, "%d slots generate", n)
			c.eventually(func() bool { return users.finished() == n }, "the streams end")
			checkTotals(t, c, users)
			checkLive(t, c, users)
			assert.Zero(t, c.Points(otlpsink.Metric("llamacpp.requests.deferred")).Max())
			c.await(float64(n), "llamacpp.requests.observed")
		})
	}
}

func TestStreams_MoreThanSlotsWaitInTheQueue(t *testing.T) {
	// Each stream holds one of the server's HTTP threads: with the default number
	// of some 8 the others do not get into the queue at once.
	s := llamatest.Start(t, llamatest.Options{Model: slow, Args: []string{"--threads-http", "32"}})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	// The first four keep the slots long enough for the whole queue to be seen.
	for i := range 4 {
		users.start(llamatest.Request{PromptWords: 40, Seed: uint64(i), MaxTokens: 250, Stream: true})
	}
	c.eventually(func() bool { return users.received(time.Now()) > 0 }, "the first streams run")
	for i := range 16 {
		users.start(llamatest.Request{PromptWords: 10 + i, Seed: uint64(4 + i), MaxTokens: 10 + i, Stream: true})
	}
	c.eventually(func() bool { return c.Points(otlpsink.Metric("llamacpp.requests.deferred")).Max() == 16 }, "16 requests wait")
	c.eventually(func() bool { return users.finished() == 20 }, "the streams end")
	checkTotals(t, c, users)
	checkLive(t, c, users)
	assert.InDelta(t, 4, c.Points(otlpsink.Metric("llamacpp.requests.processing")).Max(), 0)
	assert.InDelta(t, 4, c.Points(slots("generating")).Max(), 0)
	assert.InDelta(t, 16, c.Points(otlpsink.Metric("llamacpp.requests.deferred")).Max(), 0)
}

// Each of these requests is much shorter than any interval.
func TestStreams_ShortOnesAreCountedToo(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		users.send(llamatest.Request{PromptWords: 5 + users.finished()%20, Seed: uint64(users.finished() % 150), MaxTokens: 50, Stream: true})
	}
	checkTotals(t, c, users)
	checkLive(t, c, users)
}

func TestLongPrompt_ProgressIsSeenBeforeItIsDone(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Model: slow, Context: 4 * 4096, Args: []string{"-b", "128"}})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	users.start(llamatest.Request{PromptWords: 2000, MaxTokens: 30, Stream: true})
	processed := otlpsink.Metric("llamacpp.slots.tokens.processed")
	c.eventually(func() bool { return c.Points(processed).Max() > 0 }, "the prompt makes progress")
	assert.Zero(t, users.received(time.Now()), "before the first token")
	assert.Zero(t, c.Points(otlpsink.Metric("llamacpp.tokens.prompt")).Max(), "and so before the server counts it")
	assert.InDelta(t, 1, c.Points(slots("prompt")).Max(), 0)
	assert.Zero(t, c.Points(slots("generating")).Max())

	c.eventually(func() bool { return users.finished() == 1 }, "the stream ends")
	checkTotals(t, c, users)
	steps := map[float64]bool{}
	for _, p := range c.Points(processed) {
		steps[p.Value] = true
	}
	assert.Greater(t, len(steps), 2, "batch by batch: %v", steps)
	assert.Greater(t, c.Points(otlpsink.Metric("llamacpp.context.usage")).Max(), 1000.0, "in tokens")
	c.await(2001, "llamacpp.slots.tokens.processed")
}

func TestCancelledStream_CountsAsFarAsTheServerCounts(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Model: slow})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	users.start(llamatest.Request{PromptWords: 20, MaxTokens: 30, Stream: true})
	users.send(llamatest.Request{PromptWords: 40, Seed: 1, MaxTokens: 1500, Stream: true, CancelAfterTokens: 200})
	c.eventually(func() bool { return counted(t, s, "requests_processing") == 0 }, "the server notices")

	predicted := counted(t, s, "tokens_predicted_total")
	assert.GreaterOrEqual(t, predicted, 230.0)
	assert.Less(t, predicted, 1000.0)
	c.await(predicted, "llamacpp.tokens.predicted")
	c.await(predicted, "llamacpp.slots.tokens.decoded")
	c.await(62, "llamacpp.slots.tokens.processed")
	c.await(4, "llamacpp.slots", slots("idle"))
	// Nothing is corrected afterwards.
	c.awaitScrapes(2)
	assert.InDelta(t, predicted, c.Points(otlpsink.Metric("llamacpp.slots.tokens.decoded")).Max(), 0)
}
