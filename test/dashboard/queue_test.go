// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// crowd merges a load generator with 30 users into collector-config.yaml.
const crowd = `
extensions:
  loadgen:
    endpoint: localhost:${env:LOADGEN_PORT}
    target: {endpoint: "${env:LLAMACPP_ENDPOINT}"}
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
	c := watch(t, []string{"LLAMACPP_ENDPOINT=" + server.URL(), variable}, crowd)
	var queue string
	c.eventually(func() bool {
		for _, rule := range c.snapshot("window=60").Rules {
			if rule.Kind == "bottleneck" && rule.ID == "queue" {
				queue = rule.Summary
				assert.Contains(t, rule.Cure, "--parallel")
				return true
			}
		}
		return false
	}, "the sentence about the queue")
	assert.True(t, strings.HasPrefix(queue, "Requests wait: all 4 slots are busy"), queue)

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
