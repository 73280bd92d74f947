// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// Some settings are known to be deprecated only when the part that has them is made.
func TestExamples_RunWithoutObsoleteSettings(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "examples", "*.yaml"))
	require.NoError(t, err)
	require.Greater(t, len(files), 7)
	// Remote write does not give up at the end of the collector.
	prometheus := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(prometheus.Close)
	for _, file := range files {
		name := "examples/" + filepath.Base(file)
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c := runQuietly(t, []string{
				"OTLP_ENDPOINT=http://127.0.0.1:1", "PROMETHEUS_URL=" + prometheus.URL, "KAFKA_BROKER=127.0.0.1:1", "GATEWAYS=localhost",
				fmt.Sprintf("GATEWAY_PORT=%d", freeport.For(t)), fmt.Sprintf("GATEWAY_HTTP_PORT=%d", freeport.For(t)),
				fmt.Sprintf("GATEWAY_HEALTH_CHECK_PORT=%d", freeport.For(t)),
			}, quiet, layers(name)...)
			c.AwaitLog("Everything is ready")
			time.Sleep(500 * time.Millisecond) // what the parts log once they run
			c.Terminate()
			assert.NotContains(t, strings.ToLower(c.Log()), "deprecat")
		})
	}
}

// runQuietly runs a collector with shipped configurations and what a test has to
// change of them.
func runQuietly(t *testing.T, env []string, change string, files ...string) *collectortest.Collector {
	t.Helper()
	var args []string
	for _, file := range files {
		args = append(args, "--config", filepath.Join(root, file))
	}
	env = append(append(environment(t), fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("LOADGEN_PORT=%d", freeport.For(t)),
		fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t))), env...)
	return collectortest.Start(t, env, append(args, "--config", collectortest.ConfigFile(t, change))...)
}

// All that is served to Prometheus is served in the same way.
func TestExamples_ServePrometheusAlike(t *testing.T) {
	exporter := func(file string) string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, section, found := strings.Cut(string(text), "\n  prometheus:\n")
		if !found {
			return ""
		}
		var settings []string
		for line := range strings.Lines(section) {
			if !strings.HasPrefix(line, "    ") {
				break
			}
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
				settings = append(settings, line)
			}
		}
		return strings.Join(settings, "\n")
	}
	want := exporter(filepath.Join(root, "collector-config.yaml"))
	require.NotEmpty(t, want)
	files, err := filepath.Glob(filepath.Join(root, "examples", "*.yaml"))
	require.NoError(t, err)
	files = append(files, filepath.Join(root, "deploy", "kubernetes", "collector", "gateway", "config.yaml"))
	for _, file := range files {
		if got := exporter(file); got != "" {
			// A pod listens on its own address.
			got = strings.Replace(got, "${env:POD_IP}:9464", "${env:PROMETHEUS_HOST:-localhost}:${env:PROMETHEUS_PORT:-9464}", 1)
			assert.True(t, strings.HasPrefix(got, want), "%s:\n%s\nand not\n%s", file, got, want)
		}
	}
}

// Counts go on, and what was written while there was no collector is read.
func TestCollectorConfig_KilledCollectorLosesNoRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "llama-server.log")
	lines := recording(t)
	second := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "task 7 |") })
	require.Positive(t, second)
	require.NoError(t, os.WriteFile(file, []byte(lines[0]+"\n"), 0o600))
	write := func(lines []string) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
		require.NoError(t, err)
	}
	metrics, c := startLogged(t, []string{"LLAMACPP_ENDPOINT=" + simulator(t), "LLAMACPP_LOG=" + file}, "collector-config.yaml")
	c.AwaitLog("Started watching file")
	time.Sleep(500 * time.Millisecond) // only then it looks where the file ends
	write(lines[1:second])
	eventuallyServes(t, metrics, "llamacpp_requests_total{", `llamacpp_request_outcome="completed"`, "} 1")
	time.Sleep(500 * time.Millisecond) // how far it got is noted a little later

	c.Kill()
	write(lines[second:])
	c.Start()
	eventuallyServes(t, metrics, "llamacpp_requests_total{", `llamacpp_request_outcome="completed"`, "} 2")
}

// A queue that cannot be written is not a reason to fill the log as well.
func TestExamples_FullDiskIsLoggedBriefly(t *testing.T) {
	for name, configs := range map[string][]string{
		"otlp-out": {"collector-config.yaml", "examples/otlp-out.yaml"},
		"log-file": {"examples/log-file.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			c := runQuietly(t, []string{"LLAMACPP_ENDPOINT=" + simulator(t), "OTLP_ENDPOINT=http://127.0.0.1:1"}, quiet+`
extensions: {file_storage: {max_size: 100000}}
receivers: {llamacpp: {scrapers: {server: {collection_interval: 50ms}}}}
`, configs...)
			c.AwaitLog("Rejecting data")
			time.Sleep(3 * time.Second)
			assert.LessOrEqual(t, strings.Count(c.Log(), "Rejecting data"), 10)
			assert.NotContains(t, c.Log(), "\n\t", "a stack trace")
			c.Kill() // it may end with an error: there is no place to keep what is in flight
		})
	}
}
