// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// config is that of a proxy of a server, on a port that is free.
func config(upstream string) *Config {
	cfg := newDefaultConfig()
	cfg.ServerConfig.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Upstream.Endpoint = upstream
	cfg.MetricsFlushInterval = 10 * time.Millisecond
	return cfg
}

func start(t *testing.T, r component.Component) *proxyReceiver {
	t.Helper()
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	return r.(*proxyReceiver)
}

func startMetrics(t *testing.T, cfg *Config, next consumer.Metrics) *proxyReceiver {
	t.Helper()
	r, err := newMetricsReceiver(cfg, receivertest.NewNopSettings(metadata.Type), next)
	require.NoError(t, err)
	return start(t, r)
}

func startTraces(t *testing.T, cfg *Config, next consumer.Traces) *proxyReceiver {
	t.Helper()
	r, err := newTracesReceiver(cfg, receivertest.NewNopSettings(metadata.Type), next)
	require.NoError(t, err)
	return start(t, r)
}

// ask sends a request through a proxy, and returns the answer.
func ask(t *testing.T, r *proxyReceiver) string {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.hub.address.String()+"/v1/chat/completions", strings.NewReader("{}"))
	require.NoError(t, err)
	answer, err := http.DefaultTransport.RoundTrip(q)
	require.NoError(t, err)
	defer func() { require.NoError(t, answer.Body.Close()) }()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return string(body)
}

func chat() scriptedserver.Script {
	return scriptedserver.Chat("chatcmpl-1", 24, scriptedserver.Every(30*time.Millisecond, 3, 5*time.Millisecond)...)
}

func sumOf(all []pmetric.Metrics, name string) (n int64) {
	for _, p := range pointsOf(all, name) {
		n += p
	}
	return n
}

// pointsOf returns the latest points of a metric.
func pointsOf(all []pmetric.Metrics, name string) (values []int64) {
	if len(all) == 0 {
		return nil
	}
	m, ok := points.Metric(all[len(all)-1], name)
	if !ok {
		return nil
	}
	switch m.Type() {
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			values = append(values, int64(p.Count()))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			values = append(values, int64(p.Count()))
		}
	default:
		for _, p := range points.Numbers(m).All() {
			values = append(values, p.IntValue())
		}
	}
	return values
}

// Prometheus needs fixed buckets unless it takes native histograms, the page wants
// finer ones, and both are of the same requests.
func TestReceiver_TwoWithOneEndpointAreOneProxy(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(chat()))
	explicit, exponential := config(server.URL), config(server.URL)
	exponential.Histogram.Exponential.GetOrInsertDefault()
	var (
		classic, native consumertest.MetricsSink
		spans           consumertest.TracesSink
	)
	receivers := []*proxyReceiver{startMetrics(t, explicit, &classic), startMetrics(t, exponential, &native), startTraces(t, exponential, &spans)}
	for range 3 {
		assert.Contains(t, ask(t, receivers[0]), "[DONE]")
	}
	for _, r := range receivers {
		require.NoError(t, r.Shutdown(t.Context()))
	}
	assert.Len(t, server.Exchanges(), 3)
	for _, sink := range []*consumertest.MetricsSink{&classic, &native} {
		assert.EqualValues(t, 3, sumOf(sink.AllMetrics(), "llamacpp.request.queue.duration"))
		assert.EqualValues(t, 3, sumOf(sink.AllMetrics(), "llamacpp.proxy.requests"))
		assert.EqualValues(t, 3*(24+3), sumOf(sink.AllMetrics(), "llamacpp.proxy.tokens"))
		assert.EqualValues(t, 0, sumOf(sink.AllMetrics(), "llamacpp.proxy.requests.active"))
	}
	kind := func(s *consumertest.MetricsSink) pmetric.MetricType {
		m, _ := points.Metric(s.AllMetrics()[len(s.AllMetrics())-1], "llamacpp.request.queue.duration")
		return m.Type()
	}
	assert.Equal(t, []pmetric.MetricType{pmetric.MetricTypeHistogram, pmetric.MetricTypeExponentialHistogram}, []pmetric.MetricType{kind(&classic), kind(&native)})
	assert.Equal(t, 3*4, spans.SpanCount())
}

func TestReceiver_TwoWithOneEndpointMustAgree(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(chat()))
	first := startMetrics(t, config(server.URL), consumertest.NewNop())
	other := config(server.URL)
	other.DrainTimeout = time.Minute
	r, err := newMetricsReceiver(other, receivertest.NewNopSettings(metadata.Type), consumertest.NewNop())
	require.NoError(t, err)
	assert.ErrorContains(t, r.Start(t.Context(), componenttest.NewNopHost()), "endpoint: another receiver of type llamaproxy listens at 127.0.0.1:0, with other settings")
	require.NoError(t, r.Shutdown(t.Context()))
	require.NoError(t, first.Shutdown(t.Context()))

	again := startMetrics(t, other, consumertest.NewNop())
	require.NoError(t, again.Shutdown(t.Context()), "the endpoint is free again")
}

func TestReceiver_AnEndpointInUseIsAnErrorAtTheStart(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(chat()))
	first := startMetrics(t, config(server.URL), consumertest.NewNop())
	cfg := config(server.URL)
	cfg.ServerConfig.NetAddr.Endpoint = first.hub.address.String()
	r, err := newMetricsReceiver(cfg, receivertest.NewNopSettings(metadata.Type), consumertest.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, r.Start(t.Context(), componenttest.NewNopHost()), "address already in use")
	require.NoError(t, r.Shutdown(t.Context()))
	require.NoError(t, first.Shutdown(t.Context()))
}

func TestReceiver_MetricsThatAreRefusedAreMadeUpFor(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(chat()))
	var (
		sink    consumertest.MetricsSink
		refuse  = true
		refusal sync.Mutex
	)
	next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		refusal.Lock()
		defer refusal.Unlock()
		if refuse {
			return errors.New("memory limit")
		}
		return sink.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	r := startMetrics(t, config(server.URL), next)
	ask(t, r)
	refusal.Lock()
	refuse = false
	refusal.Unlock()
	require.NoError(t, r.Shutdown(t.Context()))
	assert.EqualValues(t, 1, sumOf(sink.AllMetrics(), "llamacpp.proxy.requests"))
}

// A pipeline that hangs costs spans, which are counted, and no request any time.
func TestReceiver_APipelineThatHangsSlowsNothing(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.Chat("chatcmpl-1", 24, 0)))
	hangs, err := consumer.NewTraces(func(ctx context.Context, _ ptrace.Traces) error {
		<-ctx.Done()
		return ctx.Err()
	})
	require.NoError(t, err)
	stuck, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
		<-ctx.Done()
		return ctx.Err()
	})
	require.NoError(t, err)
	var sink consumertest.MetricsSink
	cfg := config(server.URL)
	receivers := []*proxyReceiver{startTraces(t, cfg, hangs), startMetrics(t, cfg, stuck), startMetrics(t, cfg, &sink)}
	traces := receivers[0].output.(*tracesOutput)
	for range cap(traces.pending) { // as if they had ended by now
		traces.ended(streamed())
	}
	began := time.Now()
	for range 5 {
		assert.Contains(t, ask(t, receivers[0]), "[DONE]")
	}
	assert.Less(t, time.Since(began), lastSend, "a request has waited for telemetry")
	for _, r := range receivers {
		require.NoError(t, r.Shutdown(t.Context()))
	}
	assert.EqualValues(t, 5, sumOf(sink.AllMetrics(), "llamacpp.proxy.requests"))
	assert.Positive(t, traces.hub.dropped.Load())
}

// Spans of traces that their client does not record are none of ours to record.
func TestReceiver_KeepsToTheClientsSampling(t *testing.T) {
	server := scriptedserver.Start(t, scriptedserver.Always(chat()))
	var sink consumertest.TracesSink
	r := startTraces(t, config(server.URL), &sink)
	for _, flags := range []string{"00", "01"} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.hub.address.String()+"/v1/chat/completions", strings.NewReader("{}"))
		require.NoError(t, err)
		q.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+flags)
		q.Close = true
		answer, err := http.DefaultTransport.RoundTrip(q)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
	}
	require.NoError(t, r.Shutdown(t.Context()))
	require.Equal(t, 4, sink.SpanCount())
	span := sink.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", span.TraceID().String())
	assert.Equal(t, "b7ad6b7169203331", span.ParentSpanID().String())
	assert.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", server.Exchanges()[1].Header.Get("Traceparent"), "it passes as it is")
}
