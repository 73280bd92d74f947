// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// page is the dashboard of a collector with the shipped configuration.
type page struct {
	t    testing.TB
	base string
}

func startPage(t testing.TB, s *llamatest.Server) page {
	t.Helper()
	port := freeport.For(t)
	c := collectortest.Start(t, []string{
		"LLAMACPP_ENDPOINT=" + s.URL(), "LLAMACPP_LOG=" + s.Log(), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
		fmt.Sprintf("DASHBOARD_PORT=%d", port), fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)),
		fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
	}, "--config", "../../collector-config.yaml")
	c.AwaitLog("Started watching file")
	time.Sleep(500 * time.Millisecond) // only then it looks where the file ends
	return page{t, fmt.Sprintf("http://localhost:%d", port)}
}

// value is the value of an expression that has one series, or -1.
func (p page) value(expression string) float64 {
	p.t.Helper()
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	require.NoError(p.t, json.Unmarshal([]byte(get(p.t, p.base+"/api/v1/query?query="+url.QueryEscape(expression))), &answer))
	if len(answer.Data.Result) != 1 {
		return -1
	}
	v, err := strconv.ParseFloat(answer.Data.Result[0].Value[1].(string), 64)
	require.NoError(p.t, err)
	return v
}

// snapshot is what the page draws.
type pageSnapshot struct {
	Facts   map[string]any
	Sources map[string]bool
	Panels  map[string]struct {
		Series []struct{ Values []*float64 }
	}
	Requests []struct {
		Outcome                   string
		Prompt, Cached, Generated int
		Slot                      int
	}
}

func TestDashboard_ShowsTheRealServerToTheToken(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{})
	p := startPage(t, s)
	users := clientsOf(t, s)
	mixed(users, 40)
	prompt, cached, predicted := users.counts()

	require.Eventually(t, func() bool { return p.value("llamacpp_tokens_predicted_total") == predicted }, 30*time.Second, 100*time.Millisecond)
	assert.InDelta(t, predicted, p.value("llamacpp_slots_tokens_decoded_total"), 0, "the live count")
	require.Eventually(t, func() bool {
		return p.value(`sum(llamacpp_requests_total{llamacpp_request_outcome="completed"})`) == 40
	}, 30*time.Second, 100*time.Millisecond)

	var shown pageSnapshot
	require.NoError(t, json.Unmarshal([]byte(get(t, p.base+"/live/snapshot?window=300")), &shown))
	assert.Equal(t, "ok", shown.Facts["state"])
	assert.InDelta(t, 4, shown.Facts["slots"], 0)
	for _, source := range []string{"server", "slots", "log"} {
		assert.True(t, shown.Sources[source], source)
	}
	for _, panel := range []string{"token-rate", "request-time", "first-token"} {
		assert.NotEmpty(t, shown.Panels[panel].Series, panel)
	}
	var listed [3]float64
	for _, r := range shown.Requests {
		assert.Equal(t, "completed", r.Outcome)
		assert.GreaterOrEqual(t, r.Slot, 0)
		listed[0] += float64(r.Prompt)
		listed[1] += float64(r.Cached)
		listed[2] += float64(r.Generated)
	}
	assert.Len(t, shown.Requests, 40)
	assert.Equal(t, [3]float64{prompt + cached, cached, predicted}, listed, "prompt tokens, of them cached, and generated ones")
}
