// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
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
	return promtest.Start(t, prometheusConfig(t, interval, collectors, collectors))
}

// prometheusConfig is the shipped configuration with other addresses: at an
// interval it scrapes metrics of collectors, and their own. Its rules are those of
// dashboards, and it tells the Alertmanagers at these addresses.
func prometheusConfig(t *testing.T, interval string, metrics, telemetry []ports, alertmanagers ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "examples", "prometheus", "prometheus.yml"))
	require.NoError(t, err)
	var served, own []string
	for _, c := range metrics {
		served = append(served, fmt.Sprintf("localhost:%d", c.metrics))
	}
	for _, c := range telemetry {
		own = append(own, fmt.Sprintf("localhost:%d", c.telemetry))
	}
	return replaced(t, string(text),
		"scrape_interval: 15s", "scrape_interval: "+interval,
		"[localhost:9464]", "["+strings.Join(served, ", ")+"]",
		"[localhost:8888]", "["+strings.Join(own, ", ")+"]",
		"[localhost:9093]", "["+strings.Join(alertmanagers, ", ")+"]",
		"[../../dashboards/rules.yaml]", "["+shippedRules(t)+"]")
}

func shippedRules(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "dashboards", "rules.yaml"))
	require.NoError(t, err)
	return path
}

// impatient is a configuration with other durations in its rules.
func impatient(t *testing.T, config string, durations ...string) string {
	t.Helper()
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(rules, []byte(replaced(t, string(dashboards.Rules()), durations...)), 0o600))
	return replaced(t, config, shippedRules(t), rules)
}

// replaced is a text with old strings replaced by new ones, each of which it has.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		require.Contains(t, text, pairs[i])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// A way is how metrics get from a collector to Prometheus.
type way struct {
	name string
	// file is a shipped configuration that goes on top of collector-config.yaml,
	// or "".
	file string
	// pushes reports whether Prometheus does not scrape.
	pushes bool
}

var ways = []way{
	{name: "scrape"},
	{name: "OTLP", file: "examples/prometheus-push.yaml", pushes: true},
	{name: "remote write", file: "examples/prometheus-remote-write.yaml", pushes: true},
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
	if overlay != "" {
		args = append(args, "--config", collectortest.ConfigFile(t, overlay))
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

// logged runs a simulator that writes a log.
func logged(t *testing.T, o llamasim.Options) (server *llamasim.Server, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "llama-server.log")
	file, err := os.Create(log)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	o.Log = file
	return llamasim.Start(t, o), log
}

// loadRun is a run of the load generator as its API shows it.
type loadRun struct {
	ID, State string
	Requests  struct{ Due, OK int }
}

func runs(t *testing.T, api string) []loadRun {
	t.Helper()
	r, err := http.Get(api + "/api/v1/runs")
	require.NoError(t, err)
	defer r.Body.Close()
	var answer struct{ Runs []loadRun }
	require.NoError(t, json.NewDecoder(r.Body).Decode(&answer))
	require.NotEmpty(t, answer.Runs)
	return answer.Runs
}

func TestPrometheusConfiguration_IsValid(t *testing.T) {
	promtest.CheckConfig(t, filepath.Join(root, "examples", "prometheus", "prometheus.yml"))
}
