// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/journaltest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// recording is a log of the real llama-server: two requests of 44 prompt and
// 6 generated tokens, 11 of them from the cache.
func recording(tb testing.TB) []string {
	tb.Helper()
	text, err := os.ReadFile(root + "/connector/llamacpplogconnector/internal/serverlog/testdata/start_and_two_requests.log")
	require.NoError(tb, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// follow runs an example with what a test has to change of it, until the test
// ends, and returns what it exports.
func follow(t *testing.T, example, change string, env ...string) *otlpsink.Sink {
	t.Helper()
	sink := otlpsink.Start(t)
	env = append(append(environment(t), "OTLP_ENDPOINT="+sink.URL(), "STATE_DIRECTORY="+filepath.Join(t.TempDir(), "state")), env...)
	collectortest.Start(t, env, "--config", filepath.Join(root, "examples", example), "--config", collectortest.ConfigFile(t, change))
	return sink
}

// quiet is what all examples have in common that a test does without: the
// collector's own port, which may be taken.
const quiet = "service: {telemetry: {metrics: {level: none}}}\n"

// eventuallyCounts waits until the requests of the recording have arrived as
// those of a server.
func eventuallyCounts(t *testing.T, sink *otlpsink.Sink, instance string) {
	t.Helper()
	otlpsink.Eventually(t, 40*time.Second, func() bool {
		return sink.Points(otlpsink.Metric("llamacpp.requests"), otlpsink.Of(instance), otlpsink.With("llamacpp.request.outcome", "completed")).LastIs(2)
	}, "two requests of %s", instance)
}

func TestLogFile_CountsRequests(t *testing.T) {
	file := filepath.Join(t.TempDir(), "llama-server.log")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(recording(t), "\n")+"\n"), 0o600))
	sink := follow(t, "log-file.yaml", quiet, "LLAMACPP_LOG="+file, "LLAMACPP_ENDPOINT=http://localhost:1")
	eventuallyCounts(t, sink, "localhost:1")
}

func TestLogDocker_CountsRequests(t *testing.T) {
	file := filepath.Join(t.TempDir(), "container-json.log")
	var text strings.Builder
	for i, line := range recording(t) {
		record, err := json.Marshal(map[string]string{
			"log": line + "\n", "stream": "stderr",
			"time": time.Now().Add(time.Duration(i) * time.Millisecond).UTC().Format(time.RFC3339Nano),
		})
		require.NoError(t, err)
		fmt.Fprintf(&text, "%s\n", record)
	}
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))
	sink := follow(t, "log-docker.yaml", quiet, "LLAMACPP_LOG="+file)
	eventuallyCounts(t, sink, "localhost:8080")
}

func TestLogKubernetes_CountsThePodsRequests(t *testing.T) {
	pods := t.TempDir()
	for i, pod := range []string{"llama-0", "llama-1"} {
		var text strings.Builder
		for j, line := range recording(t) {
			at := time.Now().Add(time.Duration(i)*time.Second + time.Duration(j)*time.Millisecond).UTC().Format(time.RFC3339Nano)
			if half := len(line) / 2; j == 12 { // the runtime cuts long lines
				fmt.Fprintf(&text, "%s stderr P %s\n%s stderr F %s\n", at, line[:half], at, line[half:])
				continue
			}
			fmt.Fprintf(&text, "%s stderr F %s\n", at, line)
		}
		folder := filepath.Join(pods, "models_"+pod+"_49cc7c1f-d3702c40-b2686ea7-486091d6", "llama-server")
		require.NoError(t, os.MkdirAll(folder, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "0.log"), []byte(text.String()), 0o600))
	}
	// The agent's log pipeline alone: test/kubernetes has the rest of it.
	sink := follow(t, "../deploy/kubernetes/collector/agent/config.yaml", `
exporters: {otlp_http: {endpoint: "${env:OTLP_ENDPOINT}"}}
service:
  extensions: [file_storage]
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [llamacpplog], exporters: [otlp_http]}, traces: {exporters: [otlp_http]}}
`, "POD_LOGS="+pods, "POD_IP=127.0.0.1", "K8S_NODE_NAME=node-1")
	eventuallyCounts(t, sink, "models.llama-0.llama-server")
	eventuallyCounts(t, sink, "models.llama-1.llama-server")
}

func TestLogSystemd_CountsTheUnitsRequests(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, journaltest.Write(t.Context(), folder, "llama-server.service", 77, recording(t), time.Now()))
	sink := follow(t, "log-systemd.yaml", quiet+`
receivers: {journald: {directory: "`+folder+`", start_at: beginning}}
`)
	eventuallyCounts(t, sink, "localhost:8080")
}
