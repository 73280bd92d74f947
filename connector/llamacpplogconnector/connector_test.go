// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// oneRequest is a request's lines, and otherRequest those of the next one.
const (
	oneRequest = `0.00.046.218 I slot launch_slot_: id  0 | task 0 | processing task, is_child = 0
0.00.048.211 I slot print_timing: id  0 | task 0 | prompt eval time =       1.44 ms /    44 tokens (    0.03 ms per token, 30576.79 tokens per second)
0.00.048.234 I slot print_timing: id  0 | task 0 |        eval time =       0.53 ms /     6 tokens (    0.11 ms per token,  9523.81 tokens per second)
0.00.048.300 I slot      release: id  0 | task 0 | stop processing: n_tokens = 49, truncated = 0`
	otherRequest = `0.01.049.311 I slot launch_slot_: id  0 | task 7 | processing task, is_child = 0
0.01.050.801 I slot print_timing: id  0 | task 7 | prompt eval time =       0.94 ms /    33 tokens (    0.03 ms per token, 35256.41 tokens per second)
0.01.050.820 I slot print_timing: id  0 | task 7 |        eval time =       0.53 ms /     6 tokens (    0.11 ms per token,  9416.20 tokens per second)
0.01.050.882 I slot      release: id  0 | task 7 | stop processing: n_tokens = 49, truncated = 0`
)

// logs of one resource, a record a line, read now.
func logs(text string, attributes map[string]any) plog.Logs {
	ld := plog.NewLogs()
	add(ld, text, attributes)
	return ld
}

func add(to plog.Logs, text string, attributes map[string]any) {
	rl := to.ResourceLogs().AppendEmpty()
	if err := rl.Resource().Attributes().FromRaw(attributes); err != nil {
		panic(err)
	}
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for line := range strings.Lines(text) {
		r := records.AppendEmpty()
		r.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		r.Body().SetStr(strings.TrimSuffix(line, "\n"))
	}
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("internal", "serverlog", "testdata", name+".log"))
	require.NoError(t, err)
	return string(b)
}

// settings with a logger that keeps what is logged.
func settings() (connector.Settings, *observer.ObservedLogs) {
	set := connectortest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type)
	core, logged := observer.New(zapcore.InfoLevel)
	set.Logger = zap.New(core)
	return set, logged
}

func startMetrics(t *testing.T, cfg *Config, set connector.Settings, next consumer.Metrics) *metricsConnector {
	t.Helper()
	c, err := newMetricsConnector(cfg, set, next)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	return c
}

func startTraces(t *testing.T, cfg *Config, set connector.Settings, next consumer.Traces) *tracesConnector {
	t.Helper()
	c, err := newTracesConnector(cfg, set, next)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	return c
}

// metricsOf is what a connector says last of some logs.
func metricsOf(t *testing.T, cfg *Config, batches ...plog.Logs) pmetric.Metrics {
	t.Helper()
	set, _ := settings()
	sink := new(consumertest.MetricsSink)
	c := startMetrics(t, cfg, set, sink)
	for _, ld := range batches {
		require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	}
	require.NoError(t, c.Shutdown(context.WithoutCancel(t.Context())))
	require.NotEmpty(t, sink.AllMetrics())
	return sink.AllMetrics()[len(sink.AllMetrics())-1]
}

// tracesOf is what a connector makes of some logs.
func tracesOf(t *testing.T, cfg *Config, batches ...plog.Logs) ptrace.Traces {
	t.Helper()
	set, _ := settings()
	sink := new(consumertest.TracesSink)
	c := startTraces(t, cfg, set, sink)
	for _, ld := range batches {
		require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	}
	require.NoError(t, c.Shutdown(context.WithoutCancel(t.Context())))
	all := ptrace.NewTraces()
	for _, td := range sink.AllTraces() {
		td.ResourceSpans().MoveAndAppendTo(all.ResourceSpans())
	}
	return all
}

// completed requests of all resources.
func completed(md pmetric.Metrics) (n int64) {
	for _, m := range points.Metrics(md) {
		if m.Name() != "llamacpp.requests" {
			continue
		}
		for _, p := range points.Numbers(m).All() {
			if o, _ := p.Attributes().Get("llamacpp.request.outcome"); o.Str() == "completed" {
				n += p.IntValue()
			}
		}
	}
	return n
}

var goldens = []string{
	"start_and_two_requests", "start_and_two_requests_jsonl", "start_and_two_requests_no_timestamps_no_prefix",
	"start_and_three_requests_slow", "sleep_and_wake", "sigterm_during_stream", "errors", "embeddings", "context_shift",
	"context_full", "draft", "router_unload", "older_2025_03", "older_2025_12", "older_2026_05_router", "verbose",
}

// UPDATE=1 writes testdata anew.
func TestConnector_RecordedLogsGiveMetrics(t *testing.T) {
	for _, name := range []string{"start_and_three_requests_slow", "errors", "draft", "router_unload", "older_2025_03"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				equalMetrics(t, name, metricsOf(t, newDefaultConfig(), logs(recorded(t, name), nil)))
			})
		})
	}
	t.Run("exponential", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			equalMetrics(t, "exponential", metricsOf(t, exponentialConfig(histogram.DefaultSize), logs(recorded(t, "draft"), nil)))
		})
	})
}

func exponentialConfig(size int32) *Config {
	cfg := newDefaultConfig()
	cfg.Histogram.Exponential = configoptional.Some(ExponentialConfig{MaxSize: size})
	return cfg
}

func equalMetrics(t *testing.T, name string, actual pmetric.Metrics) {
	t.Helper()
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "metrics", name+".yaml"), actual)
}

func compareMetrics(t *testing.T, expected, actual pmetric.Metrics) {
	t.Helper()
	require.NoError(t, pmetrictest.CompareMetrics(expected, actual,
		pmetrictest.IgnoreTimestamp(), pmetrictest.IgnoreStartTimestamp(), pmetrictest.IgnoreMetricsOrder(), pmetrictest.IgnoreMetricDataPointsOrder(), pmetrictest.IgnoreResourceMetricsOrder()))
}

func TestConnector_RecordedLogsGiveTraces(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				actual := tracesOf(t, newDefaultConfig(), logs(recorded(t, name), nil))
				goldenfile.EqualTraces(t, filepath.Join("testdata", "traces", name+".yaml"), actual)
			})
		})
	}
}

func TestConnector_LogsInPiecesGiveTheSame(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text := recorded(t, name)
				var pieces []plog.Logs
				for line := range strings.Lines(text) {
					pieces = append(pieces, logs(line, nil))
				}
				cfg := newDefaultConfig()
				cfg.Exemplars.Enabled = false // all pieces are read at one moment
				compareMetrics(t, metricsOf(t, cfg, logs(text, nil)), metricsOf(t, cfg, pieces...))
				whole, parts := tracesOf(t, newDefaultConfig(), logs(text, nil)), tracesOf(t, newDefaultConfig(), pieces...)
				assert.Equal(t, whole.SpanCount(), parts.SpanCount())
			})
		})
	}
}

func TestConnector_InputStaysAsItWas(t *testing.T) {
	ld := logs(oneRequest, map[string]any{"k8s.pod.name": "p"})
	ld.MarkReadOnly()
	metricsOf(t, newDefaultConfig(), ld)
	tracesOf(t, newDefaultConfig(), ld)
	set, _ := settings()
	assert.False(t, startTraces(t, newDefaultConfig(), set, consumertest.NewNop()).Capabilities().MutatesData)
}

func TestConnector_ZeroPointsBeforeTheFirstRequest(t *testing.T) {
	md := metricsOf(t, newDefaultConfig(), logs("0.00.000.890 I srv  llama_server: initializing ...", nil))
	m, ok := points.Metric(md, "llamacpp.requests")
	require.True(t, ok)
	assert.Equal(t, 5, m.Sum().DataPoints().Len())
	for _, name := range []string{"gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"} {
		m, ok := points.Metric(md, name)
		require.True(t, ok, name)
		assert.Equal(t, pmetric.AggregationTemporalityCumulative, m.Histogram().AggregationTemporality())
		p := m.Histogram().DataPoints().At(0)
		assert.Zero(t, p.Count())
		assert.False(t, p.HasMin())
		assert.NotZero(t, p.StartTimestamp())
	}
	m, ok = points.Metric(md, "llamacpp.request.tokens")
	require.True(t, ok)
	assert.Equal(t, 2, m.Histogram().DataPoints().Len())
}

func TestConnector_ExemplarsLinkToTheSpansForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, _ := settings()
		sink, spans := new(consumertest.MetricsSink), new(consumertest.TracesSink)
		m, tr := startMetrics(t, newDefaultConfig(), set, sink), startTraces(t, newDefaultConfig(), set, spans)
		ld := logs(oneRequest, nil)
		require.NoError(t, m.ConsumeLogs(t.Context(), ld))
		require.NoError(t, tr.ConsumeLogs(t.Context(), ld))
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()

		last := func() pmetric.ExemplarSlice {
			d, ok := points.Metric(sink.AllMetrics()[len(sink.AllMetrics())-1], "gen_ai.server.request.duration")
			require.True(t, ok)
			return d.Histogram().DataPoints().At(0).Exemplars()
		}
		require.Equal(t, 1, last().Len())
		e := last().At(0)
		span := spans.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		assert.Equal(t, span.TraceID(), e.TraceID())
		assert.Equal(t, span.SpanID(), e.SpanID())
		assert.Equal(t, span.EndTimestamp(), e.Timestamp())
		assert.InDelta(t, 0.00197, e.DoubleValue(), 1e-9)
		assert.Equal(t, map[string]any{"llamacpp.slot.id": int64(0), "llamacpp.task.id": int64(0)}, e.FilteredAttributes().AsRaw())

		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Zero(t, last().Len())
		require.NoError(t, m.Shutdown(t.Context()))
		require.NoError(t, tr.Shutdown(t.Context()))
	})
	cfg := newDefaultConfig()
	cfg.Exemplars.Enabled = false
	d, _ := points.Metric(metricsOf(t, cfg, logs(oneRequest, nil)), "gen_ai.server.request.duration")
	assert.Zero(t, d.Histogram().DataPoints().At(0).Exemplars().Len())
}

func TestConnector_ServersOfTwoHostsHaveSpansOfTheirOwn(t *testing.T) {
	ids := map[pcommon.TraceID]bool{}
	for _, host := range []string{"a", "b"} {
		td := tracesOf(t, newDefaultConfig(), logs(oneRequest, map[string]any{"host.name": host}))
		ids[td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID()] = true
	}
	assert.Len(t, ids, 2, "although both are called localhost:8080")
}

func TestConnector_ResourceIsTheServers(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		log    map[string]any
		want   map[string]any
	}{
		"configured": {
			func(c *Config) { c.Endpoint, c.ServiceName, c.Model = "http://gpu1:9090/base", "chat", "qwen" }, nil,
			map[string]any{"service.name": "chat", "server.address": "gpu1", "server.port": int64(9090), "service.instance.id": "gpu1:9090/base", "llamacpp.model.name": "qwen"},
		},
		"the log's": {
			nil,
			map[string]any{"service.name": "s", "server.address": "h", "server.port": 99, "k8s.pod.name": "p", "host.name": "n"},
			map[string]any{"service.name": "s", "server.address": "h", "server.port": int64(99), "service.instance.id": "h:99", "k8s.pod.name": "p", "host.name": "n"},
		},
		"port as text": {
			nil,
			map[string]any{"server.port": "99"},
			map[string]any{"service.name": "llama-server", "server.address": "localhost", "server.port": int64(99), "service.instance.id": "localhost:99"},
		},
		"instance": {
			nil,
			map[string]any{"service.instance.id": "pod-1"},
			map[string]any{"service.name": "llama-server", "service.instance.id": "pod-1"},
		},
		"switched off": {
			func(c *Config) {
				c.ResourceAttributes.ServerAddress.Enabled = false
				c.ResourceAttributes.ServerPort.Enabled = false
				c.ResourceAttributes.ServiceInstanceID.Enabled = false
			},
			map[string]any{"server.port": 99, "os.type": "linux"},
			map[string]any{"service.name": "llama-server", "os.type": "linux"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newDefaultConfig()
			if tt.change != nil {
				tt.change(cfg)
			}
			md := metricsOf(t, cfg, logs(oneRequest, tt.log))
			require.Equal(t, 1, md.ResourceMetrics().Len())
			assert.Equal(t, tt.want, md.ResourceMetrics().At(0).Resource().Attributes().AsRaw())
			td := tracesOf(t, cfg, logs(oneRequest, tt.log))
			assert.Equal(t, tt.want, td.ResourceSpans().At(0).Resource().Attributes().AsRaw())
		})
	}
}

func TestConnector_ModelIsCalledAfterItsFile(t *testing.T) {
	for _, line := range []string{`/models/tiny.gguf`, `C:\models\tiny.gguf`} {
		md := metricsOf(t, newDefaultConfig(), logs("0.00.015.972 I srv    load_model: loading model '"+line+"'\n"+oneRequest, nil))
		d, _ := points.Metric(md, "gen_ai.server.request.duration")
		assert.Equal(t, map[string]any{
			"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "llamacpp", "gen_ai.request.model": "tiny.gguf",
		}, d.Histogram().DataPoints().At(0).Attributes().AsRaw())
	}
}

func TestConnector_RouterHasAResourceForEachModel(t *testing.T) {
	md := metricsOf(t, newDefaultConfig(), logs(recorded(t, "router_load_and_proxy"), nil))
	var instances []string
	for _, rm := range md.ResourceMetrics().All() {
		v, _ := rm.Resource().Attributes().Get("service.instance.id")
		instances = append(instances, v.Str())
		_, counts := points.Metric(pick(rm), "llamacpp.requests")
		assert.Equal(t, v.Str() != "localhost:8080", counts, v.Str())
	}
	assert.Contains(t, instances, "localhost:8080/tiny")
	assert.Contains(t, instances, "localhost:8080")
}

func pick(rm pmetric.ResourceMetrics) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm.CopyTo(md.ResourceMetrics().AppendEmpty())
	return md
}

func TestConnector_ModelsOfARouterAreBounded(t *testing.T) {
	set, _ := settings()
	c := startMetrics(t, newDefaultConfig(), set, consumertest.NewNop())
	var b strings.Builder
	for i := range 3 * maxInstances {
		b.WriteString("[" + pcommon.NewValueInt(int64(10_000+i)).AsString() + "] 0.00.014.173 W srv  llama_server: security\n")
	}
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(b.String(), nil)))
	for _, s := range c.sources {
		assert.LessOrEqual(t, len(s.instances), maxInstances+1)
		assert.Contains(t, s.instances, otherInstance)
	}
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestConnector_MetricsAreSwitchedOffOneByOneAndAll(t *testing.T) {
	names := map[string]func(*MetricsConfig){
		"gen_ai.server.request.duration":      func(m *MetricsConfig) { m.RequestDuration.Enabled = false },
		"gen_ai.server.time_per_output_token": func(m *MetricsConfig) { m.TimePerOutputToken.Enabled = false },
		"gen_ai.server.time_to_first_token":   func(m *MetricsConfig) { m.TimeToFirstToken.Enabled = false },
		"llamacpp.request.cached_tokens":      func(m *MetricsConfig) { m.RequestCachedTokens.Enabled = false },
		"llamacpp.request.draft.acceptance":   func(m *MetricsConfig) { m.RequestDraftAcceptance.Enabled = false },
		"llamacpp.request.generation.speed":   func(m *MetricsConfig) { m.RequestGenerationSpeed.Enabled = false },
		"llamacpp.request.prompt.speed":       func(m *MetricsConfig) { m.RequestPromptSpeed.Enabled = false },
		"llamacpp.request.tokens":             func(m *MetricsConfig) { m.RequestTokens.Enabled = false },
		"llamacpp.context.shifts":             func(m *MetricsConfig) { m.LlamacppContextShifts.Enabled = false },
		"llamacpp.log.records":                func(m *MetricsConfig) { m.LlamacppLogRecords.Enabled = false },
		"llamacpp.model.load.duration":        func(m *MetricsConfig) { m.LlamacppModelLoadDuration.Enabled = false },
		"llamacpp.requests":                   func(m *MetricsConfig) { m.LlamacppRequests.Enabled = false },
		"llamacpp.requests.truncated":         func(m *MetricsConfig) { m.LlamacppRequestsTruncated.Enabled = false },
	}
	all := newDefaultConfig()
	for name, off := range names {
		_, ok := points.Metric(metricsOf(t, newDefaultConfig(), logs(recorded(t, "draft"), nil)), name)
		assert.True(t, ok, name)
		cfg := newDefaultConfig()
		off(&cfg.Metrics)
		_, ok = points.Metric(metricsOf(t, cfg, logs(recorded(t, "draft"), nil)), name)
		assert.False(t, ok, name)
		off(&all.Metrics)
	}
	set, _ := settings()
	sink := new(consumertest.MetricsSink)
	c := startMetrics(t, all, set, sink)
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(recorded(t, "draft"), nil)))
	require.NoError(t, c.Shutdown(t.Context()))
	assert.Empty(t, sink.AllMetrics())
}

func TestConnector_PointsComeAtTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, _ := settings()
		sink := new(consumertest.MetricsSink)
		cfg := newDefaultConfig()
		cfg.MetricsFlushInterval = 10 * time.Second
		c := startMetrics(t, cfg, set, sink)
		time.Sleep(25 * time.Second)
		synctest.Wait()
		assert.Empty(t, sink.AllMetrics(), "there is nothing to say")
		require.NoError(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
		began := pcommon.NewTimestampFromTime(time.Now())
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Len(t, sink.AllMetrics(), 2)
		require.NoError(t, c.Shutdown(t.Context()))
		require.Len(t, sink.AllMetrics(), 3, "the last at shutdown")
		for _, md := range sink.AllMetrics() {
			m, _ := points.Metric(md, "llamacpp.requests")
			assert.Equal(t, began, m.Sum().DataPoints().At(0).StartTimestamp())
		}
	})
}

// refusing refuses what it is given, as long as it is set to.
type refusing struct {
	consumertest.MetricsSink
	spans consumertest.TracesSink
	taint bool

	mu  sync.Mutex
	err error
}

// refuse sets the error to refuse with from now on, nil for none.
func (r *refusing) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *refusing) refusal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *refusing) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	if err := r.refusal(); err != nil {
		return err
	}
	return r.MetricsSink.ConsumeMetrics(ctx, md)
}

func (r *refusing) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if r.taint { // as a pipeline with several exporters does
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("changed", "yes")
		td.MarkReadOnly()
	}
	if err := r.refusal(); err != nil {
		return err
	}
	return r.spans.ConsumeTraces(ctx, td)
}

func TestMetrics_SilenceIsLoggedOnce(t *testing.T) {
	for name, test := range map[string]struct{ arrive, want int }{
		"nothing arrives":  {0, 1},
		"a record arrives": {1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				set, logged := settings()
				c := startMetrics(t, newDefaultConfig(), set, consumertest.NewNop())
				time.Sleep(silence - time.Second)
				synctest.Wait()
				for range test.arrive {
					require.NoError(t, c.ConsumeLogs(t.Context(), logs("a line of anything", nil)))
				}
				assert.Zero(t, logged.Len(), "it is too early to say")
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Equal(t, test.want, logged.FilterMessageSnippet("check that what the pipeline's receiver reads exists").Len())
				require.NoError(t, c.Shutdown(t.Context()))
			})
		})
	}
}

// stalled takes in no spans of one resource until it is let.
type stalled struct {
	consumertest.TracesSink
	n      int64 // its attribute
	stalls chan struct{}
	let    chan struct{}
}

func (s *stalled) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if v, _ := td.ResourceSpans().At(0).Resource().Attributes().Get("n"); v.Int() == s.n {
		s.stalls <- struct{}{}
		<-s.let
	}
	return s.TracesSink.ConsumeTraces(ctx, td)
}

func TestTraces_SlowExporterHoldsUpOnlyTheSourceThatItIsSlowFor(t *testing.T) {
	mem := &memory{held: map[string][]byte{}}
	set, _ := settings()
	next := &stalled{n: 1, stalls: make(chan struct{}), let: make(chan struct{})}
	c, err := newTracesConnector(storedConfig(), set, next)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), host{storageID: mem}))

	slow := make(chan error)
	go func() { slow <- c.ConsumeLogs(t.Context(), logs(oneRequest, map[string]any{"n": 1})) }()
	<-next.stalls
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(oneRequest, map[string]any{"n": 2})))
	assert.Equal(t, 3, next.SpanCount(), "those of the other source")
	assert.Len(t, mem.held, 2, "the list and the other source: what is not handed on is not stored as done")
	select {
	case err := <-slow:
		require.Fail(t, "its own source is to wait", err)
	default:
	}

	close(next.let)
	require.NoError(t, <-slow)
	assert.Equal(t, 6, next.SpanCount())
	assert.Len(t, mem.held, 3)
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestTraces_RefusedSpansOfOneSourceDoNotHoldUpAnother(t *testing.T) {
	mem := &memory{held: map[string][]byte{}}
	set, _ := settings()
	next := &refusing{err: errors.New("full")}
	c, err := newTracesConnector(storedConfig(), set, next)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), host{storageID: mem}))
	first, second := logs(oneRequest, map[string]any{"n": 1}), logs(oneRequest, map[string]any{"n": 2})
	require.Error(t, c.ConsumeLogs(t.Context(), first))
	next.refuse(nil)
	require.NoError(t, c.ConsumeLogs(t.Context(), second))
	assert.Equal(t, 3, next.spans.SpanCount())
	assert.Len(t, mem.held, 2, "the list and the second")
	require.NoError(t, c.ConsumeLogs(t.Context(), first), "the same logs again")
	assert.Equal(t, 6, next.spans.SpanCount())
	assert.Len(t, mem.held, 3)
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestConnector_RefusedMetricsAreMadeUpForByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, logged := settings()
		next := &refusing{err: errors.New("full")}
		c := startMetrics(t, newDefaultConfig(), set, next)
		require.NoError(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
		time.Sleep(5500 * time.Millisecond)
		synctest.Wait()
		assert.Equal(t, 1, logged.Len(), "logged once")
		next.refuse(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, next.AllMetrics(), 1)
		assert.EqualValues(t, 1, completed(next.AllMetrics()[0]))
		require.NoError(t, c.Shutdown(t.Context()))
	})
}

func TestConnector_RefusedSpansGoWithTheNext(t *testing.T) {
	set, logged := settings()
	next := &refusing{err: errors.New("full"), taint: true}
	c := startTraces(t, newDefaultConfig(), set, next)
	require.ErrorIs(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)), next.err)
	require.ErrorIs(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)), next.err, "the same logs again")
	next.taint = false
	next.refuse(nil)
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(otherRequest, nil)))
	require.Len(t, next.spans.AllTraces(), 1)
	td := next.spans.AllTraces()[0]
	assert.Equal(t, 6, td.SpanCount())
	_, changed := td.ResourceSpans().At(0).Resource().Attributes().Get("changed")
	assert.False(t, changed)

	next.refuse(consumererror.NewPermanent(errors.New("not for me")))
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(strings.ReplaceAll(otherRequest, "task 7", "task 17"), nil)))
	assert.Equal(t, 1, logged.FilterMessageSnippet("for good").Len())
	next.refuse(nil)
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(strings.ReplaceAll(otherRequest, "task 7", "task 27"), nil)))
	assert.Equal(t, 9, next.spans.SpanCount(), "those refused for good are gone")

	next.refuse(errors.New("full"))
	require.Error(t, c.ConsumeLogs(t.Context(), logs(strings.ReplaceAll(otherRequest, "task 7", "task 37"), nil)))
	next.refuse(nil)
	require.NoError(t, c.Shutdown(t.Context()))
	assert.Equal(t, 12, next.spans.SpanCount(), "the last are sent at shutdown")
}

func TestConnector_SpansThatWaitAreBounded(t *testing.T) {
	set, logged := settings()
	next := &refusing{err: errors.New("full")}
	c := startTraces(t, newDefaultConfig(), set, next)
	var b strings.Builder
	for i := range maxPending/3 + 1 {
		b.WriteString(strings.ReplaceAll(oneRequest, "task 0", "task "+pcommon.NewValueInt(int64(i)).AsString()) + "\n")
	}
	require.Error(t, c.ConsumeLogs(t.Context(), logs(b.String(), nil)))
	assert.Zero(t, c.pending.count())
	assert.Equal(t, 1, logged.FilterMessageSnippet("too long").Len())
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestConnector_ReadsTheBodiesOfItsSources(t *testing.T) {
	for name, set := range map[string]func(pcommon.Value, string){
		"bytes": func(v pcommon.Value, s string) { v.SetEmptyBytes().FromRaw([]byte(s)) },
		"journald": func(v pcommon.Value, s string) {
			v.SetEmptyMap().PutStr("MESSAGE", s)
			v.Map().PutStr("_SYSTEMD_UNIT", "llama.service")
		},
		"docker":   func(v pcommon.Value, s string) { v.SetEmptyMap().PutStr("log", s+"\n") },
		"message":  func(v pcommon.Value, s string) { v.SetEmptyMap().PutStr("message", s) },
		"a string": func(v pcommon.Value, s string) { v.SetStr(s) },
	} {
		t.Run(name, func(t *testing.T) {
			ld := logs(oneRequest, nil)
			for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
				set(r.Body(), r.Body().Str())
			}
			assert.EqualValues(t, 1, completed(metricsOf(t, newDefaultConfig(), ld)))
		})
	}
	ld := logs("x", nil)
	ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetInt(5)
	assert.Zero(t, tracesOf(t, newDefaultConfig(), ld).SpanCount())
}

func TestConnector_UnitsOfAJournalAreServers(t *testing.T) {
	ld := plog.NewLogs()
	for _, unit := range []string{"a.service", "b.service"} {
		add(ld, oneRequest, nil)
		for _, r := range ld.ResourceLogs().At(ld.ResourceLogs().Len() - 1).ScopeLogs().At(0).LogRecords().All() {
			line := r.Body().Str()
			r.Body().SetEmptyMap().PutStr("MESSAGE", line)
			r.Body().Map().PutStr("_SYSTEMD_UNIT", unit)
		}
	}
	assert.EqualValues(t, 2, completed(metricsOf(t, newDefaultConfig(), ld)))
}

func TestConnector_SourcesInOneBatchAreFollowedApart(t *testing.T) {
	ld := plog.NewLogs()
	one, other := strings.Split(oneRequest, "\n"), strings.Split(otherRequest, "\n")
	for i := range one { // by turns, each with a request of task 0
		add(ld, one[i], map[string]any{"service.instance.id": "a"})
		add(ld, strings.ReplaceAll(other[i], "task 7", "task 0"), map[string]any{"service.instance.id": "b"})
	}
	md := metricsOf(t, newDefaultConfig(), ld)
	assert.Equal(t, 2, md.ResourceMetrics().Len())
	assert.EqualValues(t, 2, completed(md))
	assert.Equal(t, 6, tracesOf(t, newDefaultConfig(), ld).SpanCount())
}

func TestConnector_SourcesAreBounded(t *testing.T) {
	set, _ := settings()
	c := startMetrics(t, newDefaultConfig(), set, consumertest.NewNop())
	for batch := range 3 {
		ld := plog.NewLogs()
		for i := range maxSources {
			add(ld, oneRequest, map[string]any{"n": batch*maxSources + i})
		}
		require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	}
	assert.Len(t, c.sources, maxSources)
	assert.LessOrEqual(t, len(c.changed), maxSources)
	assert.Empty(t, c.gone, "without storage there is nothing to delete")
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestConnector_SilentServersExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, _ := settings()
		sink := new(consumertest.MetricsSink)
		cfg := newDefaultConfig()
		cfg.MetricsExpiration = time.Hour
		c := startMetrics(t, cfg, set, sink)
		ld := logs(oneRequest, nil)
		for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			r.SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-48 * time.Hour)))
		}
		require.NoError(t, c.ConsumeLogs(t.Context(), ld))
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		assert.Len(t, sink.AllMetrics(), 2, "a history is as good as news")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.Empty(t, c.sources)
		n := len(sink.AllMetrics())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Len(t, sink.AllMetrics(), n)
		require.NoError(t, c.ConsumeLogs(t.Context(), logs(otherRequest, nil)))
		began := pcommon.NewTimestampFromTime(time.Now())
		require.NoError(t, c.Shutdown(t.Context()))
		m, _ := points.Metric(sink.AllMetrics()[len(sink.AllMetrics())-1], "llamacpp.requests")
		assert.Equal(t, began, m.Sum().DataPoints().At(0).StartTimestamp(), "its counts begin anew")
	})
}

func TestConnector_WhatIsStrangeIsLoggedOnce(t *testing.T) {
	set, logged := settings()
	c := startMetrics(t, newDefaultConfig(), set, consumertest.NewNop())
	for range 5 {
		require.NoError(t, c.ConsumeLogs(t.Context(), logs(strings.Repeat("GET / 200\n", strangeRecords), map[string]any{"host.name": "web"})))
		require.NoError(t, c.ConsumeLogs(t.Context(), logs("0.00.000.1 I srv  llama_server: initializing ...\n0.00.022.571 I srv  llama_server: listening on http://127.0.0.1:19041\n", nil)))
		require.NoError(t, c.ConsumeLogs(t.Context(), logs("0.00.022.571 I srv  llama_server: listening on http://127.0.0.1:8080\n", map[string]any{"host.name": "same"})))
		require.NoError(t, c.ConsumeLogs(t.Context(), logs("0.00.022.571 I srv  llama_server: listening on http://127.0.0.1:8080\n", map[string]any{"service.instance.id": "pod"})))
	}
	assert.Equal(t, 1, logged.FilterMessageSnippet("no line of these logs").Len())
	assert.Equal(t, 1, logged.FilterMessageSnippet("another port").Len())
	assert.Equal(t, 2, logged.Len())

	for i := range 2 * manyFiles {
		ld := logs(oneRequest, map[string]any{"host.name": "two"})
		for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			r.Attributes().PutStr("log.file.path", []string{"/nowhere/a.log", "/nowhere/b.log"}[i%2])
		}
		require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	}
	assert.Equal(t, 1, logged.FilterMessageSnippet("several files").Len())
	require.NoError(t, c.Shutdown(t.Context()))
}

func TestConnector_TakesLogsFromSeveralGoroutines(t *testing.T) {
	set, _ := settings()
	cfg := newDefaultConfig()
	cfg.MetricsFlushInterval = time.Millisecond
	sink := new(consumertest.MetricsSink)
	m, tr := startMetrics(t, cfg, set, sink), startTraces(t, cfg, set, consumertest.NewNop())
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for task := range 50 {
				n := pcommon.NewValueInt(int64(task)).AsString()
				ld := logs(strings.ReplaceAll(oneRequest, "task 0", "task "+n), map[string]any{"service.instance.id": string(rune('a' + i))})
				assert.NoError(t, m.ConsumeLogs(t.Context(), ld))
				assert.NoError(t, tr.ConsumeLogs(t.Context(), ld))
			}
		})
	}
	all.Wait()
	require.NoError(t, m.Shutdown(t.Context()))
	require.NoError(t, tr.Shutdown(t.Context()))
	require.NoError(t, m.Shutdown(t.Context()), "twice does no harm")
	assert.EqualValues(t, 200, completed(sink.AllMetrics()[len(sink.AllMetrics())-1]))
}

func TestConnector_RotationsAreNotSeveralFilesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, logged := settings()
		cfg := newDefaultConfig()
		cfg.MetricsFlushInterval = time.Hour
		c := startMetrics(t, cfg, set, consumertest.NewNop())
		for i := range 2 * manyFiles {
			time.Sleep(2 * turnTime)
			ld := logs(oneRequest, nil)
			for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
				r.Attributes().PutStr("log.file.path", []string{"/nowhere/a.log", "/nowhere/a.log.1"}[i%2])
			}
			require.NoError(t, c.ConsumeLogs(t.Context(), ld))
		}
		assert.Zero(t, logged.Len())
		require.NoError(t, c.Shutdown(t.Context()))
	})
}
