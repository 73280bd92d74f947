// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// strained is a collector with collector-config.yaml and examples/otlp-out.yaml
// that gets its metrics from a replayer.
type strained struct {
	*collectortest.Collector
	replayer
	telemetry int
}

// strain starts one, by way of a program if there is one, with its queue in a
// folder.
func strain(t *testing.T, program []string, sink *otlpsink.Sink, queue, overlay string, more ...string) strained {
	t.Helper()
	r, receive := receiveOTLP(t)
	telemetry := freeport.For(t)
	args := slices.Concat([]string{
		"--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "otlp-out.yaml"),
		"--config", collectortest.ConfigFile(t, receive), "--config", collectortest.ConfigFile(t, fmt.Sprintf(`
extensions: {file_storage/queue: {directory: %q, create_directory: true}}
exporters: {otlp_http: {sending_queue: {storage: file_storage/queue}, retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}}
service: {extensions: [health_check, file_storage, file_storage/queue], pipelines: {metrics: {exporters: [otlp_http]}}}
`, queue)), "--config", collectortest.ConfigFile(t, overlay),
	}, more)
	c := collectortest.StartUnder(t, program, []string{
		"OTLP_ENDPOINT=" + sink.URL(), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"), fmt.Sprintf("TELEMETRY_PORT=%d", telemetry),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)), "LLAMACPP_LOG=" + filepath.Join(t.TempDir(), "llama-server.log"),
	}, args...)
	c.AwaitLog("Everything is ready")
	return strained{c, r, telemetry}
}

// own is the sum of one of the collector's own metrics: of those series of it
// that have all these labels, each as name=value.
func (s strained) own(name string, with ...string) float64 {
	s.t.Helper()
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", s.telemetry))
	require.NoError(s.t, err)
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	require.NoError(s.t, err)
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		if !slices.ContainsFunc(with, func(l string) bool { return !slices.Contains(labels, l) }) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return sum
}

// offer gives each batch once, and returns those that were taken and those that
// were not.
func (s strained) offer(batches []pmetric.Metrics) (taken, refused []pmetric.Metrics) {
	s.t.Helper()
	for _, md := range batches {
		body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		require.NoError(s.t, err)
		if s.post(body) == http.StatusOK {
			taken = append(taken, md)
		} else {
			refused = append(refused, md)
		}
	}
	return taken, refused
}

// smallDisk is a program that gives what it starts a disk of some MB at a
// folder, which nobody else sees.
func smallDisk(t *testing.T, mb int, at string) []string {
	t.Helper()
	require.NoError(t, os.MkdirAll(at, 0o755))
	program := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		program = append(program, "--map-root-user")
	}
	program = append(program, "sh", "-c", fmt.Sprintf(`mount -t tmpfs -o size=%dm none "$0" && exec "$@"`, mb), at)
	out, err := exec.Command(program[0], append(program[1:], "true")...).CombinedOutput()
	require.NoError(t, err, "a disk in memory cannot be mounted; this needs root, or user namespaces: %s", out)
	return program
}

// What does not fit is refused, and counted point by point; what was taken
// arrives when the backend is back.
func TestQueue_FullDiskRefusesAndCounts(t *testing.T) {
	t.Parallel()
	batches := record(t)[:1500]
	sink := otlpsink.Start(t)
	sink.Down()
	folder := filepath.Join(t.TempDir(), "disk")
	c := strain(t, smallDisk(t, 4, folder), sink, filepath.Join(folder, "queue"), "")

	taken, refused := c.offer(batches)
	require.Greater(t, len(taken), 300)
	require.Greater(t, len(refused), 100)
	lost := float64(len(pointsOf(refused...)))
	assert.InDelta(t, lost, c.own("otelcol_exporter_enqueue_failed_metric_points"), 0)
	sink.Up()
	arrives(t, taken, sink)
	assert.InDelta(t, lost, c.own("otelcol_exporter_enqueue_failed_metric_points"), 0)
	c.AwaitLog("Rejecting data")
}

// A backend that is slower than what comes fills the queue. What no longer fits
// is refused and counted, and the alert for it fires.
func TestQueue_SlowBackendFillsItAndTheAlertFires(t *testing.T) {
	t.Parallel()
	batches := record(t)[:1500]
	sink := otlpsink.Start(t)
	sink.SetDelay(time.Second)
	c := strain(t, nil, sink, t.TempDir(), `
exporters: {otlp_http: {sending_queue: {queue_size: 1000000}}}
`)
	prometheus := startPrometheus(t, "1s", ports{freeport.For(t), c.telemetry})

	taken, refused := c.offer(batches[:1000])
	require.Greater(t, len(refused), 100)
	assert.Greater(t, c.own("otelcol_exporter_queue_size"), 500_000.0)
	assert.InDelta(t, 1_000_000.0, c.own("otelcol_exporter_queue_capacity", "data_type=metrics"), 0)
	// A rate needs to see the counter rise.
	otlpsink.Eventually(t, 30*time.Second, func() bool { return len(prometheus.Query("otelcol_exporter_enqueue_failed_metric_points")) > 0 }, "Prometheus has the counter")
	taken2, refused2 := c.offer(batches[1000:])
	require.NotEmpty(t, refused2)
	otlpsink.Eventually(t, 30*time.Second, func() bool { return len(prometheus.Query(alert(t, "CollectorLosesData"))) > 0 }, "the alert's expression has a value")

	assert.InDelta(t, float64(len(pointsOf(append(refused, refused2...)...))), c.own("otelcol_exporter_enqueue_failed_metric_points"), 0)
	sink.SetDelay(0)
	arrives(t, append(taken, taken2...), sink)
}

// alert is the expression of an alert that is shipped.
func alert(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "dashboards", "rules.yaml"))
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == name {
				return r.Expr
			}
		}
	}
	t.Fatalf("rules.yaml has no alert %s", name)
	return ""
}

// When memory is short, data is refused and counted. A client that sends again
// loses nothing, and neither does the log.
func TestMemoryLimit_RefusesAndCountsAndClientsSendAgain(t *testing.T) {
	t.Parallel()
	batches := record(t)[:50]
	sink := otlpsink.Start(t)
	// Less than a collector has after its start.
	limit := collectortest.ConfigFile(t, "processors: {memory_limiter: {check_interval: 100ms, limit_mib: 5, spike_limit_mib: 1}}")
	c := strain(t, nil, sink, t.TempDir(), "", "--config", limit)
	prometheus := startPrometheus(t, "1s", ports{freeport.For(t), c.telemetry})
	time.Sleep(time.Second) // the limiter looks for the first time

	taken, refused := c.offer(batches[:25])
	assert.Empty(t, taken)
	otlpsink.Eventually(t, 30*time.Second, func() bool {
		return len(prometheus.Query("otelcol_processor_memory_limiter_refused_metric_points")) > 0
	}, "Prometheus has the counter")
	taken, again := c.offer(batches[25:])
	assert.Empty(t, taken)
	refused = append(refused, again...)
	n := float64(len(pointsOf(refused...)))
	assert.InDelta(t, n, c.own("otelcol_receiver_refused_metric_points", "receiver=otlp"), 0)
	assert.GreaterOrEqual(t, c.own("otelcol_processor_memory_limiter_refused_metric_points"), n, "those of the collector's own receivers are in it")
	otlpsink.Eventually(t, 30*time.Second, func() bool { return len(prometheus.Query(alert(t, "CollectorRefusesData"))) > 0 }, "the alert's expression has a value")
	assert.Empty(t, sink.Points())

	c.Terminate()
	require.NoError(t, os.WriteFile(limit, []byte("processors: {memory_limiter: {limit_mib: 600, spike_limit_mib: 150}}"), 0o600))
	c.Start()
	c.give(refused...)
	arrives(t, refused, sink)
}
