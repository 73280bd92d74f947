// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// logConfig is the configuration of a collector that follows a server's log; %s
// are the log twice, the folder of its state, the endpoint twice, further
// settings of the connector, and the exporter's endpoint.
const logConfig = `
extensions:
  file_storage: {directory: "%[2]s"}
receivers:
  file_log:
    include: ["%[1]s", "%[1]s.1"]
    start_at: beginning
    storage: file_storage
    include_file_path: true
    include_file_record_offset: true
    on_truncate: read_whole_file
    # One file after the other, the one that was rotated away first.
    max_concurrent_files: 1
    ordering_criteria:
      regex: (?P<path>.*)
      sort_by: [{sort_type: alphabetical, regex_key: path, ascending: false}]
      top_n: 0
    retry_on_failure: {enabled: true}
  llamacpp: {endpoint: "%[3]s"}
connectors:
  llamacpplog:
    endpoint: %[3]s
    storage: file_storage
    metrics_flush_interval: 200ms
%[4]s
exporters:
  otlp_http:
    endpoint: %[5]s
    timeout: 5s
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  extensions: [file_storage]
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    metrics: {receivers: [%[6]s], exporters: [otlp_http]}
    traces: {receivers: [llamacpplog], exporters: [otlp_http]}
  telemetry:
    logs: {level: info, encoding: json, sampling: {enabled: false}}
    metrics: {level: none}
`

// follow runs a collector that follows a server's log; settings are further
// lines of the connector's section.
func follow(t testing.TB, s *llamatest.Server, settings ...string) *collector {
	t.Helper()
	return followFile(t, s.Log(), s.URL(), "llamacpplog", settings...)
}

// followAndWatch runs a collector that follows a server's log and asks the
// server itself too.
func followAndWatch(t testing.TB, s *llamatest.Server, settings ...string) *collector {
	t.Helper()
	return followFile(t, s.Log(), s.URL(), "llamacpplog, llamacpp", settings...)
}

func followFile(t testing.TB, log, endpoint, metrics string, settings ...string) *collector {
	t.Helper()
	c := &collector{t: t, Sink: otlpsink.Start(t)}
	section := ""
	for _, line := range settings {
		section += "    " + line + "\n"
	}
	// With the feature gate no line is lost when the collector is killed.
	c.begin(nil, fmt.Sprintf(logConfig, log, t.TempDir(), endpoint, section, c.URL(), metrics), "--feature-gates=stanza.synchronousLogEmitter")
	return c
}

// logged starts a server whose log is appended to a file of a known name.
func logged(t testing.TB, o llamatest.Options) *llamatest.Server {
	t.Helper()
	o.LogFile = filepath.Join(t.TempDir(), "llama-server.log")
	return llamatest.Start(t, o)
}

// outcome chooses the requests that ended in one way.
func outcome(how string) otlpsink.Match {
	return otlpsink.With("llamacpp.request.outcome", how)
}

// awaitOutcomes waits until the given number of requests has ended in each way,
// and none in another.
func (c *collector) awaitOutcomes(want map[string]int, match ...otlpsink.Match) {
	c.t.Helper()
	for _, how := range []string{"completed", "cancelled", "rejected", "failed", "unknown"} {
		c.await(float64(want[how]), "llamacpp.requests", append(match, outcome(how))...)
	}
}

// requestSpans are the spans of requests, each once: after a restart of the
// collector one can come again, and replaces what is the same but for how its
// time was estimated.
func (c *collector) requestSpans(match ...otlpsink.MatchSpan) otlpsink.Spans {
	c.t.Helper()
	place := map[string]int{}
	var out otlpsink.Spans
	for _, s := range c.Spans(append(match, otlpsink.Kind("Server"))...) {
		i, again := place[s.TraceID]
		if !again {
			place[s.TraceID] = len(out)
			out = append(out, s)
			continue
		}
		before := out[i]
		assert.Equal(c.t, before.ID, s.ID)
		assert.Equal(c.t, before.Attributes, s.Attributes)
		assert.Equal(c.t, before.End.Sub(before.Start), s.End.Sub(s.Start))
		assert.WithinDuration(c.t, before.End, s.End, time.Second)
		out[i] = s
	}
	return out
}

// awaitSpans waits for the spans of n requests.
func (c *collector) awaitSpans(n int, match ...otlpsink.MatchSpan) otlpsink.Spans {
	c.t.Helper()
	c.eventually(func() bool { return len(c.requestSpans(match...)) >= n }, "%d requests have a span", n)
	spans := c.requestSpans(match...)
	require.Len(c.t, spans, n, "each request has one span")
	return spans
}

// answered are the results of requests that got a whole answer.
func (c *clients) answered() []completion.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.results), func(r completion.Result) bool { return r.Timings == nil })
}

// rounding is that of the log's milliseconds, which have two decimals.
const rounding = 5100 * time.Nanosecond

// request is what a client and a span say of the same request.
type request struct {
	answer completion.Result
	span   otlpsink.Span
}

// checkCompleted waits for the requests that clients got an answer to, and holds
// every number that comes out of the log against those in the answers.
func checkCompleted(t *testing.T, c *collector, answers []completion.Result) []request {
	t.Helper()
	of := otlpsink.SpanWith("llamacpp.request.outcome", "completed")
	c.await(float64(len(answers)), "llamacpp.requests", outcome("completed"))
	spans := c.awaitSpans(len(answers), of)
	all := c.Spans()
	var found []request
	for _, a := range answers {
		i := slices.IndexFunc(spans, func(s otlpsink.Span) bool { return isOf(s, all.Children(s), a.Timings) })
		if !assert.GreaterOrEqual(t, i, 0, "no span is of %+v", a.Timings) {
			continue
		}
		s := spans[i]
		spans = slices.Delete(spans, i, i+1)
		found = append(found, request{a, s})
		assert.Empty(t, s.Parent)
		assert.Equal(t, "Unset", s.Status)
		for name, child := range all.Children(s) {
			assert.Equal(t, "Internal", child.Kind)
			assert.False(t, child.Start.Before(s.Start) || child.End.After(s.End), "%s lies in its request", name)
		}
	}
	assert.Empty(t, spans, "spans of no request")
	checkDistributions(t, c, answers)
	return found
}

// isOf reports whether a span has all the numbers of an answer.
func isOf(s otlpsink.Span, children map[string]otlpsink.Span, want *completion.Timings) bool {
	took := func(name string) time.Duration { return children[name].End.Sub(children[name].Start) }
	within := func(a, b time.Duration) bool { return (a - b).Abs() <= rounding }
	return s.Attributes["gen_ai.usage.input_tokens"] == strconv.Itoa(want.PromptTokens+want.CachedTokens) &&
		s.Attributes["gen_ai.usage.cache_read.input_tokens"] == strconv.Itoa(want.CachedTokens) &&
		s.Attributes["gen_ai.usage.output_tokens"] == strconv.Itoa(want.PredictedTokens) &&
		children["prompt"].Attributes["llamacpp.tokens"] == strconv.Itoa(want.PromptTokens) &&
		within(took("prompt"), want.Prompt) &&
		within(took("generation"), want.Predicted)
}

// checkDistributions holds the histograms against what the answers say.
func checkDistributions(t *testing.T, c *collector, answers []completion.Result) {
	t.Helper()
	const log = 1.1e-5 // the rounding of two times in the log, in seconds
	check := func(metric string, tolerance float64, value func(*completion.Timings) (float64, bool), match ...otlpsink.Match) {
		t.Helper()
		var want []float64
		var sum float64
		for _, a := range answers {
			if v, ok := value(a.Timings); ok {
				want = append(want, v)
				sum += v
			}
		}
		c.await(float64(len(want)), metric, match...)
		points := c.Points(append(match, otlpsink.Metric(metric))...)
		d := points[len(points)-1].Distribution
		require.NotNil(t, d, metric)
		assert.InDelta(t, sum, d.Sum, tolerance*float64(len(want)), metric)
		var counted uint64
		for _, n := range d.Counts {
			counted += n
		}
		assert.Equal(t, d.Count, counted, metric)
		if len(want) == 0 {
			return
		}
		slices.Sort(want)
		assert.InDelta(t, want[0], d.Min, tolerance, metric)
		assert.InDelta(t, want[len(want)-1], d.Max, tolerance, metric)
		for _, q := range []float64{0.5, 0.95, 0.99} {
			v := want[int(math.Ceil(q*float64(len(want))))-1]
			low, high := d.Quantile(q)
			assert.True(t, low-tolerance <= v && v <= high+tolerance, "%s: P%v is %v, the histogram says %v to %v", metric, 100*q, v, low, high)
		}
	}
	count := func(value func(*completion.Timings) int) func(*completion.Timings) (float64, bool) {
		return func(s *completion.Timings) (float64, bool) { return float64(value(s)), true }
	}
	check("gen_ai.server.request.duration", log, func(s *completion.Timings) (float64, bool) { return (s.Prompt + s.Predicted).Seconds(), true }, without("error.type"))
	check("gen_ai.server.time_to_first_token", log, func(s *completion.Timings) (float64, bool) { return s.Prompt.Seconds(), true })
	check("gen_ai.server.time_per_output_token", log, func(s *completion.Timings) (float64, bool) {
		return s.Predicted.Seconds() / float64(s.PredictedTokens-1), s.PredictedTokens > 1
	})
	check("llamacpp.request.tokens", 0, count(func(s *completion.Timings) int { return s.PromptTokens + s.CachedTokens }), otlpsink.With("gen_ai.token.type", "input"))
	check("llamacpp.request.tokens", 0, count(func(s *completion.Timings) int { return s.PredictedTokens }), otlpsink.With("gen_ai.token.type", "output"))
	check("llamacpp.request.cached_tokens", 0, count(func(s *completion.Timings) int { return s.CachedTokens }))
}

// without chooses points that lack an attribute.
func without(key string) otlpsink.Match {
	return func(p otlpsink.Point) bool { _, ok := p.Attributes[key]; return !ok }
}

// post sends a body as it is, one that clients do not send, such as a wrong one or
// one for several answers, and returns the answer's status and text.
func post(t testing.TB, s *llamatest.Server, path, body string) (status int, text string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path, strings.NewReader(body))
	require.NoError(t, err)
	q.Header.Set("Content-Type", "application/json")
	q.Close = true
	r, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

// refused makes a request that the server has to refuse.
func (c *clients) refused(q llamatest.Request) {
	c.t.Helper()
	_, err := c.client.Complete(c.t.Context(), q)
	var refused *completion.ServerError
	if assert.ErrorAs(c.t, err, &refused) {
		assert.Equal(c.t, http.StatusBadRequest, refused.Status)
	}
}

// cut makes a stream without waiting for its end, which the server has to cut.
func (c *clients) cut(q llamatest.Request) {
	c.wg.Go(func() {
		q.Stream = true
		_, err := c.client.Complete(c.t.Context(), q)
		assert.Error(c.t, err)
	})
}
