// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// generator is an extension under test, and a client of its API.
type generator struct {
	*Extension
	t       testing.TB
	target  *scriptedserver.Server
	metrics consumertest.MetricsSink
	traces  consumertest.TracesSink
}

// generate starts an extension that loads a scripted server; profiles are YAML.
func generate(t testing.TB, script func(int, *http.Request, []byte) scriptedserver.Script, profiles string) *generator {
	t.Helper()
	target := scriptedserver.Start(t, script)
	g := generateFor(t, target.URL, profiles)
	g.target = target
	return g
}

// generateFor starts an extension that loads the server at a URL.
func generateFor(t testing.TB, url, profiles string) *generator {
	t.Helper()
	g := &generator{t: t}
	cfg := configure(t, fmt.Sprintf("endpoint: localhost:0\ntarget: {endpoint: %q}\nmetrics_flush_interval: 50ms\nprofiles:\n%s", url, profiles))
	require.NoError(t, cfg.Validate())
	g.Extension = newExtension(cfg, extensiontest.NewNopSettings(metadata.Type))
	g.AttachMetrics(&g.metrics)
	g.AttachTraces(&g.traces)
	require.NoError(t, g.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { assert.NoError(t, g.Shutdown(context.Background())) })
	require.NoError(t, g.Ready())
	return g
}

func configure(t testing.TB, text string) *Config {
	t.Helper()
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(text))
	require.NoError(t, err)
	conf, err := retrieved.AsConf()
	require.NoError(t, err)
	cfg := newDefaultConfig()
	require.NoError(t, conf.Unmarshal(cfg))
	return cfg
}

// ask sends a request to the API; edit may change it.
func (g *generator) ask(method, path, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	g.t.Helper()
	r := httptest.NewRequestWithContext(g.t.Context(), method, "http://localhost:9466"+path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:54321"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	g.server.Handler.ServeHTTP(w, r)
	return w
}

// run returns the JSON of a run.
func (g *generator) run(status int, method, path, body string) runJSON {
	g.t.Helper()
	w := g.ask(method, path, body)
	require.Equal(g.t, status, w.Code, w.Body)
	var r runJSON
	require.NoError(g.t, json.Unmarshal(w.Body.Bytes(), &r))
	return r
}

const patience = 30 * time.Second

// await waits until the run has the wanted state.
func (g *generator) await(id string, wanted func(runJSON) bool) runJSON {
	g.t.Helper()
	var r runJSON
	require.Eventually(g.t, func() bool {
		r = g.run(http.StatusOK, "GET", "/api/v1/runs/"+id, "")
		return wanted(r)
	}, patience, 10*time.Millisecond)
	return r
}

func isEnded(r runJSON) bool { return r.State == ended }

const ms = time.Millisecond

var quick = scriptedserver.Always(scriptedserver.Chat("chatcmpl-1", 7, scriptedserver.Every(5*ms, 3, ms)...))

func TestProfile_StartsWithTheCollectorAndEndsByItself(t *testing.T) {
	g := generate(t, quick, "  auto: {rate: 50, duration: 400ms, start: true}\n  manual:\n")
	runs := g.list()
	require.Len(t, runs, 1)
	r := g.await(runs[0].id, isEnded)
	assert.Equal(t, "auto", r.Profile)
	assert.Equal(t, "done", *r.Reason)
	assert.Equal(t, 20, r.Requests.OK)
	sent := 0
	for _, x := range g.target.Exchanges() {
		if len(x.Body) > 0 { // /metrics is read too
			sent++
		}
	}
	assert.Equal(t, 20, sent)
}

func TestRun_IsStartedTurnedAndStopped(t *testing.T) {
	g := generate(t, quick, "  steady: {rate: 0.01, duration: 1h}\n")
	r := g.run(http.StatusCreated, "POST", "/api/v1/runs", `{"profile": "steady"}`)
	at := "/api/v1/runs/" + r.ID
	g.await(r.ID, func(r runJSON) bool { return r.Requests.OK == 1 })
	assert.Equal(t, http.StatusConflict, g.ask("POST", "/api/v1/runs", `{"profile": "steady"}`).Code, "one at a time")
	assert.Equal(t, http.StatusConflict, g.ask("GET", at+"/results", "").Code, "there are none yet")

	r = g.run(http.StatusOK, "PATCH", at, `{"rate": 100}`)
	assert.InDelta(t, 100, *r.Rate, 0)
	g.await(r.ID, func(r runJSON) bool { return r.Requests.OK >= 20 })

	g.run(http.StatusAccepted, "POST", at+"/stop", "")
	r = g.await(r.ID, isEnded)
	assert.Equal(t, "stopped on request", *r.Reason)
	assert.Nil(t, r.Rate)
	assert.Equal(t, http.StatusConflict, g.ask("POST", at+"/stop", "").Code)
	assert.Equal(t, http.StatusConflict, g.ask("PATCH", at, `{"rate": 1}`).Code)

	w := g.ask("GET", at+"/results", "")
	require.Equal(t, http.StatusOK, w.Code)
	var report struct {
		Requests struct{ OK, Due int }
		Run      struct{ Ended string }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report))
	assert.Equal(t, r.Requests.OK, report.Requests.OK)
	assert.Equal(t, "stopped on request", report.Run.Ended)
	w = g.ask("GET", at+"/report", "")
	assert.Contains(t, w.Body.String(), "| time to first token |")
	assert.Equal(t, "text/markdown; charset=utf-8", w.Header().Get("Content-Type"))
}

// timesFile writes a file of times to replay.
func timesFile(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "times.txt")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	return file
}

func TestRun_ReplayEndsAfterItsLastRequest(t *testing.T) {
	g := generate(t, quick, "  recorded: {replay: {times: "+timesFile(t, "0", "0", "0.1", "0.3")+", speed: 2}, duration: 1h, start: true}\n")
	r := g.await(g.list()[0].id, isEnded)
	assert.Equal(t, "done", *r.Reason)
	assert.Equal(t, 4, r.Requests.OK)
	assert.Contains(t, r.Schedule, "2 times as fast")
}

func TestRun_CancelledRequestsAreNoErrors(t *testing.T) {
	g := generate(t, quick, "  leavers: {rate: 50, duration: 200ms, cancel: {share: 1, after: 1}, start: true}\n")
	r := g.await(g.list()[0].id, isEnded)
	assert.Equal(t, "done", *r.Reason)
	assert.Equal(t, loadgen.Counts{Due: 10, Sent: 10, Cancelled: 10}, r.Requests)
}

func TestRun_ConversationsGoOnAndTheCacheCanBeLeftOut(t *testing.T) {
	g := generate(t, quick, "  talk: {rate: 20, duration: 500ms, turns: {min: 2, max: 2}, think: 1ms, prompts: {no_cache: true}, start: true}\n")
	r := g.await(g.list()[0].id, isEnded)
	assert.Contains(t, r.Schedule, "conversations of 2 turns with 1ms between an answer and the next")
	var report struct {
		Turns []struct{ Requests loadgen.Counts }
	}
	require.NoError(t, json.Unmarshal(g.ask("GET", "/api/v1/runs/"+r.ID+"/results", "").Body.Bytes(), &report))
	require.Len(t, report.Turns, 2)
	assert.Equal(t, 10, report.Turns[0].Requests.OK)
	assert.Positive(t, report.Turns[1].Requests.OK)
	answered := 0
	for _, x := range g.target.Exchanges() {
		if len(x.Body) == 0 {
			continue // /metrics
		}
		var body struct {
			CachePrompt *bool `json:"cache_prompt"`
			Messages    []struct{ Role string }
		}
		require.NoError(t, json.Unmarshal(x.Body, &body))
		assert.Equal(t, new(false), body.CachePrompt)
		if len(body.Messages) == 3 && body.Messages[1].Role == "assistant" {
			answered++
		}
	}
	assert.Equal(t, report.Turns[1].Requests.Due, answered, "the second turn has the answer of the first in context")
}

func TestStart_ARateInsteadOfUsersHasNoThinkTime(t *testing.T) {
	g := generate(t, quick, "  users: {users: 2, think: 1ms, duration: 100ms}\n")
	r := g.run(http.StatusCreated, "POST", "/api/v1/runs", `{"profile": "users", "rate": 50}`)
	assert.Equal(t, "open loop, 50 requests/s, gaps constant, for 100ms", r.Schedule)
}

// Whatever schedule a run began with, its rate is what the last change said.
func TestRun_ChangedRateReplacesItsSchedule(t *testing.T) {
	g := generate(t, quick, `
  ramp: {ramp: {from: 0.001, to: 500, over: 1h}, duration: 1h, start: true}
  steps: {steps: [{rate: 0.001, for: 30m}, {rate: 500}], duration: 1h, start: true}
  sine: {sine: {mean: 0.001, amplitude: 0.001, period: 1h}, duration: 1h, start: true}
  replay: {replay: {times: `+timesFile(t, "0", "3000")+`}, duration: 1h, start: true}
`)
	for _, one := range g.list() {
		t.Run(one.profile, func(t *testing.T) {
			at := "/api/v1/runs/" + one.id
			g.await(one.id, func(r runJSON) bool { return r.State == running })
			r := g.run(http.StatusOK, "PATCH", at, `{"rate": 100}`)
			assert.InDelta(t, 100, *r.Rate, 0)
			g.await(one.id, func(r runJSON) bool { return r.Requests.OK >= 20 })

			r = g.run(http.StatusOK, "PATCH", at, `{"rate": 0.001, "over": 3600}`)
			assert.InDelta(t, 100, *r.Rate, 1, "it falls slowly")
			r = g.run(http.StatusOK, "PATCH", at, `{"rate": 200, "over": 0.2}`)
			g.await(one.id, func(r runJSON) bool { return *r.Rate == 200 })
			g.run(http.StatusOK, "PATCH", at, `{"rate": 0.001}`)
			assert.Equal(t, one.schedule, r.Schedule, "as it was at the start")
		})
	}
}

func TestRun_StopsItselfWhenTooManyRequestsFail(t *testing.T) {
	g := generate(t, scriptedserver.Always(scriptedserver.JSON(503, `{"error":{"message":"Loading model"}}`)), "  steady: {rate: 200, duration: 1h, start: true}\n")
	r := g.await(g.list()[0].id, isEnded)
	assert.Contains(t, *r.Reason, "too many requests failed")
	assert.Contains(t, g.ask("GET", "/api/v1/runs/"+r.ID+"/report", "").Body.String(), `Loading model`, "the report says what failed")
	assert.GreaterOrEqual(t, r.Requests.Failed, 20)
}

func TestShutdown_EndsARunWithWhatWasMeasured(t *testing.T) {
	g := generate(t, quick, "  steady: {rate: 100, duration: 1h, start: true}\n")
	r := g.list()[0]
	g.await(r.id, func(r runJSON) bool { return r.Requests.OK > 10 })
	require.NoError(t, g.NotReady())
	report, cause := r.result()
	require.ErrorIs(t, cause, errShutdown)
	require.NotNil(t, report)
	assert.Equal(t, report.Requests.Sent, report.Requests.OK+report.Requests.Cancelled)
	assert.Equal(t, report.Requests.OK, counted(g, "loadgen.requests", "loadgen.outcome", "ok"), "all was flushed before the pipelines stop")
	assert.Equal(t, http.StatusServiceUnavailable, g.ask("POST", "/api/v1/runs", `{"profile": "steady"}`).Code)
}

// counted returns the last value of a counter with an attribute.
func counted(g *generator, metric, key, value string) int {
	n := -1
	for _, md := range g.metrics.AllMetrics() {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() != metric {
						continue
					}
					for _, p := range m.Sum().DataPoints().All() {
						if v, ok := p.Attributes().Get(key); ok && v.Str() == value {
							n = int(p.IntValue())
						}
					}
				}
			}
		}
	}
	return n
}

func TestStart_RefusesWhatIsBeyondTheLimits(t *testing.T) {
	g := generate(t, quick, "  steady: {duration: 1h}\n")
	for body, want := range map[string]struct {
		status int
		says   string
	}{
		`{"profile": "other"}`:                               {404, "GET /api/v1/profiles"},
		`{"profile": "steady", "rate": 1001}`:                {422, "raise limits::rate"},
		`{"profile": "steady", "rate": -1}`:                  {422, "rate: rate of -1"},
		`{"profile": "steady", "users": 1001}`:               {422, "raise limits::users"},
		`{"profile": "steady", "duration": 3601}`:            {422, "raise limits::duration"},
		`{"profile": "steady", "duration": -1}`:              {422, "duration"},
		`{"profile": "steady", "rate": 1, "users": 1}`:       {422, "keep one of them"},
		`{"profile": "steady", "duration": 1, "warm_up": 1}`: {422, "warm-up"},
		`{"profile": "steady", "rat": 1}`:                    {422, "rat"},
		`nonsense`:                                           {422, "/openapi.yaml"},
	} {
		w := g.ask("POST", "/api/v1/runs", body)
		assert.Equal(t, want.status, w.Code, body)
		assert.Contains(t, w.Body.String(), want.says, body)
	}
	assert.Empty(t, g.target.Exchanges())
	assert.Equal(t, http.StatusNotFound, g.ask("GET", "/api/v1/runs/none", "").Code)
}

func TestHistory_ForgetsTheOldestThatHaveEnded(t *testing.T) {
	g := generate(t, quick, "  long: {duration: 1h, rate: 0.1, start: true}\n  short: {duration: 10ms}\n")
	g.cfg.History = 2
	var ids []string
	for range 3 {
		r := g.run(http.StatusCreated, "POST", "/api/v1/runs", `{"profile": "short"}`)
		g.await(r.ID, isEnded)
		ids = append(ids, r.ID)
	}
	var kept []string
	for _, r := range g.list()[1:] {
		kept = append(kept, r.id)
	}
	assert.Equal(t, "long", g.list()[0].profile, "it is under way")
	assert.Equal(t, ids[1:], kept)
}

func TestEvents_TellHowARunStandsUntilItsEnd(t *testing.T) {
	g := generate(t, quick, "  short: {rate: 20, duration: 300ms, start: true}\n")
	api := httptest.NewServer(g.server.Handler)
	defer api.Close()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL+"/api/v1/runs/"+g.list()[0].id+"/events", http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer response.Body.Close()
	assert.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	events := strings.Split(strings.TrimSpace(string(body)), "\n\n")
	assert.True(t, strings.HasPrefix(events[0], "event: progress\ndata: {"))
	last := events[len(events)-1]
	data, ok := strings.CutPrefix(last, "event: end\ndata: ")
	require.True(t, ok, last)
	var r runJSON
	require.NoError(t, json.Unmarshal([]byte(data), &r))
	assert.Equal(t, ended, r.State)
	assert.Equal(t, 6, r.Requests.OK)
}

func TestGuard_PagesElsewhereCannotStartLoad(t *testing.T) {
	g := generate(t, quick, "  steady: {duration: 10ms}\n")
	start := `{"profile": "none"}` // 404 where it comes through
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	hostIs := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for name, test := range map[string]struct {
		method string
		edit   []func(*http.Request)
		want   int
	}{
		"a program":                  {"POST", nil, 404},
		"this server's page":         {"POST", []func(*http.Request){set("Origin", "http://localhost:9466"), set("Sec-Fetch-Site", "same-origin")}, 404},
		"another site's page":        {"POST", []func(*http.Request){set("Origin", "https://evil.example"), set("Sec-Fetch-Site", "cross-site")}, 403},
		"an old browser's":           {"POST", []func(*http.Request){set("Origin", "https://evil.example")}, 403},
		"a sandboxed page":           {"POST", []func(*http.Request){set("Origin", "null")}, 403},
		"another port's page":        {"POST", []func(*http.Request){set("Origin", "http://localhost:3000"), set("Sec-Fetch-Site", "same-site")}, 403},
		"rebound DNS":                {"POST", []func(*http.Request){hostIs("evil.example:9466"), set("Origin", "http://evil.example:9466"), set("Sec-Fetch-Site", "same-origin")}, 403},
		"rebound DNS reads":          {"GET", []func(*http.Request){hostIs("evil.example:9466")}, 403},
		"localhost with a tail":      {"GET", []func(*http.Request){hostIs("localhost.evil.example")}, 403},
		"no Host":                    {"GET", []func(*http.Request){hostIs("")}, 403},
		"an address of the network":  {"GET", []func(*http.Request){hostIs("192.0.2.7:9466")}, 200},
		"a change from the network":  {"POST", []func(*http.Request){hostIs("192.0.2.7:9466")}, 403},
		"a program in the network":   {"POST", []func(*http.Request){func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1234" }}, 403},
		"loopback":                   {"POST", []func(*http.Request){hostIs("127.0.0.1:9466")}, 404},
		"loopback of IPv6":           {"POST", []func(*http.Request){hostIs("[::1]:9466")}, 404},
		"loopback of IPv6, no port":  {"POST", []func(*http.Request){hostIs("[::1]")}, 404},
		"loopback in IPv6's clothes": {"POST", []func(*http.Request){hostIs("[::ffff:127.0.0.1]:1")}, 404},
	} {
		w := g.ask(test.method, "/api/v1/runs", start, test.edit...)
		assert.Equal(t, test.want, w.Code, "%s: %s", name, w.Body)
	}

	for name, test := range map[string]struct {
		edit []func(*http.Request)
		want int
	}{
		"from the network":    {[]func(*http.Request){hostIs("collector.example:9466")}, 200}, // by the address that httptest gives
		"another site's page": {[]func(*http.Request){set("Origin", "https://evil.example")}, 403},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/", http.NoBody)
		for _, e := range test.edit {
			e(r)
		}
		w := httptest.NewRecorder()
		guard(true, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		assert.Equal(t, test.want, w.Code, "with auth: %s", name)
	}
}

// Another server, such as the dashboard's, may serve the same API below a path.
func TestHandler_ServesTheAPIUnderAnyPath(t *testing.T) {
	g := generate(t, quick, "  short: {rate: 20, duration: 300ms}\n")
	mux := http.NewServeMux()
	mux.Handle("/loadgen/", http.StripPrefix("/loadgen", g.Handler(false, []string{"dash.example"})))
	api := httptest.NewServer(mux)
	defer api.Close()
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(method, path, body, host string) (status int, header http.Header, answer string) {
		q, err := http.NewRequestWithContext(t.Context(), method, api.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		if host != "" {
			q.Host = host
		}
		response, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, response.Header, string(text)
	}

	status, header, _ := ask("POST", "/loadgen/api/v1/runs", `{"profile": "short"}`, "")
	require.Equal(t, http.StatusCreated, status)
	assert.Equal(t, "runs/"+g.list()[0].id, header.Get("Location"), "relative to the request's path")

	at := "/loadgen/api/v1/" + header.Get("Location")
	_, header, events := ask("GET", at+"/events", "", "")
	assert.Equal(t, "text/event-stream", header.Get("Content-Type"))
	assert.Contains(t, events, "event: end\n")
	status, _, _ = ask("GET", at+"/results", "", "dash.example:9465")
	assert.Equal(t, http.StatusOK, status)

	for host, method := range map[string]string{"dash.example": "POST", "evil.example": "GET", "192.0.2.7:9465": "GET"} {
		status, _, problem := ask(method, "/loadgen/api/v1/runs", `{"profile": "short"}`, host)
		assert.Equal(t, http.StatusForbidden, status, host)
		assert.Contains(t, problem, `"error"`, host)
	}

	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "http://dash.example/api/v1/runs", strings.NewReader(`{"profile": "short"}`))
	g.Handler(true, nil).ServeHTTP(w, r)
	assert.Equal(t, http.StatusCreated, w.Code, "with auth, from anywhere")
}
