// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package configs holds the configurations that are shipped against the binary
// that `make build` leaves: each is accepted, and some are run.
package configs

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

const root = "../.."

// environment is what the examples ask of it: files that exist, and secrets.
func environment(tb testing.TB) []string {
	tb.Helper()
	dir := tb.TempDir()
	key := filepath.Join(dir, "key")
	require.NoError(tb, os.WriteFile(key, []byte("secret"), 0o600))
	cert, private := certificate(tb)
	ca, tlsKey := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.pem")
	require.NoError(tb, os.WriteFile(ca, cert, 0o600))
	require.NoError(tb, os.WriteFile(tlsKey, private, 0o600))
	return []string{
		"LLAMACPP_API_KEY=secret", "LLAMACPP_API_KEY_FILE=" + key, "LLAMACPP_CA_FILE=" + ca,
		"PAGE_PASSWORD=secret", "PAGE_CERTIFICATE=" + ca, "PAGE_KEY=" + tlsKey, fmt.Sprintf("OTLP_PORT=%d", freeport.For(tb)),
		"STATE_DIRECTORY=" + filepath.Join(dir, "state"),
		"LLAMACPP_LOG=" + filepath.Join(dir, "llama-server.log"), "ALICE_KEY=sk-alice", "BATCH_KEY=sk-batch", "CLIENT_HASH_SECRET=secret",
		"GRAFANA_CLOUD_OTLP_ENDPOINT=https://otlp.example.com/otlp", "GRAFANA_CLOUD_INSTANCE_ID=123456", "GRAFANA_CLOUD_API_KEY=secret",
		"HONEYCOMB_API_KEY=secret", "DD_API_KEY=secret",
		"GATEWAY_TOKEN=secret", "GATEWAY_STATE_DIRECTORY=" + filepath.Join(dir, "gateway"), "GATEWAY_OTLP_ENDPOINT=https://otlp.example.com",
	}
}

// validate runs `otelcol-llamacpp validate` over the files and returns what it prints.
func validate(tb testing.TB, program string, files ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	args := []string{"validate"}
	for _, file := range files {
		args = append(args, "--config", file)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), environment(tb)...)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// onTop are the examples that go on top of collector-config.yaml.
var onTop = []string{
	"examples/agent.yaml", "examples/kafka.yaml", "examples/otlp-out.yaml", "examples/prometheus-push.yaml",
	"examples/prometheus-remote-write.yaml", "examples/prometheus-remote-write-wal.yaml",
	"examples/span-metrics.yaml", "examples/traces-jaeger.yaml",
}

// onTopOfOTLP are the examples that go on top of examples/otlp-out.yaml.
var onTopOfOTLP = []string{"examples/otlp-grafana-cloud.yaml", "examples/otlp-honeycomb.yaml", "examples/otlp-datadog.yaml"}

// layers are the files of which an example is the last, as its comment says.
func layers(name string) []string {
	switch {
	case slices.Contains(onTop, name):
		return []string{"collector-config.yaml", name}
	case slices.Contains(onTopOfOTLP, name):
		return []string{"collector-config.yaml", "examples/otlp-out.yaml", name}
	default:
		return []string{name}
	}
}

func TestShippedConfigurationsAreAccepted(t *testing.T) {
	program := collectortest.Program(t)
	base := filepath.Join(root, "collector-config.yaml")
	sets := map[string][]string{"collector-config.yaml": {base}}
	for _, pattern := range []string{"*.yaml", "*/config.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, "examples", pattern))
		require.NoError(t, err)
		for _, file := range files {
			sets[filepath.ToSlash(file)] = []string{file}
		}
	}
	require.Greater(t, len(sets), 7)
	for _, name := range slices.Concat(onTop, onTopOfOTLP) {
		require.Contains(t, sets, root+"/"+name)
		sets[root+"/"+name] = nil
		for _, file := range layers(name) {
			sets[root+"/"+name] = append(sets[root+"/"+name], root+"/"+file)
		}
	}

	for _, name := range slices.Sorted(maps.Keys(sets)) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			output, err := validate(t, program, sets[name]...)
			require.NoError(t, err, output)
			assert.NotContains(t, output, "warn", "deprecated settings and unset variables")
		})
	}
}

// The log's span of a request that came through the proxy is below the proxy's: who has
// the one wants the other. A list of receivers replaces that of collector-config.yaml.
func TestWhatGoesOnTopHasTheProxyBesideTheLog(t *testing.T) {
	lists := 0
	for _, name := range slices.Concat([]string{"collector-config.yaml", "docker/collector.yaml"}, onTop) {
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		var config struct {
			Service struct {
				Pipelines map[string]struct{ Receivers []string }
			}
		}
		require.NoError(t, yaml.Unmarshal(text, &config), name)
		for id, pipeline := range config.Service.Pipelines {
			for _, receiver := range pipeline.Receivers {
				if of, isLog := strings.CutPrefix(receiver, "llamacpplog"); isLog {
					assert.Contains(t, pipeline.Receivers, "llamaproxy"+of, "%s: %s", name, id)
					lists++
				}
			}
		}
	}
	assert.Greater(t, lists, 8)
}

func TestReadmeSnippetsAreAccepted(t *testing.T) {
	program := collectortest.Program(t)
	fence := regexp.MustCompile("(?ms)^ *```ya?ml\n(.*?)\n *```")
	for _, readme := range []string{"README.md", "receiver/llamacppreceiver/README.md", "connector/llamacpplogconnector/README.md", "docs/latency.md", "loadgenextension/README.md", "receiver/loadgenreceiver/README.md", "receiver/llamaproxyreceiver/README.md", "docs/load.md", "exporter/dashboardexporter/README.md", "docs/dashboards.md", "docs/alerts.md", "docs/prometheus.md", "docs/proxy.md", "docs/traces.md", "docs/reliability.md"} {
		text, err := os.ReadFile(filepath.Join(root, readme))
		require.NoError(t, err)
		for i, match := range fence.FindAllSubmatch(text, -1) {
			snippet := completed(t, match[1])
			if snippet == nil {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", readme, i), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "config.yaml")
				require.NoError(t, os.WriteFile(file, snippet, 0o600))
				output, err := validate(t, program, file)
				require.NoError(t, err, "%s\n%s", output, snippet)
			})
		}
	}
}

// completed is a snippet with what it leaves out for the reader to imagine: a
// pipeline over its receivers, and the parts that the pipelines name. It is nil
// for YAML that is no collector configuration.
func completed(tb testing.TB, snippet []byte) []byte {
	tb.Helper()
	var config map[string]any
	require.NoError(tb, yaml.Unmarshal(snippet, &config), "%s", snippet)
	section := func(name string) map[string]any {
		s, ok := config[name].(map[string]any)
		if !ok {
			s = map[string]any{}
			config[name] = s
		}
		return s
	}
	if config["receivers"] == nil && config["service"] == nil {
		return nil
	}
	service := section("service")
	if service["pipelines"] == nil {
		service["pipelines"] = map[string]any{"metrics": map[string]any{
			"receivers": slices.Sorted(maps.Keys(section("receivers"))),
			"exporters": []string{"debug"},
		}}
		service["extensions"] = slices.Sorted(maps.Keys(section("extensions")))
	}
	connectors := section("connectors") // stand among receivers and exporters
	for _, p := range service["pipelines"].(map[string]any) {
		for kind, names := range p.(map[string]any) {
			list, ok := names.([]any)
			if !ok {
				continue
			}
			for _, name := range list {
				if _, ok := connectors[name.(string)]; ok {
					continue
				}
				if part := section(kind); part[name.(string)] == nil {
					part[name.(string)] = stub(name.(string))
				}
			}
		}
	}
	if exporters := section("exporters"); exporters["debug"] == nil {
		exporters["debug"] = nil
	}
	data, err := yaml.Marshal(config)
	require.NoError(tb, err)
	return data
}

// stub is a valid configuration of a component that a snippet only names.
func stub(name string) map[string]any {
	kind, _, _ := strings.Cut(name, "/")
	switch kind {
	case "memory_limiter":
		return map[string]any{"check_interval": "1s", "limit_mib": 100}
	case "otlp_grpc", "otlp_http":
		return map[string]any{"endpoint": "http://localhost:4317"}
	case "prometheus":
		return map[string]any{"endpoint": "localhost:9464"}
	case "otlp":
		return map[string]any{"protocols": map[string]any{"grpc": nil}}
	}
	return nil
}

func TestWrongConfigurationsAreExplained(t *testing.T) {
	program := collectortest.Program(t)
	for name, test := range map[string]struct {
		receiver string
		want     []string
	}{
		"no scheme":        {"endpoint: localhost:8080", []string{"endpoint", "http://"}},
		"API's URL":        {"endpoint: http://localhost:8080/v1", []string{"receivers::llamacpp: endpoint: ends in /v1", "want http://localhost:8080"}},
		"unknown scraper":  {"scrapers: {server: {}, slot: {}}", []string{"scrapers::slot: unknown setting: did you mean slots?"}},
		"unknown poll":     {"scrapers: {slots: {poll: sometimes}}", []string{"scrapers::slots::poll", "sometimes", "active", "always"}},
		"no interval":      {"scrapers: {server: {collection_interval: 0s}}", []string{"collection_interval"}},
		"no unit":          {"scrapers: {server: {collection_interval: 5}}", []string{"scrapers::server::collection_interval: 5ns: has it a unit? e.g. 5s"}},
		"unknown setting":  {"end_point: http://localhost:8080", []string{"end_point: unknown setting: did you mean endpoint?"}},
		"no answer fits":   {"max_response_size: -1", []string{"max_response_size"}},
		"unknown metric":   {"scrapers: {slots: {metrics: {llamacpp.slot: {enabled: true}}}}", []string{"scrapers::slots::metrics::llamacpp.slot: unknown setting: did you mean llamacpp.slots?"}},
		"nothing to watch": {"scrapers: {}", []string{"scrapers"}},
		"all devices":      {"scrapers: {gpu: {devices: all}}", []string{"scrapers::gpu::devices: is text: want a list", "leave it out for all"}},
		"number as key":    {"api_key: 12345", []string{"api_key: is a number: want text, in quotes"}},
		"Bearer as key":    {"api_key: Bearer sk", []string{"api_key: begins with Bearer, which is sent with every key; leave that word out"}},
		"two at once":      {"apikey: k, timeout: 10", []string{"apikey: unknown setting: did you mean api_key?", "timeout: 10ns: has it a unit? e.g. 10s"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(file, completed(t, []byte("receivers:\n  llamacpp: {"+test.receiver+"}\n")), 0o600))
			output, err := validate(t, program, file)
			require.Error(t, err, "it was accepted")
			for _, want := range test.want {
				assert.Contains(t, output, want)
			}
			t.Log(strings.TrimSpace(output))
		})
	}
	for name, test := range map[string]struct{ connector, want string }{
		"no scheme":         {"endpoint: localhost:8080", "http://"},
		"unknown setting":   {"end_point: http://localhost:8080", "end_point: unknown setting: did you mean endpoint?"},
		"one bucket":        {"histogram: {exponential: {max_size: 1}}", "max_size"},
		"no interval":       {"metrics_flush_interval: 0s", "metrics_flush_interval"},
		"no unit":           {"metrics_flush_interval: 1", "metrics_flush_interval: 1ns: has it a unit? e.g. 1s"},
		"unknown histogram": {"metrics: {gen_ai.server.request: {enabled: true}}", "metrics::gen_ai.server.request: unknown setting: did you mean gen_ai.server.request.duration?"},
	} {
		t.Run("log: "+name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(file, completed(t, []byte("connectors:\n  llamacpplog: {"+test.connector+`}
receivers: {file_log: {include: [llama-server.log]}}
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    metrics: {receivers: [llamacpplog], exporters: [debug]}
`)), 0o600))
			output, err := validate(t, program, file)
			require.Error(t, err, "it was accepted")
			assert.Contains(t, output, test.want)
		})
	}
}

// The manifest of the example builds, and what it builds accepts the example's configuration.
func TestAddToYourCollector(t *testing.T) {
	dir := filepath.Join(root, "examples", "add-to-your-collector")
	tools, err := filepath.Abs(filepath.Join(root, "tools", "go.mod"))
	require.NoError(t, err)
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile="+tools, "builder", "--config", "builder-config.yaml")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "dist.output_path="+out)
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)

	printed, err := validate(t, filepath.Join(out, "my-collector"), filepath.Join(dir, "config.yaml"))
	require.NoError(t, err, printed)
}

func TestVersionNamesTheCommit(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), collectortest.Program(t), "--version").Output()
	require.NoError(t, err)
	assert.Regexp(t, `^otelcol-llamacpp version \d+\.\d+\.\d+(-dev)?(\+|$)`, string(bytes.TrimSpace(output)))
}

// Without the file the examples would wait for lines for ever.
func TestLogExamplesAskForTheLog(t *testing.T) {
	for _, name := range []string{"log-file.yaml", "log-docker.yaml"} {
		for kind, variable := range map[string][]string{"unset": nil, "empty": {"LLAMACPP_LOG="}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, collectortest.Program(t), "validate", "--config", filepath.Join(root, "examples", name))
				cmd.Env = slices.DeleteFunc(append(os.Environ(), environment(t)...), func(v string) bool { return strings.HasPrefix(v, "LLAMACPP_LOG=") })
				cmd.Env = append(cmd.Env, variable...)
				output, err := cmd.CombinedOutput()
				require.Error(t, err, "it was accepted")
				assert.Contains(t, string(output), "set LLAMACPP_LOG to the absolute path of llama-server's log")
			})
		}
	}
}

// The environment holds text, of which YAML makes numbers: a key of digits is
// still a key, and a duration still wants its unit.
func TestDigitsFromTheEnvironment(t *testing.T) {
	for setting, want := range map[string]string{
		"api_key: ${env:DIGITS}": "",
		"timeout: ${env:DIGITS}": "timeout: 12.345µs: has it a unit? e.g. 12345s",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		require.NoError(t, os.WriteFile(file, completed(t, []byte("receivers:\n  llamacpp:\n    "+setting+"\n")), 0o600))
		t.Setenv("DIGITS", "12345")
		output, err := validate(t, collectortest.Program(t), file)
		if want == "" {
			require.NoError(t, err, output)
			continue
		}
		require.Error(t, err, "it was accepted")
		assert.Contains(t, output, want)
	}
}
