// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

func instance(s *llamatest.Server) string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

func TestIdle_StateLimitsAndZeroCounters(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	c := watch(t, s.URL())
	c.awaitState("ok")
	c.await(4, "llamacpp.slots", slots("idle"))
	c.awaitScrapes(2)

	for metric, want := range map[string]float64{
		"llamacpp.tokens.prompt":          0,
		"llamacpp.prompt.time":            0,
		"llamacpp.tokens.predicted":       0,
		"llamacpp.prediction.time":        0,
		"llamacpp.slots.tokens.decoded":   0,
		"llamacpp.slots.tokens.processed": 0,
		"llamacpp.requests.processing":    0,
		"llamacpp.requests.deferred":      0,
		"llamacpp.requests.observed":      0,
		"llamacpp.context.usage":          0,
		"llamacpp.slots.limit":            4,
		"llamacpp.context.limit":          2048,
	} {
		points := c.Points(otlpsink.Metric(metric))
		if assert.NotEmpty(t, points, metric) {
			assert.True(t, points.LastIs(want), "%s is %v", metric, points.Max())
		}
	}
	for _, state := range []string{"loading", "sleeping", "unauthorized", "error", "unreachable"} {
		assert.True(t, c.Points(inState(state)).LastIs(0), state)
	}
	for _, source := range []string{"computed", "cached"} {
		assert.True(t, c.Points(otlpsink.Metric("llamacpp.tokens.prompt"), otlpsink.With("llamacpp.tokens.source", source)).LastIs(0), source)
	}
	assert.NotEmpty(t, c.Points(otlpsink.Metric("llamacpp.server.response.duration"), otlpsink.With("url.path", "/metrics")))
	assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.models")), "no router")

	points := c.Points()
	resource := points[len(points)-1].Resource
	assert.Regexp(t, `^b\d+`, resource["service.version"])
	delete(resource, "service.version")
	assert.Equal(t, map[string]string{
		"service.name":         "llama-server",
		"service.instance.id":  instance(s),
		"server.address":       "127.0.0.1",
		"server.port":          fmt.Sprint(s.Port),
		"llamacpp.model.name":  "tiny",
		"llamacpp.model.ftype": "all F32",
	}, resource)
	c.awaitStates("llamacpp", "ok")
	assert.Empty(t, c.complaints("llamacpp"))
}

// The server is told to show prompts and answers in /slots, and the collector to
// read them all the time.
func TestText_OfPromptsAndAnswersIsNotPassedOn(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{Env: []string{"LLAMA_SERVER_SLOTS_DEBUG=1"}})
	c := watch(t, s.URL(), "scrapers: {server: , slots: {poll: always, collection_interval: 100ms}}")
	c.awaitState("ok")
	users := clientsOf(t, s)
	const secret = "zyxwvutsrq"
	users.send(llamatest.Request{Prompt: secret + " " + llamatest.Words(30, 0), MaxTokens: 1500, Stream: true})
	_, _, predicted := users.counts()
	c.await(predicted, "llamacpp.slots.tokens.decoded")

	require.Contains(t, get(t, s.URL()+"/slots"), secret, "the server shows it")
	words := strings.Fields(llamatest.Words(30, 0))
	for _, text := range []string{secret, strings.Join(words[:3], " "), "<|im_start|>", ".gguf"} {
		assert.False(t, c.Holds(text), "telemetry: %s", text)
		assert.NotContains(t, c.Log(), text, "log")
	}
}

func TestAPIKey_Right(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{APIKey: "correct-horse"})
	c := watch(t, s.URL(), "api_key: correct-horse")
	c.awaitState("ok")
	users := clientsOf(t, s)
	users.send(llamatest.Request{PromptWords: 20, MaxTokens: 30, Stream: true})
	c.await(30, "llamacpp.tokens.predicted")
	c.await(30, "llamacpp.slots.tokens.decoded")
	assert.Empty(t, c.complaints("llamacpp"))
	assert.False(t, c.Holds("correct-horse"))
	assert.NotContains(t, c.Log(), "correct-horse")
}

func TestAPIKey_WrongOrMissingIsUnauthorized(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{APIKey: "correct-horse"})
	for name, settings := range map[string][]string{"wrong": {"api_key: battery-staple"}, "missing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := watch(t, s.URL(), settings...)
			c.awaitState("unauthorized")
			c.awaitScrapes(4)
			assert.Equal(t, "unauthorized", c.state())
			c.awaitStates("llamacpp", "unauthorized")
			assert.Len(t, c.complaints("llamacpp"), 1, "logged once")
			assert.Len(t, c.lines("llamacpp", "api_key", "--api-key"), 1, "with its cure")
			assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.tokens.predicted")))
			assert.False(t, c.Holds("battery-staple"))
			assert.NotContains(t, c.Log(), "battery-staple")
		})
	}
}

func TestNoMetrics_IsLoggedOnce(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{NoMetrics: true})
	c := watch(t, s.URL())
	c.awaitState("ok")
	c.await(4, "llamacpp.slots.limit")
	clientsOf(t, s).send(llamatest.Request{PromptWords: 5, MaxTokens: 10})
	c.awaitScrapes(4)

	c.awaitStates("llamacpp", "ok")
	assert.Len(t, c.lines("llamacpp", "cannot read /metrics", "501", "start llama-server with --metrics"), 1)
	assert.Len(t, c.lines("llamacpp", "not reading /slots", "poll to always"), 1)
	assert.Len(t, c.complaints("llamacpp"), 2)
	assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.tokens.predicted")))
	assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.slots.tokens.decoded")), "a count of nothing is no count")
}

func TestNoMetrics_SlotsAreReadOnRequest(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{NoMetrics: true, Model: slow})
	c := watch(t, s.URL(), "scrapers: {server: , slots: {poll: always, collection_interval: 250ms}}")
	c.awaitState("ok")
	c.await(4, "llamacpp.slots", slots("idle"))

	users := clientsOf(t, s)
	users.start(llamatest.Request{PromptWords: 400, MaxTokens: 400, Stream: true})
	c.eventually(func() bool { return c.Points(slots("prompt")).Max() == 1 }, "a slot works on a prompt")
	c.eventually(func() bool { return c.Points(slots("generating")).Max() == 1 }, "a slot generates")
	c.eventually(func() bool { return users.finished() == 1 }, "the stream ends")
	c.await(4, "llamacpp.slots", slots("idle"))

	decoded := c.Points(otlpsink.Metric("llamacpp.slots.tokens.decoded")).Max()
	assert.Positive(t, decoded)
	assert.LessOrEqual(t, decoded, 400.0, "an estimate from below")
	// How long requests took can only be known where no reading is missed.
	c.await(1, "llamacpp.requests.observed")
	c.await(1, "llamacpp.request.duration")
	c.await(1, "llamacpp.request.prompt.duration")
	assert.Len(t, c.lines("llamacpp", "start llama-server with --metrics"), 1)
	assert.Len(t, c.complaints("llamacpp"), 1)
}

func TestNoSlots_CountersFlow(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{NoSlots: true})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	for range 3 { // activity that a scrape of /metrics sees more than once
		users.send(llamatest.Request{PromptWords: 5, MaxTokens: 200, Stream: true})
		c.awaitScrapes(1)
	}
	c.await(600, "llamacpp.tokens.predicted")
	c.await(600, "llamacpp.slots.tokens.decoded")
	c.eventually(func() bool { return len(c.lines("llamacpp", "cannot read /slots", "501", "--no-slots")) == 1 }, "the log says why")
	c.awaitScrapes(2)
	assert.Len(t, c.complaints("llamacpp"), 1)
	c.awaitStates("llamacpp", "ok")
}

func TestWrongEndpoint_IsAnErrorThatOthersDoNotNotice(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!DOCTYPE html><html><body>not what you are looking for</body></html>")
	}))
	t.Cleanup(page.Close)
	s := llamatest.Start(t, llamatest.Options{})
	c := run(t, receiver("llamacpp/a", page.URL), receiver("llamacpp/b", s.URL()))
	b := otlpsink.Of(instance(s))
	a := otlpsink.Of(strings.TrimPrefix(page.URL, "http://"))
	c.awaitState("error", a)
	c.awaitState("ok", b)

	clientsOf(t, s).send(llamatest.Request{PromptWords: 20, MaxTokens: 30, Stream: true})
	c.await(30, "llamacpp.tokens.predicted", b)
	c.awaitScrapes(4, a)
	c.awaitScrapes(1, b)
	assert.Equal(t, "error", c.state(a))
	c.awaitStates("llamacpp/a", "error")
	assert.Len(t, c.complaints("llamacpp/a"), 1)
	assert.Len(t, c.lines("llamacpp/a", "endpoint"), 1)
	c.awaitStates("llamacpp/b", "ok")
	assert.Empty(t, c.complaints("llamacpp/b"))
	assert.Empty(t, c.Points(a, otlpsink.Metric("llamacpp.tokens.predicted")))
	assert.NotContains(t, c.Log(), "looking for")
}
