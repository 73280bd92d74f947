// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// followLog makes the collector follow the server's log as well; %s are the log and
// the server.
const followLog = `
receivers:
  file_log: {include: ["%s"], start_at: beginning, include_file_path: true, include_file_record_offset: true}
connectors:
  llamacpplog: {endpoint: "%s", metrics_flush_interval: 200ms}
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    metrics/log: {receivers: [llamacpplog], exporters: [otlp_http/metrics]}
    traces/log: {receivers: [llamacpplog], exporters: [otlp_http/traces]}
`

// Proxy and log tell one story of each request, in the client's own trace: thirty
// clients at once, in every way, and then some that come around the proxy.
func TestTrace_IsOneWithTheLogs(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{
		Model: medium, Slots: slots, Context: slots * 512, LogFile: filepath.Join(t.TempDir(), "llama-server.log"),
	})
	require.NoError(t, setPriority(s.PID, 10))
	p := start(t, s.URL(), settings{
		receivers: []string{"llamacpp: {endpoint: \"" + s.URL() + "\"}"}, // from which both know whose requests they are
		more:      fmt.Sprintf(followLog, s.Log(), s.URL()),
	})
	p.eventually(func() bool { return len(p.Points(otlpsink.Metric("llamacpp.slots.limit"))) > 0 }, "the server is known")

	all := crowd(t, p.URL(), mixed(1))
	const direct = 12
	for i := range direct {
		_, err := s.Client().Complete(t.Context(), llamatest.Request{PromptWords: 9, Seed: uint64(i), MaxTokens: 6, Stream: i%2 == 0})
		require.NoError(t, err)
	}
	spans := p.spansOf(all)
	slot := otlpsink.MatchSpan(func(s otlpsink.Span) bool { return s.Name == "slot" })
	fromLog := otlpsink.MatchSpan(func(s otlpsink.Span) bool { return s.Attributes["llamacpp.task.id"] != "" })
	p.eventually(func() bool { return len(p.Spans(fromLog)) >= len(all)+direct }, "the log's span of each request")
	time.Sleep(time.Second) // nothing else comes

	told := p.Spans()
	slotsOf, exact, late := map[string]otlpsink.Spans{}, 0, 0
	for _, child := range told.Where(slot) {
		slotsOf[child.TraceID] = append(slotsOf[child.TraceID], child)
	}
	tasks := map[string]bool{}
	for _, a := range all {
		parent := spans[a.trace]
		if len(slotsOf[a.trace]) == 0 {
			late++
			continue
		}
		if !assert.Len(t, slotsOf[a.trace], 1, "%s, %s", a.Endpoint, parent.Attributes) {
			continue
		}
		child := slotsOf[a.trace][0]
		assert.Equal(t, parent.ID, child.Parent)
		assert.Equal(t, "Internal", child.Kind)
		assert.Equal(t, parent.Resource, child.Resource)
		assert.NotEmpty(t, child.Attributes["llamacpp.slot.id"])
		assert.False(t, tasks[child.Attributes["llamacpp.task.id"]], "a task is one request's")
		tasks[child.Attributes["llamacpp.task.id"]] = true
		assert.Empty(t, told.Children(child), "prompt and generation are the proxy's")

		// It is the same request: by its tokens, by its times, and where the answer has the
		// server's own timings by these.
		if a.Outcome == completion.OK {
			for _, key := range []string{"gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"} {
				assert.Equal(t, parent.Attributes[key], child.Attributes[key], key)
			}
		}
		assert.Equal(t, parent.Attributes["llamacpp.request.outcome"], child.Attributes["llamacpp.request.outcome"])
		if m := a.Timings; m != nil {
			exact++
			assert.Equal(t, timings.String(m.PromptTokens, m.Prompt, m.PredictedTokens, m.Predicted), child.Attributes[timings.Attribute])
		}
		const room = 2 * time.Second // the log's place in time is inferred
		assert.False(t, child.Start.Before(parent.Start.Add(-room)), "%s before %s", child.Start, parent.Start)
		assert.False(t, child.End.After(parent.End.Add(room)), "%s after %s", child.End, parent.End)
	}
	assert.Greater(t, exact, 180)
	// The log waits a quarter of a second for the end of a request at the proxy: on a
	// busy machine that may be too short for one or two, which then have two stories. But
	// none has another's.
	assert.LessOrEqual(t, late, len(all)/100)
	assert.Len(t, told.Where(slot), len(all)-late)

	// Those around the proxy have traces of their own.
	alone := told.Where(fromLog, otlpsink.Kind("Server"))
	assert.Len(t, alone, direct+late)
	for _, span := range alone {
		assert.Empty(t, span.Parent)
	}
	assert.Len(t, alone.Where(otlpsink.SpanWith("gen_ai.usage.output_tokens", "6")), direct)
	assert.Len(t, told.Where(otlpsink.Kind("Server")), len(all)+direct+late)

	// Each request is counted once in what both of them measure.
	ofProxy := otlpsink.With("llamacpp.observer", "proxy")
	p.awaitTotal(float64(len(all)), "gen_ai.server.request.duration", ofProxy)
	p.awaitTotal(float64(len(all)+direct), "llamacpp.requests")
	p.awaitTotal(float64(len(all)), "llamacpp.proxy.requests")
	// Metrics and traces wait for the proxy each on their own.
	for _, metric := range []string{"gen_ai.server.request.duration", "gen_ai.server.time_to_first_token"} {
		ofLog := p.total(metric, func(point otlpsink.Point) bool { return !ofProxy(point) })
		assert.GreaterOrEqual(t, ofLog, float64(direct), metric)
		assert.LessOrEqual(t, ofLog, float64(direct+len(all)/100), metric)
	}

	// The last metrics, which come after those of the receiver that knows the server, are
	// of the same series.
	tokens := p.total("llamacpp.request.tokens")
	p.Terminate()
	assert.InDelta(t, tokens, p.total("llamacpp.request.tokens"), 0)
	assert.Empty(t, p.Points().Faults())
}
