// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// servers is how many servers an agent of these tests watches.
const servers = 24

// scrapeOf is one point of each of two metrics of one server.
func scrapeOf(server, number int) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "llama-server")
	rm.Resource().Attributes().PutStr("service.instance.id", fmt.Sprintf("gpu-%d:8080", server))
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	at := pcommon.NewTimestampFromTime(time.Now())
	for _, name := range []string{"llamacpp.requests.processing", "llamacpp.requests.deferred"} {
		m := metrics.AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(at)
		p.SetIntValue(int64(number))
	}
	return md
}

// spansOf are two spans of one trace, of two servers.
func spansOf(trace int) ptrace.Traces {
	td := ptrace.NewTraces()
	for i := range 2 {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.instance.id", fmt.Sprintf("gpu-%d:8080", (trace+i)%servers))
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetName("chat")
		s.SetTraceID(pcommon.TraceID{1, byte(trace >> 8), byte(trace)})
		s.SetSpanID(pcommon.SpanID{1, byte(trace >> 8), byte(trace), byte(i)})
	}
	return td
}

// A tier is an agent before two gateways, each with a backend of its own, at
// addresses that the name gateways.test has.
type tier struct {
	replayer
	t        *testing.T
	gateways []*collectortest.Collector
	sinks    []*otlpsink.Sink
	hosts    string // what the agent takes for /etc/hosts
}

func startTier(t *testing.T) *tier {
	t.Helper()
	tr := &tier{t: t, hosts: filepath.Join(t.TempDir(), "hosts")}
	port := freeport.For(t)
	for i := range 2 {
		sink := otlpsink.Start(t)
		tr.sinks = append(tr.sinks, sink)
		tr.gateways = append(tr.gateways, collectortest.Start(t, []string{
			"GATEWAY_HOST=" + address(i), fmt.Sprintf("GATEWAY_PORT=%d", port), fmt.Sprintf("GATEWAY_HTTP_PORT=%d", freeport.For(t)),
			fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
			"OTLP_ENDPOINT=" + sink.URL(), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
		}, "--config", filepath.Join(root, "examples", "gateway.yaml"), "--config", collectortest.ConfigFile(t, fmt.Sprintf(`
exporters: {otlp_http/prometheus: {metrics_endpoint: %s/v1/metrics, retry_on_failure: {initial_interval: 200ms}}}
`, sink.URL()))))
	}
	tr.resolve(0, 1)

	r, receive := receiveOTLP(t)
	tr.replayer = r
	program := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		program = append(program, "--map-root-user")
	}
	program = append(program, "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, tr.hosts)
	out, err := exec.Command(program[0], append(program[1:], "true")...).CombinedOutput()
	require.NoError(t, err, "the agent gets names of its own; this needs root, or user namespaces: %s", out)
	collectortest.StartUnder(t, program, []string{
		"GATEWAYS=gateways.test", fmt.Sprintf("GATEWAY_PORT=%d", port), "STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
		fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)),
		"LLAMACPP_LOG=" + filepath.Join(t.TempDir(), "llama-server.log"),
	}, "--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "agent.yaml"),
		"--config", collectortest.ConfigFile(t, receive), "--config", collectortest.ConfigFile(t, `
exporters:
  load_balancing: {resolver: {dns: {interval: 500ms}}, retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}
  load_balancing/traces: {resolver: {dns: {interval: 500ms}}, retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}
service: {pipelines: {traces: {receivers: [otlp, llamacpplog]}}}
`))
	return tr
}

// address is that of a gateway.
func address(gateway int) string { return fmt.Sprintf("127.0.0.%d", 11+gateway) }

// resolve says which gateways have the name.
func (tr *tier) resolve(gateways ...int) {
	tr.t.Helper()
	text := "127.0.0.1 localhost\n"
	for _, g := range gateways {
		text += address(g) + " gateways.test\n"
	}
	require.NoError(tr.t, os.WriteFile(tr.hosts, []byte(text), 0o600))
}

// All metrics of one server go to one gateway and all spans of a trace to one;
// both gateways have work. When one ends, and its address is taken away, the
// other gets all, and nothing is lost.
func TestTiers_OneGatewayForEachServerAndTheOtherWhenItGoes(t *testing.T) {
	t.Parallel()
	tr := startTier(t)
	var sent otlpsink.Points
	scrape := func(number int) {
		for server := range servers {
			md := scrapeOf(server, number)
			sent = append(sent, pointsOf(md)...)
			tr.give(md)
		}
	}
	for n := range 20 {
		scrape(n)
	}
	const traces = 40
	for n := range traces {
		body, err := ptraceotlp.NewExportRequestFromTraces(spansOf(n)).MarshalProto()
		require.NoError(t, err)
		otlpsink.Eventually(t, time.Minute, func() bool { return tr.postTo("/v1/traces", body) == 200 }, "the agent takes spans")
	}
	all := func() otlpsink.Points { return append(tr.sinks[0].Points(), tr.sinks[1].Points()...) }
	otlpsink.Eventually(t, time.Minute, func() bool {
		return len(all()) >= len(sent) && len(tr.sinks[0].Spans())+len(tr.sinks[1].Spans()) >= 2*traces
	}, "all arrives")
	assert.Empty(t, differencesOfPoints(sent, all()), "each once")
	first, second := instances(tr.sinks[0].Points()), instances(tr.sinks[1].Points())
	assert.NotEmpty(t, first)
	assert.NotEmpty(t, second)
	for _, server := range first {
		assert.NotContains(t, second, server, "a server whose points went to both")
	}
	gatewayOf := map[string]int{}
	for g, sink := range tr.sinks {
		assert.NotEmpty(t, sink.Spans())
		for _, s := range sink.Spans() {
			if other, ok := gatewayOf[s.TraceID]; ok {
				assert.Equal(t, other, g, "spans of trace %s went to both", s.TraceID)
			}
			gatewayOf[s.TraceID] = g
		}
	}
	t.Logf("servers: %d and %d", len(first), len(second))

	tr.gateways[1].Kill()
	killed := time.Now()
	for n := range 10 {
		scrape(20 + n)
	}
	tr.resolve(0)
	for n := range 10 {
		scrape(30 + n)
	}
	late := func() otlpsink.Points { return sent.Where(otlpsink.After(killed)) }
	otlpsink.Eventually(t, time.Minute, func() bool { return len(tr.sinks[0].Points(otlpsink.After(killed))) >= len(late()) }, "the other gateway gets all")
	assert.Empty(t, differencesOfPoints(late(), tr.sinks[0].Points(otlpsink.After(killed))), "each once")
	assert.Len(t, instances(tr.sinks[0].Points(otlpsink.After(killed))), servers)
}

// instances are the servers that points are of.
func instances(ps otlpsink.Points) []string {
	out := map[string]bool{}
	for _, p := range ps {
		out[p.Resource["service.instance.id"]] = true
	}
	return slices.Sorted(maps.Keys(out))
}
