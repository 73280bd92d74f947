// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func TestRouter_ModelsComeAndGo(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Slots: 2, Router: &llamatest.Router{
		Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny, "c": tinygguf.Tiny},
		Max:    2,
	}})
	c := watch(t, s.URL())
	router := otlpsink.Of(instance(s))
	of := func(model string) otlpsink.Match { return otlpsink.Of(instance(s) + "/" + model) }
	// ask has a model answer, which loads it, and waits for the count.
	ask := func(model string, tokens int) {
		users := clientsOf(t, s)
		users.client.Model = model
		users.send(llamatest.Request{PromptWords: 10, MaxTokens: tokens, Stream: true})
		c.await(float64(tokens), "llamacpp.tokens.predicted", of(model))
		c.await(float64(tokens), "llamacpp.slots.tokens.decoded", of(model))
		c.awaitState("ok", of(model))
	}
	awaitModels := func(loaded, unloaded float64) {
		c.await(loaded, "llamacpp.models", router, otlpsink.With("llamacpp.model.state", "loaded"))
		c.await(unloaded, "llamacpp.models", router, otlpsink.With("llamacpp.model.state", "unloaded"))
	}

	// Nothing is loaded by watching.
	c.awaitState("ok", router)
	awaitModels(0, 3)
	c.awaitScrapes(3, router)
	assert.Equal(t, map[string]string{"a": "unloaded", "b": "unloaded", "c": "unloaded"}, modelStates(t, s))
	assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.tokens.predicted")))

	// A loaded model is a resource of its own.
	ask("a", 30)
	awaitModels(1, 2)
	ask("b", 40)
	awaitModels(2, 1)
	c.await(30, "llamacpp.tokens.predicted", of("a"))
	for _, model := range []string{"a", "b"} {
		points := c.Points(of(model))
		resource := points[len(points)-1].Resource
		assert.Equal(t, model, resource["llamacpp.model.name"])
		assert.Equal(t, "llama-server", resource["service.name"])
		c.await(2, "llamacpp.slots.limit", of(model))
		c.await(2, "llamacpp.slots", of(model), slots("idle"))
	}

	// A third evicts the one not used for longest.
	ask("c", 50)
	awaitModels(2, 1)
	assertGone := func(model string) {
		since := time.Now()
		c.awaitScrapes(3, router)
		assert.Empty(t, c.Points(of(model), otlpsink.After(since), otlpsink.Recorded), "series of %s", model)
		assert.Equal(t, "unloaded", modelStates(t, s)[model])
	}
	assertGone("a")

	unload(t, s, "b")
	awaitModels(1, 2)
	assertGone("b")
	assert.Equal(t, map[string]string{"a": "unloaded", "b": "unloaded", "c": "loaded"}, modelStates(t, s))
	c.await(50, "llamacpp.tokens.predicted", of("c"))

	// Back again, it counts from zero, as another process.
	ask("a", 20)
	assert.Len(t, c.Points(predictedTokens, of("a")).Starts(), 2)
	assert.InDelta(t, 50, c.Points(predictedTokens, of("a")).Total(), 0)
	assert.InDelta(t, 50, c.Points(decodedTokens, of("a")).Total(), 0)

	c.awaitStates("llamacpp", "ok")
	assert.Empty(t, c.complaints("llamacpp"))
	assert.Empty(t, c.Points(router, predictedTokens), "a router itself counts no tokens")
}

// modelStates is what the router says of its models.
func modelStates(t *testing.T, s *llamatest.Server) map[string]string {
	t.Helper()
	var answer struct {
		Data []struct {
			ID     string
			Status struct{ Value string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(get(t, s.URL()+"/models")), &answer))
	out := map[string]string{}
	for _, m := range answer.Data {
		out[m.ID] = m.Status.Value
	}
	return out
}

func unload(t *testing.T, s *llamatest.Server, model string) {
	t.Helper()
	r, err := http.Post(s.URL()+"/models/unload", "application/json", strings.NewReader(`{"model":"`+model+`"}`))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusOK, r.StatusCode)
}
