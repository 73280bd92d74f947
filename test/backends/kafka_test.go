// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// Kafka is away while data comes, and the collector is killed: all is in the
// topic afterwards, once.
func TestKafka_OutageAndAKillLoseNothing(t *testing.T) {
	t.Parallel()
	batches := record(t)
	batches = batches[:len(batches)/5]
	program := filepath.Join(t.TempDir(), "kafka")
	out, err := exec.Command("go", "build", "-C", filepath.Join(root, "tools", "kafka"), "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)

	sink := otlpsink.Start(t)
	broker := freeport.For(t)
	r, receive := receiveOTLP(t)
	c := collectortest.Start(t, []string{
		fmt.Sprintf("KAFKA_BROKER=127.0.0.1:%d", broker), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
		fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)), fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
		fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)), "LLAMACPP_LOG=" + filepath.Join(t.TempDir(), "llama-server.log"),
	}, "--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "kafka.yaml"),
		"--config", collectortest.ConfigFile(t, receive), "--config", collectortest.ConfigFile(t, `
exporters: {kafka: {retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}}
`))
	r.give(batches[:len(batches)/2]...)
	c.Kill()
	c.Start()
	r.give(batches[len(batches)/2:]...)

	var log child.Output
	kafka, err := child.Start(exec.Command(program, fmt.Sprintf("-port=%d", broker), "-topic=llamacpp_metrics="+sink.URL()+"/v1/metrics"), &log)
	require.NoError(t, err)
	t.Cleanup(func() {
		kafka.Kill()
		if t.Failed() {
			t.Logf("Kafka's log:\n%s", log.String())
		}
	})
	arrives(t, batches, sink)
	assert.NotContains(t, c.Log(), "not retryable")
}
