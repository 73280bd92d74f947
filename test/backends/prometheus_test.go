// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

const root = "../.."

// ports are those that a collector listens on.
type ports struct{ metrics, telemetry int }

func freePorts(t *testing.T) ports {
	t.Helper()
	return ports{metrics: freeport.For(t), telemetry: freeport.For(t)}
}

// startPrometheus runs a Prometheus with the shipped configuration, which
// scrapes collectors on these ports at an interval.
func startPrometheus(t *testing.T, interval string, collectors ...ports) *promtest.Server {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "examples", "prometheus", "prometheus.yml"))
	require.NoError(t, err)
	var metrics, telemetry []string
	for _, c := range collectors {
		metrics = append(metrics, fmt.Sprintf("localhost:%d", c.metrics))
		telemetry = append(telemetry, fmt.Sprintf("localhost:%d", c.telemetry))
	}
	config := string(text)
	for shipped, here := range map[string]string{
		"scrape_interval: 15s": "scrape_interval: " + interval,
		"[localhost:9464]":     "[" + strings.Join(metrics, ", ") + "]",
		"[localhost:8888]":     "[" + strings.Join(telemetry, ", ") + "]",
	} {
		require.Contains(t, config, shipped)
		config = strings.ReplaceAll(config, shipped, here)
	}
	return promtest.Start(t, config)
}

// A way is how metrics get from a collector to Prometheus.
type way struct {
	name string
	// file is a shipped configuration that goes on top of collector-config.yaml,
	// or "".
	file string
	// overlay goes on top of both.
	overlay string
	// pushes reports whether Prometheus does not scrape.
	pushes bool
}

var ways = []way{
	{name: "scrape"},
	{name: "OTLP", file: "examples/prometheus-push.yaml", pushes: true},
	{name: "remote write", pushes: true, overlay: `
exporters: {prometheus_remote_write: {http: {endpoint: "${env:PROMETHEUS_URL}/api/v1/write"}, disable_scope_info: true}}
service: {pipelines: {metrics: {exporters: [prometheus_remote_write]}}}
`},
}

// startWay runs a Prometheus and a collector with collector-config.yaml that
// gets its metrics there, with an overlay on top and further variables in its
// environment.
func startWay(t *testing.T, w way, interval, overlay string, env ...string) (*promtest.Server, *collectortest.Collector) {
	t.Helper()
	p := freePorts(t)
	var scraped []ports
	if !w.pushes {
		scraped = append(scraped, p)
	}
	prometheus := startPrometheus(t, interval, scraped...)
	return prometheus, startCollector(t, w, prometheus, p, overlay, env...)
}

// startCollector runs a collector with collector-config.yaml that gets its
// metrics to Prometheus.
func startCollector(t *testing.T, w way, prometheus *promtest.Server, p ports, overlay string, env ...string) *collectortest.Collector {
	t.Helper()
	args := []string{"--config", filepath.Join(root, "collector-config.yaml")}
	if w.file != "" {
		args = append(args, "--config", filepath.Join(root, w.file))
	}
	for _, text := range []string{w.overlay, overlay} {
		if text != "" {
			args = append(args, "--config", collectortest.ConfigFile(t, text))
		}
	}
	env = append([]string{
		"PROMETHEUS_URL=" + prometheus.URL(), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
		fmt.Sprintf("PROMETHEUS_PORT=%d", p.metrics), fmt.Sprintf("TELEMETRY_PORT=%d", p.telemetry),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)), "LLAMACPP_LOG=" + filepath.Join(t.TempDir(), "llama-server.log"),
	}, env...)
	return collectortest.Start(t, env, args...)
}

// instance is the label of a server at a URL.
func instance(url string) string { return strings.TrimPrefix(url, "http://") }

func TestPrometheusConfiguration_IsValid(t *testing.T) {
	promtest.CheckConfig(t, filepath.Join(root, "examples", "prometheus", "prometheus.yml"))
}
