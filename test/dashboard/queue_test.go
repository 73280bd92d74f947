// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// crowd merges a load generator with 30 users into collector-config.yaml.
const crowd = `
extensions:
  loadgen:
    endpoint: localhost:${env:LOADGEN_PORT}
    target: {endpoint: "${env:CROWD_AT}"}
    profiles:
      crowd:
        start: true
        users: 30
        max_tokens: {min: 50, max: 50}
        ignore_eos: true
        duration: 1h
receivers:
  loadgen:
    histogram: {exponential: {}}
service:
  extensions: [loadgen]
  pipelines:
    metrics/page: {receivers: [loadgen]}
    traces/page: {receivers: [loadgen]}
`

// 30 clients and 4 slots: the page says in words that they wait, and how long it
// says they do, of what it sees of the server alone, is what the clients feel.
func TestDashboard_SaysThatRequestsWait(t *testing.T) {
	t.Parallel()
	file, variable := logged(t)
	server := llamasim.Start(t, llamasim.Options{Log: file, Slots: 4})
	c := watch(t, []string{"LLAMACPP_ENDPOINT=" + server.URL(), "CROWD_AT=" + server.URL(), variable}, crowd)
	queue := c.queueSentence()
	assert.True(t, strings.HasPrefix(queue, "Requests wait: all 4 slots are busy"), queue)
	assert.NotContains(t, queue, "one in twenty", "nobody has measured it")

	// The mean over the same half minute as the tile's.
	const first = `histogram_avg(sum(rate(loadgen_request_time_to_first_token_seconds{job="llamaload"}[30s])))`
	var wait, felt float64
	c.eventually(func() bool {
		tile := c.snapshot("window=60").Tiles["wait"]
		var ok bool
		felt, ok = c.number(first)
		if !ok || tile.Value == nil || felt == 0 {
			return false
		}
		wait = *tile.Value
		return math.Abs(wait-felt) < 0.2*felt
	}, "the wait is near the clients' first token: %s", lazily(func() string { return fmt.Sprintf("%.2f s and %.2f s", wait, felt) }))
	t.Logf("wait by Little's law %.2f s, the clients' first token %.2f s", wait, felt)
	assert.Greater(t, felt, 1.0, "they do wait")
	own, ok := c.number(`histogram_avg(sum(rate(gen_ai_server_time_to_first_token_seconds[30s])))`)
	require.True(t, ok)
	assert.Less(t, own, 0.5*felt, "the server's own first token says nothing of it")
}

// queueSentence waits until the page says that requests wait.
func (c *collector) queueSentence() (sentence string) {
	c.t.Helper()
	c.eventually(func() bool {
		for _, rule := range c.snapshot("window=60").Rules {
			if rule.Kind == "bottleneck" && rule.ID == "queue" {
				sentence = rule.Summary
				assert.Contains(c.t, rule.Cure, "--parallel")
				return true
			}
		}
		return false
	}, "the sentence about the queue")
	return sentence
}

// The same through the proxy: what the page says of the wait is measured, for all and
// for each request.
func TestDashboard_SaysHowLongEachRequestWaited(t *testing.T) {
	t.Parallel()
	file, variable := logged(t)
	server := llamasim.Start(t, llamasim.Options{Log: file, Slots: 4})
	proxy := fmt.Sprintf("localhost:%d", freeport.For(t))
	c := watch(t, []string{"LLAMACPP_ENDPOINT=" + server.URL(), "LLAMAPROXY_ENDPOINT=" + proxy, "CROWD_AT=http://" + proxy, variable}, crowd)
	queue := c.queueSentence()
	assert.Regexp(t, `wait on average, one in twenty for longer than [\d.]+ s\.$`, queue)

	const (
		felt  = `histogram_avg(sum(rate(loadgen_request_time_to_first_token_seconds{job="llamaload"}[30s])))`
		first = `histogram_avg(sum(rate(gen_ai_server_time_to_first_token_seconds{llamacpp_observer="proxy"}[30s])))`
		wait  = `histogram_avg(sum(rate(llamacpp_request_queue_duration_seconds[30s])))`
	)
	var client, proxied, waited, tile float64
	c.eventually(func() bool {
		shown := c.snapshot("window=60").Tiles["wait"].Value
		var ok [3]bool
		client, ok[0] = c.number(felt)
		proxied, ok[1] = c.number(first)
		waited, ok[2] = c.number(wait)
		if shown == nil || ok != [3]bool{true, true, true} {
			return false
		}
		tile = *shown
		return client > 1 && math.Abs(client-proxied) < 0.02*client && math.Abs(tile-waited) < 0.05*waited
	}, "the proxy has what the clients feel: %s", lazily(func() string {
		return fmt.Sprintf("first token %.3f s, through the proxy %.3f s; wait %.3f s, on the tile %.3f s", client, proxied, waited, tile)
	}))
	t.Logf("the clients' first token %.3f s, through the proxy %.3f s, of which they waited %.3f s", client, proxied, waited)
	assert.Greater(t, waited, 0.7*proxied, "most of it")
	var parts map[string]float64
	c.eventually(func() bool {
		proxied, _ = c.number(first)
		parts = c.snapshot("window=60").last("client-parts")
		return math.Abs(parts["wait"]+parts["prompt"]-proxied) < 0.05*proxied
	}, "wait and prompt are the time to the first token: %s", lazily(func() string { return fmt.Sprintf("%.3f s, parts %v", proxied, parts) }))

	// Each request is there once, although its client, the proxy and the log tell of it.
	// The log is the last to do so.
	var all []request
	ended := c.requests()[0].End
	c.eventually(func() bool {
		all = slices.DeleteFunc(c.requests(), func(r request) bool { return r.End > ended })
		return !slices.ContainsFunc(all, func(r request) bool { return r.Slot < 0 })
	}, "the slot of each request: %s", lazily(func() string { return fmt.Sprintf("%+v", all) }))
	require.Greater(t, len(all), 20)
	slots := map[int64]int{}
	var apart []float64
	for _, r := range all {
		slots[r.Slot]++
		assert.True(t, r.Proxied, "%+v", r)
		assert.Equal(t, host(server), r.Server, "not the proxy")
		assert.Equal(t, "completed", r.Outcome)
		if assert.NotNil(t, r.Wait, "%+v", r) && assert.NotNil(t, r.Began, "%+v", r) {
			apart = append(apart, math.Abs(float64(r.Start)+1000**r.Wait-float64(*r.Began)))
		}
	}
	assert.Len(t, slots, 4, "requests by slot: %v", slots)
	// By the clocks of the proxy and of the server, which a busy machine lets write late.
	slices.Sort(apart)
	assert.Less(t, apart[len(apart)/2], 50.0, "milliseconds: %v", apart)
	assert.Less(t, apart[len(apart)-1], 1000.0, "milliseconds: %v", apart)
}
