// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func TestPrometheus_ServesNoGaugesOfADeadServer(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	sim.AddLoad(llamasim.Load{Concurrency: 6, PromptTokens: 10, MaxTokens: 1000})
	url := start(t, []string{"LLAMACPP_ENDPOINT=" + sim.URL()}, "collector-config.yaml")
	gauges := []string{
		"llamacpp_requests_processing", "llamacpp_requests_deferred", "llamacpp_slots", "llamacpp_context_usage", "llamacpp_context_utilization_ratio",
		"llamacpp_decode_busy_slots", "llamacpp_slots_limit", "llamacpp_context_limit",
	}
	for _, name := range gauges {
		eventuallyServes(t, url, name+"{")
	}
	sim.SetFault("", llamasim.Refuse)
	eventuallyServes(t, url, "llamacpp_server_status", `"unreachable"`, "} 1")
	var text string
	require.Eventually(t, func() bool {
		text = body(t, url)
		for _, name := range gauges {
			if strings.Contains(text, "\n"+name+"{") {
				return false
			}
		}
		return true
	}, 20*time.Second, 100*time.Millisecond, "not after metric_expiration")
	for _, counter := range []string{"llamacpp_tokens_predicted_total{", "llamacpp_slots_tokens_decoded_total{", "llamacpp_request_duration_seconds_count{"} {
		assert.Contains(t, text, "\n"+counter, "counters stay")
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(b)
}
