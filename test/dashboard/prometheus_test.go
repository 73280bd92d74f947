// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package dashboard holds the dashboard of the built collector against the truth:
// what simulated servers and GPUs did, and a real Prometheus that gets the same data.
package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

const root = "../.."

// overlay sends to a Prometheus what the page gets.
const overlay = `
exporters:
  otlp_http/prometheus:
    metrics_endpoint: ${env:PROMETHEUS_URL}/api/v1/otlp/v1/metrics
    sending_queue: {enabled: false}
service:
  pipelines:
    metrics/page: {exporters: [dashboard, otlp_http/prometheus]}
`

// prometheusConfig is as the embedded one is set.
const prometheusConfig = `
storage: {tsdb: {out_of_order_time_window: 5m}}
`

// answer is what Prometheus' API says, of an instant or a range.
type answer struct {
	Status, Error string
	Data          struct {
		ResultType string
		Result     json.RawMessage
	}
}

func ask(t *testing.T, base, path string, form url.Values) answer {
	t.Helper()
	response, err := http.PostForm(base+"/api/v1/"+path, form)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(body, &a), "%s", body)
	require.Equal(t, "success", a.Status, "%s: %s", form, a.Error)
	return a
}

func seconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// matrix evaluates an expression in a range. Series are in the order of their labels.
func matrix(t *testing.T, base, expr string, start, end time.Time) model.Matrix {
	t.Helper()
	var m model.Matrix
	a := ask(t, base, "query_range", url.Values{"query": {expr}, "start": {seconds(start)}, "end": {seconds(end)}, "step": {"1"}})
	require.NoError(t, json.Unmarshal(a.Data.Result, &m))
	slices.SortFunc(m, func(a, b *model.SampleStream) int {
		switch {
		case a.Metric.Before(b.Metric):
			return -1
		case b.Metric.Before(a.Metric):
			return 1
		}
		return 0
	})
	return m
}

// alike reports whether two answers are the same up to the order of additions.
func alike(a, b model.Matrix) bool {
	return slices.EqualFunc(a, b, func(a, b *model.SampleStream) bool {
		return a.Metric.Equal(b.Metric) && slices.EqualFunc(a.Values, b.Values, func(a, b model.SamplePair) bool {
			x, y := float64(a.Value), float64(b.Value)
			return a.Timestamp == b.Timestamp && (x == y || math.IsNaN(x) && math.IsNaN(y) || math.Abs(x-y) <= 1e-9*math.Abs(x))
		})
	})
}

// askThrough has two clients send requests through a proxy, one after the other, until
// the test ends.
func askThrough(t *testing.T, proxy string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	t.Cleanup(func() { cancel(); clients.Wait() })
	for range 2 {
		clients.Go(func() {
			for ctx.Err() == nil {
				request, err := http.NewRequestWithContext(ctx, http.MethodPost, proxy+"/v1/chat/completions",
					strings.NewReader(`{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 10, "stream": true}`))
				if !assert.NoError(t, err) {
					return
				}
				response, err := http.DefaultClient.Do(request)
				if ctx.Err() != nil || !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, http.StatusOK, response.StatusCode)
				_, _ = io.Copy(io.Discard, response.Body) // cut at the end of the test
				_ = response.Body.Close()
			}
		})
	}
}

// Every panel of the page, in Grafana or anywhere, is the same on a Prometheus.
func TestDashboard_AnswersAsARealPrometheus(t *testing.T) {
	prometheus := promtest.Start(t, prometheusConfig, "--query.lookback-delta=15s")
	log := filepath.Join(t.TempDir(), "llama-server.log")
	file, err := os.Create(log)
	require.NoError(t, err)
	defer file.Close()
	server := llamasim.Start(t, llamasim.Options{Log: file})
	port := freeport.For(t)
	base := fmt.Sprintf("http://localhost:%d", port)
	proxy := fmt.Sprintf("localhost:%d", freeport.For(t))
	c := collectortest.Start(t, []string{
		"LLAMACPP_ENDPOINT=" + server.URL(), "LLAMACPP_LOG=" + log, "PROMETHEUS_URL=" + prometheus.URL(), "LLAMAPROXY_ENDPOINT=" + proxy,
		"STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"), fmt.Sprintf("DASHBOARD_PORT=%d", port),
		fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)), fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
	}, "--config", filepath.Join(root, "collector-config.yaml"), "--config", collectortest.ConfigFile(t, overlay))
	c.AwaitLog("Started watching file")
	time.Sleep(500 * time.Millisecond) // only then it looks where the file ends
	server.AddLoad(llamasim.Load{Concurrency: 6})
	start := time.Now()
	askThrough(t, "http://"+proxy)
	require.Eventually(t, func() bool {
		return len(matrix(t, base, "gen_ai_server_request_duration_seconds", time.Now(), time.Now())) > 0
	}, 30*time.Second, 100*time.Millisecond)
	time.Sleep(5 * time.Second)
	end := time.Now().Add(-2 * time.Second) // what is later may be with one of them only

	catalogue, err := dashboards.Load()
	require.NoError(t, err)
	drawn := 0
	for _, panel := range catalogue.Panels {
		before := drawn
		for _, query := range panel.Queries {
			expr := dashboards.Expand(query.Expr, dashboards.Variables{Interval: 5 * time.Second})
			want, got := matrix(t, prometheus.URL(), expr, start, end), matrix(t, base, expr, start, end)
			assert.True(t, alike(want, got), "%s: %s:\nPrometheus\n%v\nthe dashboard\n%v", panel.ID, expr, want, got)
			if len(got) > 0 {
				drawn++
			}
		}
		if slices.Equal(panel.Sources, []string{"proxy"}) {
			assert.Greater(t, drawn, before, "%s: the proxy fills this panel", panel.ID)
		}
	}
	assert.Greater(t, drawn, 30, "the data is not enough to compare")

	names := func(base string) string {
		response, err := http.Get(base + "/api/v1/label/__name__/values?match[]={job=\"llama-server\"}")
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return string(body)
	}
	assert.JSONEq(t, names(prometheus.URL()), names(base))
}
