// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/trace"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"
	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// arrival is when the requests of these tests arrive.
var arrival = time.Unix(1_800_000_000, 0).UTC()

func after(ms int) time.Time { return arrival.Add(time.Duration(ms) * time.Millisecond) }

// newHub returns a hub that does not run.
func newHub(t *testing.T, cfg *Config) *hub {
	t.Helper()
	where, err := endpoint.Parse(cfg.Upstream.Endpoint)
	require.NoError(t, err)
	return &hub{cfg: cfg, where: where, clients: newClients(cfg.Clients.Get())}
}

// streamed returns a request that waited 100 ms, had a prompt of 50 ms, and 5 tokens in
// 40 ms each, one of which was late.
func streamed() *measured {
	return &measured{
		Exchange: &proxy.Exchange{
			Method: "POST", Route: "/v1/chat/completions", Completion: true, Endpoint: completion.Chat, Arrived: arrival, Status: 200, Streamed: true,
			LongestGap: 90 * time.Millisecond,
			Result: completion.Result{
				Headers: after(150), FirstChunk: after(150), FirstToken: after(150), FirstAnswer: after(150), LastToken: after(360), End: after(365),
				InputTokens: 30, CachedTokens: 10, OutputTokens: 5, ReasoningTokens: 2, Model: "gpt-4", ID: "chatcmpl-1", FinishReason: "stop", Status: 200,
				Timings: &completion.Timings{PromptTokens: 20, CachedTokens: 10, Prompt: 50 * time.Millisecond, PredictedTokens: 5, Predicted: 210 * time.Millisecond, DraftTokens: 4, DraftAccepted: 3},
			},
		},
		instance: "localhost:8080", model: "tiny", sampled: true, trace: pcommon.TraceID{1}, span: pcommon.SpanID{2},
		parent: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{9}, TraceFlags: trace.FlagsSampled, Remote: true}),
	}
}

// all returns a request of each kind.
func all() []*measured {
	whole := streamed()
	whole.Endpoint, whole.Route, whole.Streamed, whole.LongestGap = completion.Native, "/completion", false, 0
	whole.Result.FirstToken, whole.Result.FirstChunk, whole.Result.FirstAnswer, whole.Result.LastToken = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	whole.parent, whole.span = trace.SpanContext{}, pcommon.SpanID{3}

	without := streamed() // e.g. Anthropic's messages, which have no timings
	without.Endpoint, without.Route, without.span = completion.Messages, "/v1/messages", pcommon.SpanID{4}
	without.Result.Timings, without.Result.ReasoningTokens = nil, -1

	left := streamed()
	left.span, left.Outcome, left.ErrorType, left.Result.Timings = pcommon.SpanID{5}, proxy.Cancelled, "cancelled", nil
	left.Result.InputTokens, left.Result.OutputTokens, left.Result.CachedTokens, left.Result.ReasoningTokens = -1, -1, -1, -1

	refused := &measured{
		Exchange: &proxy.Exchange{
			Method: "POST", Route: "/v1/chat/completions", Completion: true, Arrived: arrival, Status: 400, Outcome: proxy.Rejected, ErrorType: "400",
			Result: completion.Result{End: after(2), InputTokens: -1, CachedTokens: -1, OutputTokens: -1, ReasoningTokens: -1},
		},
		instance: "localhost:8080", model: "tiny", sampled: true, trace: pcommon.TraceID{6}, span: pcommon.SpanID{6},
	}
	down := *refused
	failed := *refused.Exchange
	down.Exchange, down.span = &failed, pcommon.SpanID{7}
	failed.Status, failed.Outcome, failed.ErrorType = 502, proxy.Failed, "connection_refused"

	unread := streamed()
	unread.span, unread.Unread, unread.Result = pcommon.SpanID{8}, true, completion.Result{End: after(100), InputTokens: -1, CachedTokens: -1, OutputTokens: -1, ReasoningTokens: -1}
	unread.LongestGap = 0

	look := &measured{Exchange: &proxy.Exchange{Method: "GET", Route: "/slots", Arrived: arrival, Status: 200, Result: completion.Result{End: after(1)}}, instance: "localhost:8080"}
	odd := &measured{Exchange: &proxy.Exchange{Method: "BREW", Arrived: arrival, Status: 404, Outcome: proxy.Rejected, ErrorType: "404", Result: completion.Result{End: after(1)}}, instance: "localhost:8080"}
	return []*measured{streamed(), whole, without, left, refused, &down, unread, look, odd}
}

func metricsOf(t *testing.T, cfg *Config, requests ...*measured) pmetric.Metrics {
	t.Helper()
	set := receivertest.NewNopSettings(metadata.Type)
	o := newMetricsOutput(cfg, set, consumertest.NewNop())
	o.hub = newHub(t, cfg)
	o.cfg.Exemplars.Enabled = false // their times are now
	for _, m := range requests {
		o.ended(m)
	}
	return o.emit()
}

func TestMetrics_OfEachKindOfRequest(t *testing.T) {
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "metrics.yaml"), metricsOf(t, newDefaultConfig(), all()...))
}

func TestMetrics_ExponentialHistograms(t *testing.T) {
	cfg := newDefaultConfig()
	cfg.Histogram.Exponential.GetOrInsertDefault()
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "exponential.yaml"), metricsOf(t, cfg, all()...))
}

func TestMetrics_SwitchedOff(t *testing.T) {
	cfg := load(t, "llamaproxy/all")
	md := metricsOf(t, cfg, all()...)
	for _, name := range []string{"gen_ai.server.request.duration", "llamacpp.request.queue.duration", "http.server.request.duration", "llamacpp.proxy.tokens"} {
		_, ok := points.Metric(md, name)
		assert.False(t, ok, name)
	}
	_, ok := points.Metric(md, "llamacpp.proxy.requests")
	assert.True(t, ok)
}

// The resource is the one that the receiver llamacpp has made known, or there would be
// two servers.
func TestMetrics_ResourceIsTheReceivers(t *testing.T) {
	known := pcommon.NewResource()
	known.Attributes().PutStr("llamacpp.model.name", "qwen")
	known.Attributes().PutStr("service.version", "b11669")
	cfg := newDefaultConfig()
	cfg.Upstream.Endpoint = "http://gpu-1:8080"
	withdraw := serverresource.Publish(serverresource.Key{Service: "llama-server", Instance: "gpu-1:8080"}, known)
	defer withdraw()
	m := streamed()
	m.instance, m.model = newHub(t, cfg).serverOf(m)
	assert.Equal(t, []string{"gpu-1:8080", "qwen"}, []string{m.instance, m.model}, "not what a client has called it")
	md := metricsOf(t, cfg, m)
	require.Equal(t, 1, md.ResourceMetrics().Len())
	assert.Equal(t, map[string]any{
		"service.name": "llama-server", "service.instance.id": "gpu-1:8080", "server.address": "gpu-1", "server.port": int64(8080),
		"llamacpp.model.name": "qwen", "service.version": "b11669",
	}, md.ResourceMetrics().At(0).Resource().Attributes().AsRaw())
	requests, ok := points.Metric(md, "llamacpp.proxy.requests")
	require.True(t, ok)
	assert.Equal(t, 2, points.Numbers(requests).Len(), "text completions begin at 0 as well, for a rate")
}

func TestMetrics_RoutersModelsAreInstancesOfTheirOwn(t *testing.T) {
	cfg := newDefaultConfig()
	child := pcommon.NewResource()
	child.Attributes().PutStr("llamacpp.model.name", "gpt-4")
	defer serverresource.Publish(serverresource.Key{Service: "llama-server", Instance: "localhost:8080/gpt-4"}, child)()
	m := streamed()
	m.instance, m.model = newHub(t, cfg).serverOf(m)
	assert.Equal(t, []string{"localhost:8080/gpt-4", "gpt-4"}, []string{m.instance, m.model})
}

func TestMetrics_SeriesAreLimited(t *testing.T) {
	cfg := newDefaultConfig()
	cfg.AggregationCardinalityLimit = 10
	var requests []*measured
	for i := range 100 {
		m := streamed()
		m.model = fmt.Sprintf("model-%d", i)
		requests = append(requests, m)
	}
	md := metricsOf(t, cfg, requests...)
	m, ok := points.Metric(md, "llamacpp.proxy.requests")
	require.True(t, ok)
	total, other := int64(0), int64(0)
	for _, p := range points.Numbers(m).All() {
		total += p.IntValue()
		if model, _ := p.Attributes().Get("gen_ai.request.model"); model.Str() == "other" {
			other = p.IntValue()
		}
	}
	assert.Equal(t, 11, points.Numbers(m).Len())
	assert.EqualValues(t, 100, total, "none is lost")
	assert.EqualValues(t, 90, other)
	for _, name := range []string{"gen_ai.server.request.duration", "llamacpp.request.queue.duration"} {
		m, ok := points.Metric(md, name)
		require.True(t, ok)
		assert.Equal(t, 11, m.Histogram().DataPoints().Len(), name)
	}
}

func TestTraces_OfEachKindOfRequest(t *testing.T) {
	cfg := newDefaultConfig()
	o := newTracesOutput(receivertest.NewNopSettings(metadata.Type), consumertest.NewNop())
	o.hub = newHub(t, cfg)
	var completions []*measured
	for _, m := range all() {
		if m.Completion {
			completions = append(completions, m)
		}
	}
	td := o.spans(completions)
	goldenfile.EqualTraces(t, filepath.Join("testdata", "traces.yaml"), td)
	n := 0
	for _, m := range completions {
		n += spansOf(m)
	}
	assert.Equal(t, td.SpanCount(), n, "as many as are counted when they are dropped")
}

func TestClients_AreNamedByTheirKeys(t *testing.T) {
	header := func(name, value string) map[string][]string { return map[string][]string{name: {value}} }
	var off *clients
	assert.Empty(t, off.name(header("Authorization", "Bearer sk-a")))
	named := newClients(load(t, "llamaproxy/all").Clients.Get())
	assert.Equal(t, "alice", named.name(header("Authorization", "Bearer sk-a")))
	assert.Equal(t, "bob", named.name(header("X-Api-Key", "sk-b")))
	assert.Equal(t, "alice", named.name(header("Authorization", "sk-a")), "llama-server takes it so")
	assert.Equal(t, "none", named.name(nil))
	hash := named.name(header("Authorization", "Bearer sk-c"))
	assert.Len(t, hash, 12)
	assert.NotContains(t, hash, "sk-c")
	assert.Equal(t, hash, named.name(header("X-Api-Key", "sk-c")))
	assert.NotEqual(t, hash, named.name(header("Authorization", "Bearer sk-d")))
	other := newClients(&ClientsConfig{HashSecret: "pepper"})
	assert.NotEqual(t, hash, other.name(header("X-Api-Key", "sk-c")), "another secret, another hash")
	unhashed := newClients(&ClientsConfig{Names: load(t, "llamaproxy/all").Clients.Get().Names})
	assert.Equal(t, "other", unhashed.name(header("X-Api-Key", "sk-c")))
}

// The wait of an answer that is not streamed is what its whole time leaves.
func TestWaited(t *testing.T) {
	waited := map[int]float64{}
	for i, m := range all() {
		if d, ok := m.Waited(); ok {
			waited[i] = d.Seconds()
		}
	}
	assert.Equal(t, map[int]float64{0: 0.1, 1: 0.105}, waited)
	early := streamed()
	early.Result.Timings.Prompt = time.Second
	d, ok := early.Waited()
	assert.True(t, ok)
	assert.Zero(t, d, "clocks differ by less than a prompt")
}

func TestReceiver_IsOffWithoutAnEndpoint(t *testing.T) {
	cfg := load(t, "llamaproxy/off")
	r, err := newMetricsReceiver(cfg, receivertest.NewNopSettings(metadata.Type), consumertest.NewErr(fmt.Errorf("it sends")))
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, r.Shutdown(t.Context()))
}

func TestOperation(t *testing.T) {
	var names []string
	for e := range completion.Embeddings + 1 {
		names = append(names, e.String()+" "+operation(e))
	}
	assert.Equal(t, "chat chat, completions text_completion, responses chat, messages chat, completion text_completion, embeddings embeddings", strings.Join(names, ", "))
}
