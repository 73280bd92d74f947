// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// running is a dashboard with both its exporters.
type running struct {
	url     string
	metrics exporter.Metrics
	traces  exporter.Traces
	logs    *observer.ObservedLogs
}

func start(t *testing.T, host component.Host, change func(*Config)) running {
	t.Helper()
	cfg := newDefaultConfig()
	cfg.ServerConfig.NetAddr.Endpoint = fmt.Sprintf("localhost:%d", freeport.For(t))
	if change != nil {
		change(cfg)
	}
	core, logs := observer.New(zap.InfoLevel)
	set := exportertest.NewNopSettings(metadata.Type)
	set.Logger = zap.New(core)
	f := NewFactory()
	m, err := f.CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	tr, err := f.CreateTraces(t.Context(), set, cfg)
	require.NoError(t, err)
	for _, c := range []component.Component{m, tr} {
		require.NoError(t, c.Start(t.Context(), host))
		t.Cleanup(func() { assert.NoError(t, c.Shutdown(context.Background())) })
	}
	return running{url: "http://" + cfg.ServerConfig.NetAddr.Endpoint, metrics: m, traces: tr, logs: logs}
}

// get reads a URL, with the Host header that is given unless it is empty.
func get(t *testing.T, url, host string) (int, string) {
	t.Helper()
	return do(t, http.MethodGet, url, host, "")
}

func do(t *testing.T, method, url, host, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Host = host
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func gauges(values map[string]float64, at time.Time) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "llama-server")
	rm.Resource().Attributes().PutStr("service.instance.id", "localhost:8080")
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	for name, value := range values {
		m := ms.AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at))
		p.SetDoubleValue(value)
	}
	return md
}

func TestDashboard_IsAPrometheus(t *testing.T) {
	d := start(t, componenttest.NewNopHost(), nil)
	require.NoError(t, d.metrics.ConsumeMetrics(t.Context(), gauges(map[string]float64{"llamacpp.requests.deferred": 3}, time.Now())))
	status, body := get(t, d.url+"/api/v1/query?query=llamacpp_requests_deferred", "")
	require.Equal(t, http.StatusOK, status)
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  []any             `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &answer), body)
	require.Len(t, answer.Data.Result, 1)
	assert.Equal(t, "localhost:8080", answer.Data.Result[0].Metric["instance"])
	assert.Equal(t, "3", answer.Data.Result[0].Value[1])
}

func TestDashboard_RefusedPointsAreLoggedOnceWithTheCure(t *testing.T) {
	d := start(t, componenttest.NewNopHost(), nil)
	now := time.Now()
	for i := range 5 {
		require.NoError(t, d.metrics.ConsumeMetrics(t.Context(), gauges(map[string]float64{"queue": float64(i)}, now)))
	}
	logged := d.logs.FilterMessageSnippet("two sources use the same names")
	require.Equal(t, 1, logged.Len())
	assert.Equal(t, "queue", logged.All()[0].ContextMap()["example"])
}

func TestDashboard_AnswersOnlyItsOwnHosts(t *testing.T) {
	d := start(t, componenttest.NewNopHost(), func(cfg *Config) { cfg.AllowedHosts = []string{"host.docker.internal"} })
	for host, want := range map[string]int{
		"localhost:9465": http.StatusOK, "127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK, "host.docker.internal:9465": http.StatusOK,
		"evil.example": http.StatusForbidden, "192.0.2.1": http.StatusForbidden,
	} {
		status, body := get(t, d.url+"/api/v1/labels", host)
		assert.Equal(t, want, status, "%s: %s", host, body)
	}
	status, body := do(t, http.MethodPost, d.url+"/api/v1/query", "host.docker.internal", "query=1")
	assert.Equal(t, http.StatusOK, status, body)
}

func TestDashboard_PortInUseNamesTheCure(t *testing.T) {
	listener, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer func() { assert.NoError(t, listener.Close()) }()
	cfg := newDefaultConfig()
	cfg.ServerConfig.NetAddr.Endpoint = listener.Addr().String()
	m, err := NewFactory().CreateMetrics(t.Context(), exportertest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, err)
	assert.ErrorContains(t, m.Start(t.Context(), componenttest.NewNopHost()), "choose another endpoint")
	assert.NoError(t, m.Shutdown(t.Context()))
}

func TestDashboard_HistoryOutlivesTheCollectorInItsDirectory(t *testing.T) {
	folder := t.TempDir()
	now := time.Now()
	for i := range 2 {
		t.Run("", func(t *testing.T) {
			d := start(t, componenttest.NewNopHost(), func(cfg *Config) { cfg.StorageDirectory = folder })
			if i == 0 {
				require.NoError(t, d.metrics.ConsumeMetrics(t.Context(), gauges(map[string]float64{"queue": 7}, now)))
			}
			_, body := get(t, d.url+"/api/v1/query?query=queue", "")
			assert.Contains(t, body, `"7"`)
		})
	}
}

// host has extensions.
type host struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h host) GetExtensions() map[component.ID]component.Component { return h.extensions }

// load stands for the extension loadgen.
type load struct {
	component.Component
	authenticated bool
	hosts         []string
}

func (l *load) Handler(authenticated bool, hosts []string) http.Handler {
	l.authenticated, l.hosts = authenticated, hosts
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
}

func TestDashboard_OffersTheLoadGenerator(t *testing.T) {
	l := &load{}
	d := start(t, host{componenttest.NewNopHost(), map[component.ID]component.Component{component.MustNewID("loadgen"): l}},
		func(cfg *Config) { cfg.AllowedHosts = []string{"a"} })
	status, body := get(t, d.url+"/loadgen/api/v1/runs", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "/api/v1/runs", body)
	assert.False(t, l.authenticated)
	assert.Equal(t, []string{"a"}, l.hosts)

	status, _ = get(t, start(t, componenttest.NewNopHost(), nil).url+"/loadgen/api/v1/runs", "")
	assert.Equal(t, http.StatusNotFound, status)
}
