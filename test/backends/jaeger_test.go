// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/jaegertest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

// joined is the attribute that the client's span of a request and the log's have
// in common.
const joined = "llamacpp.request.timings"

// tracesConfig goes on top of the shipped configurations: load, whose spans go
// where the log's go.
const tracesConfig = `
extensions:
  loadgen:
    endpoint: localhost:${env:LOADGEN_PORT}
    target: {endpoint: "${env:LLAMACPP_ENDPOINT}"}
    profiles:
      # The simulator's times are round. With this seed no two requests have the same, as those of a real server hardly do.
      steady: {rate: 10, duration: 3s, max_tokens: {min: 10, max: 200}, seed: 1}
receivers: {loadgen: }
connectors: {span_metrics: {metrics_flush_interval: 1s}}
service:
  extensions: [health_check, file_storage, loadgen]
  pipelines:
    traces/jaeger: {receivers: [llamacpplog, loadgen]}
`

// overHTTP is what examples/traces-jaeger.yaml says to change.
const overHTTP = `
exporters:
  otlp_http/jaeger: {endpoint: "http://${env:JAEGER_HTTP}", sending_queue: {storage: file_storage, batch: {flush_timeout: 1s}}}
service: {pipelines: {traces/jaeger: {exporters: [otlp_http/jaeger]}}}
`

// Of each request Jaeger has what its client felt and what the server's log says,
// and leads from one to the other; span metrics count them.
func TestTraces_OfClientAndLogMeetInJaeger(t *testing.T) {
	t.Parallel()
	for protocol, change := range map[string]string{"OTLP over gRPC": "", "OTLP over HTTP": overHTTP} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server, log := logged(t, llamasim.Options{Slots: 16})
			p := freePorts(t)
			prometheus := promtest.Start(t, prometheusConfig(t, "1s", []ports{p}, nil), "--enable-feature=exemplar-storage")
			jaeger := jaegertest.Start(t, prometheus.URL())
			api := fmt.Sprintf("http://localhost:%d", startTraced(t, jaeger, server, log, p, change))

			// Of a long answer the log tells the progress.
			long := complete(server, 350)
			r, err := http.Post(api+"/api/v1/runs", "application/json", strings.NewReader(`{"profile": "steady"}`))
			require.NoError(t, err)
			require.NoError(t, r.Body.Close())
			require.Equal(t, http.StatusCreated, r.StatusCode)
			var run loadRun
			otlpsink.Eventually(t, time.Minute, func() bool { run = runs(t, api)[0]; return run.State == "ended" }, "the run ends")
			require.Greater(t, run.Requests.OK, 20)
			require.Equal(t, run.Requests.Due, run.Requests.OK)
			require.NoError(t, <-long)
			requests := run.Requests.OK + 1

			var clients []jaegertest.Trace
			completed := map[string]string{"llamacpp.request.outcome": "completed"}
			otlpsink.Eventually(t, 40*time.Second, func() bool {
				clients = jaeger.Find("llamaload", nil)
				return len(clients) == run.Requests.OK && len(jaeger.Find("llama-server", completed)) == requests
			}, "the traces arrive")
			for _, found := range clients {
				trace := jaeger.Trace(found.TraceID)
				client := checkClient(t, trace, run.ID)
				tag := map[string]string{joined: client.Tags.Get(joined)}
				logs := jaeger.Find("llama-server", tag)
				if !assert.Len(t, logs, 1, "%v leads to the log's trace", tag) {
					continue
				}
				checkLog(t, jaeger.Trace(logs[0].TraceID), client, instance(server.URL()))
				back := jaeger.Find("llamaload", tag)
				if assert.Len(t, back, 1, "and back") {
					assert.Equal(t, trace.TraceID, back[0].TraceID)
				}
			}

			checkProgress(t, jaeger)

			// A server that is killed fails those who wait.
			cut := complete(server, 1000)
			otlpsink.Eventually(t, 10*time.Second, func() bool { return server.Processing() == 1 }, "it works")
			time.Sleep(time.Second)
			server.Restart()
			require.Error(t, <-cut)
			var failed []jaegertest.Trace
			otlpsink.Eventually(t, 40*time.Second, func() bool {
				failed = jaeger.Find("llama-server", map[string]string{"error": "true"})
				return len(failed) == 1
			}, "the failure arrives")
			span := failed[0].Spans[0]
			assert.Equal(t, "ERROR", span.Tags.Get("otel.status_code"))
			assert.Equal(t, "server_stopped", span.Tags.Get("otel.status_description"))
			assert.Equal(t, "server_stopped", span.Tags.Get("error.type"))
			assert.Equal(t, "failed", span.Tags.Get("llamacpp.request.outcome"))

			checkSpanMetrics(t, prometheus, jaeger, instance(server.URL()), requests)
		})
	}
}

// complete sends a server a request for so many tokens, and says how it went.
func complete(server *llamasim.Server, tokens int) <-chan error {
	done := make(chan error, 1)
	go func() {
		r, err := http.Post(server.URL()+"/completion", "application/json", strings.NewReader(fmt.Sprintf(`{"prompt":"of","n_predict":%d}`, tokens)))
		if err == nil {
			err = r.Body.Close()
		}
		done <- err
	}()
	return done
}

// startTraced runs a collector with the shipped configurations that follows a
// server's log, and can put it under load by the port that it returns.
func startTraced(t *testing.T, jaeger *jaegertest.Server, server *llamasim.Server, log string, p ports, change string) (api int) {
	t.Helper()
	api = freeport.For(t)
	args := []string{"--config", filepath.Join(root, "collector-config.yaml")}
	for _, file := range []string{"traces-jaeger.yaml", "span-metrics.yaml"} {
		args = append(args, "--config", filepath.Join(root, "examples", file))
	}
	for _, text := range []string{tracesConfig, change} {
		args = append(args, "--config", collectortest.ConfigFile(t, text))
	}
	c := collectortest.Start(t, []string{
		"LLAMACPP_ENDPOINT=" + server.URL(), "LLAMACPP_LOG=" + log, "JAEGER_ENDPOINT=" + jaeger.GRPC, "JAEGER_HTTP=" + jaeger.HTTP,
		"STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"), fmt.Sprintf("LOADGEN_PORT=%d", api),
		fmt.Sprintf("PROMETHEUS_PORT=%d", p.metrics), fmt.Sprintf("TELEMETRY_PORT=%d", p.telemetry),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)),
	}, args...)
	c.AwaitLog("Started watching file")
	time.Sleep(500 * time.Millisecond) // only then it looks where the file ends
	return api
}

// checkClient checks the trace of a request as its client felt it, which is one
// span.
func checkClient(t *testing.T, trace jaegertest.Trace, run string) jaegertest.Span {
	t.Helper()
	require.Len(t, trace.Spans, 1)
	span := trace.Spans[0]
	resource := trace.Processes[span.ProcessID]
	assert.Equal(t, "llamaload", resource.ServiceName)
	assert.Equal(t, run, resource.Tags.Get("service.instance.id"))
	assert.Equal(t, "chat sim", span.OperationName)
	assert.Equal(t, "client", span.Tags.Get("span.kind"))
	assert.Empty(t, span.Parent())
	assert.Equal(t, "ok", span.Tags.Get("loadgen.outcome"))
	assert.Empty(t, span.Tags.Get("error"))
	assert.Equal(t, "200", span.Tags.Get("http.response.status_code"))
	assert.NotEmpty(t, span.Tags.Get(joined))
	assert.Len(t, span.Logs, 3, "events")
	for _, event := range span.Logs {
		assert.NotEmpty(t, event.Fields.Get("event"))
		assert.GreaterOrEqual(t, event.Timestamp, span.StartTime)
	}
	return span
}

// checkLog checks the trace that the server's log tells of a client's request.
func checkLog(t *testing.T, trace jaegertest.Trace, client jaegertest.Span, server string) {
	t.Helper()
	require.Len(t, trace.Spans, 3)
	byName := map[string]jaegertest.Span{}
	for _, span := range trace.Spans {
		byName[span.OperationName] = span
		resource := trace.Processes[span.ProcessID]
		assert.Equal(t, "llama-server", resource.ServiceName)
		assert.Equal(t, server, resource.Tags.Get("service.instance.id"))
		assert.NotEmpty(t, resource.Tags.Get("server.port"))
	}
	request := byName["text_completion sim"]
	require.NotEmpty(t, request.SpanID, "%v", byName)
	assert.Empty(t, request.Parent())
	assert.Equal(t, "server", request.Tags.Get("span.kind"))
	assert.Empty(t, request.Tags.Get("error"))
	assert.Equal(t, client.Tags.Get("gen_ai.usage.output_tokens"), request.Tags.Get("gen_ai.usage.output_tokens"))
	assert.NotEmpty(t, request.Tags.Get("llamacpp.task.id"))
	assert.NotEmpty(t, request.Tags.Get("llamacpp.slot.id"))
	// The log's place in time is inferred.
	const room = 500_000
	assert.GreaterOrEqual(t, request.StartTime, client.StartTime-room)
	assert.LessOrEqual(t, request.StartTime+request.Duration, client.StartTime+client.Duration+room)
	for _, name := range []string{"prompt", "generation"} {
		child := byName[name]
		assert.Equal(t, request.SpanID, child.Parent(), name)
		assert.GreaterOrEqual(t, child.StartTime, request.StartTime, name)
		assert.LessOrEqual(t, child.StartTime+child.Duration, request.StartTime+request.Duration+1, name)
	}
}

// checkProgress checks the events of the one long request.
func checkProgress(t *testing.T, jaeger *jaegertest.Server) {
	t.Helper()
	found := jaeger.Find("llama-server", map[string]string{"gen_ai.usage.output_tokens": "350"})
	require.Len(t, found, 1)
	events := 0
	for _, span := range jaeger.Trace(found[0].TraceID).Spans {
		for _, event := range span.Logs {
			events++
			assert.Equal(t, "generation", span.OperationName)
			assert.Equal(t, "generation progress", event.Fields.Get("event"))
			assert.NotEmpty(t, event.Fields.Get("llamacpp.tokens"))
			assert.Greater(t, event.Timestamp, span.StartTime)
			assert.Less(t, event.Timestamp, span.StartTime+span.Duration)
		}
	}
	assert.Positive(t, events)
}

// checkSpanMetrics holds span metrics in Prometheus against the requests, and
// follows their exemplars to Jaeger.
func checkSpanMetrics(t *testing.T, prometheus *promtest.Server, jaeger *jaegertest.Server, server string, requests int) {
	t.Helper()
	completed := fmt.Sprintf(`{job="llama-server", instance=%q, span_kind="SPAN_KIND_SERVER", gen_ai_request_model="sim", llamacpp_request_outcome="completed"}`, server)
	otlpsink.Eventually(t, 40*time.Second, func() bool {
		return prometheus.Value("sum(traces_span_metrics_calls_total"+completed+")") == float64(requests) &&
			prometheus.Value("sum(traces_span_metrics_duration_seconds_count"+completed+")") == float64(requests)
	}, "%d requests: %v", requests, prometheus.Query("traces_span_metrics_calls_total"))
	failed := fmt.Sprintf(`traces_span_metrics_calls_total{instance=%q, status_code="STATUS_CODE_ERROR", error_type="server_stopped"}`, server)
	otlpsink.Eventually(t, 40*time.Second, func() bool { return prometheus.Value(failed) == 1 }, "one failed: %v", prometheus.Query("traces_span_metrics_calls_total"))
	seconds := prometheus.Value("sum(traces_span_metrics_duration_seconds_sum" + completed + ")")
	assert.InEpsilon(t, prometheus.Value(fmt.Sprintf(`sum(gen_ai_server_request_duration_seconds_sum{instance=%q, error_type=""})`, server)), seconds, 0.01, "the same durations")

	// Not "errors": of one the rate is 0.
	for _, what := range []string{"calls", "latencies"} {
		otlpsink.Eventually(t, 40*time.Second, func() bool { return jaeger.Monitored(what, "llama-server")["text_completion sim"] > 0 },
			"Jaeger's Monitor tab has %s: %v", what, jaeger.Monitored(what, "llama-server"))
	}

	series := prometheus.Exemplars("traces_span_metrics_duration_seconds_bucket" + completed)
	require.NotEmpty(t, series)
	for _, s := range series {
		for _, e := range s.Exemplars {
			trace := jaeger.Trace(string(e.Labels["trace_id"]))
			assert.Equal(t, "llama-server", trace.Processes[trace.Spans[0].ProcessID].ServiceName)
		}
	}
}
