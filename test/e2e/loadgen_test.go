// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// generatorConfig is a collector that generates load; %s are the API's address,
// the target, the profiles, indented by six, and the exporter's endpoint.
const generatorConfig = `
extensions:
  loadgen:
    endpoint: %s
    target: {endpoint: "%s"}
    metrics_flush_interval: 200ms
    profiles:
%s
receivers:
  loadgen:
exporters:
  otlp_http:
    endpoint: %s
    sending_queue: {enabled: false}
service:
  extensions: [loadgen]
  pipelines:
    metrics: {receivers: [loadgen], exporters: [otlp_http]}
    traces: {receivers: [loadgen], exporters: [otlp_http]}
  telemetry:
    logs: {level: info, encoding: json, sampling: {enabled: false}}
    metrics: {level: none}
`

// generator is a collector that generates load, and a client of its REST API.
type generator struct {
	*collector
	api string
}

func generate(t testing.TB, target, profiles string) *generator {
	t.Helper()
	return generateIn(t, nil, target, profiles)
}

// generateIn is generate with further variables in the environment and further
// configurations.
func generateIn(t testing.TB, environment []string, target, profiles string, more ...string) *generator {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freeport.For(t))
	g := &generator{collector: &collector{t: t, Sink: otlpsink.Start(t)}, api: "http://" + address}
	var args []string
	for _, text := range more {
		args = append(args, "--config", collectortest.ConfigFile(t, text))
	}
	g.begin(environment, fmt.Sprintf(generatorConfig, address, target, profiles, g.URL()), args...)
	g.AwaitLog("Everything is ready")
	return g
}

// loadRun is a run as the API shows it.
type loadRun struct {
	ID, State, Reason string
	Rate              float64
	Requests          struct{ Due, OK, Error, Cancelled, Dropped int }
}

// do sends a request to the API.
func (g *generator) do(method, path, body string, edit ...func(*http.Request)) (status int, answer []byte) {
	g.t.Helper()
	q, err := http.NewRequestWithContext(g.t.Context(), method, g.api+path, strings.NewReader(body))
	require.NoError(g.t, err)
	for _, e := range edit {
		e(q)
	}
	response, err := http.DefaultClient.Do(q)
	require.NoError(g.t, err)
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	require.NoError(g.t, err)
	return response.StatusCode, answer
}

// ask sends a request to the API, and reads the answer into v.
func (g *generator) ask(status int, method, path, body string, v any, edit ...func(*http.Request)) {
	g.t.Helper()
	got, answer := g.do(method, path, body, edit...)
	require.Equal(g.t, status, got, "%s", answer)
	require.NoError(g.t, json.Unmarshal(answer, v), "%s", answer)
}

func (g *generator) start(profile string) loadRun {
	g.t.Helper()
	var r loadRun
	g.ask(http.StatusCreated, "POST", "/api/v1/runs", fmt.Sprintf(`{"profile": %q}`, profile), &r)
	return r
}

// awaitRun waits until a run is as wanted.
func (g *generator) awaitRun(id string, wanted func(loadRun) bool, what string) loadRun {
	g.t.Helper()
	var r loadRun
	g.eventually(func() bool {
		r = loadRun{}
		g.ask(http.StatusOK, "GET", "/api/v1/runs/"+id, "", &r)
		return wanted(r)
	}, "%s", what)
	return r
}

func over(r loadRun) bool { return r.State == "ended" }

// succeeded chooses the requests that did.
var succeeded = otlpsink.With("loadgen.outcome", "ok")

// counter reads one of a llama-server's own counters.
func counter(t testing.TB, s *llamatest.Server, name string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^llamacpp:` + name + ` (\d+)$`).FindStringSubmatch(get(t, s.URL()+"/metrics"))
	require.Len(t, m, 2, name)
	n, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return n
}

func TestLoad_MetricsAndTracesArriveAndEqualTheServersCounters(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	g := generate(t, s.URL(), "      steady: {rate: 10, duration: 3s, max_tokens: {min: 10, max: 30}, objective: ttft<30s}")
	run := g.start("steady")
	run = g.awaitRun(run.ID, over, "the run ends")
	assert.Equal(t, "done", run.Reason)
	assert.Equal(t, 30, run.Requests.OK)

	mine := otlpsink.Of(run.ID)
	g.await(30, "loadgen.requests", mine, succeeded)
	g.await(30, "loadgen.goodput", mine)
	for _, metric := range []string{
		"gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk", "loadgen.request.duration",
		"loadgen.request.time_to_first_token", "loadgen.request.time_to_first_answer", "loadgen.schedule.lag",
		"loadgen.server.queue.duration", "loadgen.server.prompt.duration", "loadgen.server.prediction.duration",
	} {
		g.await(30, metric, mine)
	}
	type tokens struct{ output, computed int }
	sent := func(kind string) int {
		return int(g.Points(mine, otlpsink.Metric("loadgen.tokens"), otlpsink.With("gen_ai.token.type", kind)).Max())
	}
	assert.Equal(t, tokens{counter(t, s, "tokens_predicted_total"), counter(t, s, "prompt_tokens_total")}, tokens{sent("output"), sent("input") - sent("cached")})

	g.eventually(func() bool { return len(g.Spans()) == 30 }, "the spans arrive")
	for _, span := range g.Spans() {
		assert.Equal(t, "chat tiny", span.Name)
		assert.Equal(t, "Client", span.Kind)
		assert.Equal(t, run.ID, span.Resource["service.instance.id"])
		assert.Equal(t, "llamaload", span.Resource["service.name"])
		assert.Len(t, span.Events, 3)
		assert.NotEmpty(t, span.Attributes["gen_ai.response.id"])
	}
	assert.False(t, g.Holds("key-value cache"), "what the prompts say")

	var report struct {
		Reconciliation struct{ Agrees bool }
		Requests       struct{ OK int }
	}
	g.ask(http.StatusOK, "GET", "/api/v1/runs/"+run.ID+"/results", "", &report)
	assert.True(t, report.Reconciliation.Agrees)
	assert.Equal(t, 30, report.Requests.OK)
	assert.Empty(t, g.complaints("loadgen"))
}

func TestLoad_IsStartedTurnedAndStoppedByREST(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	g := generate(t, s.URL(), "      steady: {rate: 0.01, duration: 1h, max_tokens: {min: 5, max: 5}}")
	run := g.start("steady")
	mine := otlpsink.Of(run.ID)
	g.await(0.01, "loadgen.rate.target", mine)
	g.ask(http.StatusOK, "PATCH", "/api/v1/runs/"+run.ID, `{"rate": 20}`, &run)
	g.await(20, "loadgen.rate.target", mine)
	g.awaitRun(run.ID, func(r loadRun) bool { return r.Requests.OK > 10 }, "it is faster now")
	g.ask(http.StatusAccepted, "POST", "/api/v1/runs/"+run.ID+"/stop", "", &run)
	run = g.awaitRun(run.ID, over, "the run ends")
	assert.Equal(t, "stopped on request", run.Reason)
	g.await(float64(run.Requests.OK), "loadgen.requests", mine, succeeded)
}

// What was measured has to be with the backend when the collector has ended.
func TestLoad_ShutdownEndsTheRunWithWhatWasMeasured(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	g := generate(t, s.URL(), "      steady: {rate: 20, duration: 1h, max_tokens: {min: 5, max: 5}, start: true}")
	g.eventually(func() bool { return g.Points(otlpsink.Metric("loadgen.requests"), succeeded).Max() > 10 }, "load is sent")
	began := time.Now()
	g.Terminate()
	assert.Less(t, time.Since(began), 15*time.Second)

	var end struct {
		Ended         string
		OK, Cancelled int
	}
	lines := g.lines("loadgen", "Load run ended")
	require.Len(t, lines, 1)
	require.NoError(t, json.Unmarshal([]byte(lines[0].Text), &end))
	assert.Equal(t, "stopped with the collector", end.Ended)
	assert.True(t, g.Points(otlpsink.Metric("loadgen.requests"), succeeded).LastIs(float64(end.OK)))
	assert.Len(t, g.Spans(), end.OK+end.Cancelled)
}

// Runs end while metrics are being exported, again and again, and so does the
// collector. Nothing is lost and nobody complains.
func TestLoad_EndsDuringExportsWithoutANoise(t *testing.T) {
	t.Parallel()
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("chatcmpl-1", 7, scriptedserver.Every(5*time.Millisecond, 3, time.Millisecond)...)))
	g := generateIn(t, nil, s.URL, "      short: {rate: 100, duration: 100ms}\n      long: {rate: 100, duration: 1h}", "extensions: {loadgen: {metrics_flush_interval: 10ms}}")
	const runs = 10
	for range runs {
		run := g.start("short")
		run = g.awaitRun(run.ID, over, "the run ends")
		assert.Equal(t, 10, run.Requests.OK)
		assert.True(t, g.Points(otlpsink.Metric("loadgen.requests"), otlpsink.Of(run.ID), succeeded).LastIs(10), "all is there when the run has ended")
	}
	run := g.start("long")
	g.awaitRun(run.ID, func(r loadRun) bool { return r.Requests.OK > 20 }, "load is sent")
	g.Terminate()
	got := received(s)
	for _, span := range g.Spans() {
		at := slices.Index(got, traceparent(span))
		if at < 0 {
			assert.Equal(t, "cancelled", span.Attributes["loadgen.outcome"], "a request that the server did not get was cut off on its way")
			continue
		}
		got = slices.Delete(got, at, at+1)
	}
	assert.Empty(t, got, "requests without a span")
	for _, l := range g.logLines() {
		assert.Equal(t, "info", l.Level, l.Text)
	}
}

// The schedules of docs/load.md, as profiles.
func TestLoad_FollowsTheSchedulesOfItsProfiles(t *testing.T) {
	t.Parallel()
	times := filepath.Join(t.TempDir(), "times.txt")
	require.NoError(t, os.WriteFile(times, []byte("0\n0.2\n0.4\n2\n"), 0o600))
	s := llamatest.Start(t, llamatest.Options{})
	g := generate(t, s.URL(), `
      ramp: {ramp: {from: 0, to: 20, over: 2s}, duration: 2s, max_tokens: {min: 5, max: 5}}
      steps: {steps: [{rate: 5, for: 1s}, {rate: 15}], duration: 2s, max_tokens: {min: 5, max: 5}}
      sine: {sine: {mean: 10, amplitude: 10, period: 1s}, duration: 2s, max_tokens: {min: 5, max: 5}}
      replay: {replay: {times: "`+times+`", speed: 2}, duration: 1h, max_tokens: {min: 5, max: 5}}
      leavers: {rate: 10, duration: 1s, cancel: {share: 1, after: 3}, max_tokens: {min: 200, max: 200}}
`)
	for profile, want := range map[string]int{"ramp": 20, "steps": 20, "sine": 20, "replay": 4, "leavers": 10} {
		run := g.start(profile)
		run = g.awaitRun(run.ID, over, profile)
		assert.Equal(t, "done", run.Reason, profile)
		assert.InDelta(t, want, run.Requests.Due, 1, profile)
		assert.Zero(t, run.Requests.Error, profile)
		if profile == "leavers" {
			assert.Equal(t, run.Requests.Due, run.Requests.Cancelled)
		} else {
			assert.Equal(t, run.Requests.Due, run.Requests.OK, profile)
		}
	}
}

func TestLoad_TraceContextReachesTheServer(t *testing.T) {
	t.Parallel()
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("chatcmpl-1", 7, scriptedserver.Every(5*time.Millisecond, 3, time.Millisecond)...)))
	g := generate(t, s.URL, "      few: {rate: 20, duration: 500ms, start: true}")
	g.eventually(func() bool { return len(g.Spans()) == 10 }, "the spans arrive")
	var sent []string
	for _, span := range g.Spans() {
		sent = append(sent, traceparent(span))
	}
	assert.ElementsMatch(t, sent, received(s))
}

// traceparent is the header of the request of a span.
func traceparent(span otlpsink.Span) string { return "00-" + span.TraceID + "-" + span.ID + "-01" }

// received are the trace contexts of the completions that a server got.
func received(s *scriptedserver.Server) []string {
	var all []string
	for _, x := range s.Exchanges() {
		if len(x.Body) > 0 { // /metrics is read too
			all = append(all, x.Header.Get("Traceparent"))
		}
	}
	return all
}

func TestLoad_PagesElsewhereCannotStartIt(t *testing.T) {
	t.Parallel()
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.JSON(http.StatusOK, "{}")))
	g := generate(t, s.URL, "      steady:")
	for name, edit := range map[string]func(*http.Request){
		"another site's page": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"rebound DNS":         func(r *http.Request) { r.Host = "evil.example" },
	} {
		var problem struct{ Error string }
		g.ask(http.StatusForbidden, "POST", "/api/v1/runs", `{"profile": "steady"}`, &problem, edit)
		assert.NotEmpty(t, problem.Error, name)
	}
	var runs struct{ Runs []loadRun }
	g.ask(http.StatusOK, "GET", "/api/v1/runs", "", &runs)
	assert.Empty(t, runs.Runs)
}
