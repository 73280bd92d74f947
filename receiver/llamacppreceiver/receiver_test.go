// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// wait is how long a test waits for what must come, on a loaded machine.
const wait = 20 * time.Second

// sink keeps the last point of each series, and checks every one.
type sink struct {
	t     *testing.T
	check func(name string, value int64) // of every point of an int sum

	mu     sync.Mutex
	points map[string]pmetric.NumberDataPoint
	counts map[string]int
	steps  map[string]int64 // sum of the increases of each monotonic sum, restarts included
	texts  strings.Builder  // every attribute and name seen
}

func newSink(t *testing.T) *sink {
	return &sink{t: t, points: map[string]pmetric.NumberDataPoint{}, counts: map[string]int{}, steps: map[string]int64{}}
}

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for rm, m := range points.Metrics(md) {
		instance, _ := rm.Resource().Attributes().Get("service.instance.id")
		s.note(rm.Resource().Attributes())
		for _, p := range points.Numbers(m).All() {
			s.take(instance.Str(), m, p)
		}
	}
	return nil
}

func (s *sink) take(instance string, m pmetric.Metric, p pmetric.NumberDataPoint) {
	key := m.Name()
	s.note(p.Attributes())
	for _, v := range p.Attributes().All() {
		key += " " + v.AsString()
	}
	if m.Type() == pmetric.MetricTypeSum && m.Sum().IsMonotonic() && p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		assert.LessOrEqual(s.t, p.StartTimestamp(), p.Timestamp(), key)
		step := p.IntValue()
		if last, ok := s.points[instance+" "+key]; ok {
			assert.GreaterOrEqual(s.t, p.StartTimestamp(), last.StartTimestamp(), "%s starts before itself", key)
			if last.StartTimestamp() == p.StartTimestamp() {
				step -= last.IntValue()
				assert.GreaterOrEqual(s.t, step, int64(0), "%s went back", key)
			} else {
				assert.GreaterOrEqual(s.t, p.StartTimestamp(), last.Timestamp()-pcommon.Timestamp(time.Second), "%s restarted long ago", key)
			}
		}
		s.steps[key] += step
		if s.check != nil {
			s.check(m.Name(), s.steps[key])
		}
	}
	kept := pmetric.NewNumberDataPoint()
	p.CopyTo(kept)
	s.points[instance+" "+key] = kept
	s.counts[key]++
}

func (s *sink) note(m pcommon.Map) {
	for k, v := range m.All() {
		s.texts.WriteString(k + "=" + v.AsString() + "\n")
	}
}

// value returns the last value of a series: a name and the values of its
// attributes, after the server's instance.
func (s *sink) value(instance, key string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.points[instance+" "+key]
	switch {
	case !ok:
		return -1
	case p.ValueType() == pmetric.NumberDataPointValueTypeInt:
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

// seen is the text of all attributes so far.
func (s *sink) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.texts.String()
}

func (s *sink) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[key]
}

// run starts a receiver with clocks ten times as fast as the default ones.
func run(t *testing.T, to consumer.Metrics, change func(*Config)) (instance string, logs *observer.ObservedLogs) {
	t.Helper()
	cfg := newDefaultConfig()
	cfg.Scrapers.Server.Get().ControllerConfig.CollectionInterval = 100 * time.Millisecond
	cfg.Scrapers.Slots.Get().ControllerConfig.CollectionInterval = 50 * time.Millisecond
	cfg.Scrapers.GPU = configoptional.None[gpuscraper.Config]() // whatever this machine has
	change(cfg)
	require.NoError(t, cfg.Validate())
	core, logs := observer.New(zapcore.InfoLevel)
	set := receivertest.NewNopSettings(NewFactory().Type())
	set.Logger = zap.New(core)
	r, err := NewFactory().CreateMetrics(t.Context(), set, cfg, to)
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { assert.NoError(t, r.Shutdown(context.Background())) })
	e, err := endpoint.Parse(cfg.ClientConfig.Endpoint)
	require.NoError(t, err)
	return e.Instance, logs
}

func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, wait, 5*time.Millisecond, message)
}

const (
	predicted = "llamacpp.tokens.predicted"
	decoded   = "llamacpp.slots.tokens.decoded"
	processed = "llamacpp.slots.tokens.processed"
)

// Random requests, long and short, more than slots, cancelled ones, a restart:
// at no time is a live counter ahead of what the server has truly done, nothing
// is counted twice, and when all is quiet the counters are the server's own.
func TestReceiver_LiveCountersAreTrue(t *testing.T) {
	for _, build := range []llamasim.Build{llamasim.Current, llamasim.Old, llamasim.Future} {
		t.Run(build.String(), func(t *testing.T) {
			sim := llamasim.Start(t, llamasim.Options{Build: build, TokensPerSecond: 500, PromptTokensPerSecond: 20000, BatchTokens: 64})
			s := newSink(t)
			s.check = func(name string, total int64) {
				switch name {
				case decoded:
					assert.LessOrEqual(t, total, sim.PastDecoded()+sim.Decoded(), "ahead of the server")
				case processed:
				}
			}
			instance, _ := run(t, s, func(c *Config) { c.ClientConfig.Endpoint = sim.URL() })
			eventually(t, func() bool { return s.value(instance, decoded) == 0 }, "idle server")

			load := make(chan struct{})
			ctx, stop := context.WithCancel(t.Context())
			go func() { defer close(load); requests(ctx, sim.URL()) }()
			eventually(t, func() bool { return s.value(instance, decoded) > 1000 }, "counts while requests run")
			sim.Restart()
			eventually(t, func() bool {
				v := s.value(instance, decoded)
				return v > 0 && v <= float64(sim.Decoded())
			}, "counts from zero after the restart")
			eventually(t, func() bool { return s.value(instance, decoded) > 1000 }, "and goes on")
			stop()
			<-load
			eventually(t, func() bool { return sim.Processing() == 0 && sim.Deferred() == 0 }, "requests end")
			eventually(t, func() bool {
				return s.value(instance, decoded) == float64(sim.Predicted()) && s.value(instance, predicted) == float64(sim.Predicted())
			}, "equal when idle")
			eventually(t, func() bool { return s.value(instance, processed) == float64(sim.PromptProcessed()) }, "prompts as well")
		})
	}
}

func TestReceiver_OneConnectionServesBothClocks(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	s := newSink(t)
	instance, _ := run(t, s, func(c *Config) {
		c.ClientConfig.Endpoint = sim.URL()
		c.Scrapers.Slots.Get().Poll = "always"
	})
	eventually(t, func() bool { return s.count(decoded) > 60 }, "scrapes")
	assert.InDelta(t, 4, s.value(instance, "llamacpp.slots idle"), 0)
	_, opened := sim.Conns()
	answers := sim.Hits("/metrics") + sim.Hits("/slots") + sim.Hits("/props")
	assert.LessOrEqual(t, opened, 2+answers/100*2, "the server closes after 100 answers")
}

func TestReceiver_AnotherServersTroubleIsNotNoticed(t *testing.T) {
	sick, well := llamasim.Start(t, llamasim.Options{}), llamasim.Start(t, llamasim.Options{})
	s := newSink(t)
	run(t, newSink(t), func(c *Config) { c.ClientConfig.Endpoint = sick.URL() })
	instance, logs := run(t, s, func(c *Config) { c.ClientConfig.Endpoint = well.URL() })
	eventually(t, func() bool { return s.value(instance, "llamacpp.server.status ok") == 1 }, "ok")
	for _, fault := range []llamasim.Fault{llamasim.HangConnect, llamasim.Refuse, llamasim.Huge(5)} {
		sick.SetFault("", fault)
		before := s.count(predicted)
		eventually(t, func() bool { return s.count(predicted) >= before+10 }, "goes on")
		sick.ClearFault("")
	}
	assert.Equal(t, 1, logs.Len(), "one line, of the start: %v", logs.All())
}

func TestReceiver_HangingMetricsDoNotDelayTheSlots(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	sim.AddLoad(llamasim.Load{Concurrency: 2, PromptTokens: 10, MaxTokens: 100})
	s := newSink(t)
	instance, _ := run(t, s, func(c *Config) { c.ClientConfig.Endpoint = sim.URL() })
	eventually(t, func() bool { return s.value(instance, "llamacpp.slots generating") > 0 }, "busy")
	sim.SetFault("/metrics", llamasim.Delay(time.Hour))
	before := sim.Hits("/slots")
	eventually(t, func() bool { return sim.Hits("/slots") >= before+20 }, "slots are read all the same")
	assert.InDelta(t, 1, s.value(instance, "llamacpp.server.status ok"), 0)
}

func TestReceiver_KeyPrefixAndTLS(t *testing.T) {
	sim := llamasim.New(llamasim.Options{APIKey: "secret", Prefix: "/llama"})
	t.Cleanup(sim.Close)
	srv := httptest.NewTLSServer(sim)
	t.Cleanup(srv.Close)
	s := newSink(t)
	instance, logs := run(t, s, func(c *Config) {
		c.ClientConfig.Endpoint = srv.URL + "/llama/"
		c.ClientConfig.TLS.InsecureSkipVerify = true
		c.APIKey = "secret"
	})
	eventually(t, func() bool { return s.value(instance, "llamacpp.server.status ok") == 1 }, "ok")
	assert.True(t, strings.HasSuffix(instance, "/llama"), instance)
	assert.NotContains(t, s.seen(), "secret")
	for _, e := range logs.All() {
		assert.NotContains(t, e.Message+fields(e), "secret")
	}
}

func TestReceiver_WrongKeyIsUnauthorizedAndLoggedOnce(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{APIKey: "right"})
	s := newSink(t)
	instance, logs := run(t, s, func(c *Config) {
		c.ClientConfig.Endpoint = sim.URL()
		c.APIKey = "wrong-one"
	})
	eventually(t, func() bool { return s.count("llamacpp.server.status ok") > 5 }, "scrapes")
	assert.InDelta(t, 1, s.value(instance, "llamacpp.server.status unauthorized"), 0)
	require.Equal(t, 1, logs.Len())
	assert.Contains(t, fields(logs.All()[0]), "401: set api_key")
	assert.NotContains(t, fields(logs.All()[0]), "wrong-one")
}

func TestReceiver_UsersTextIsNeverEmitted(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{SlotsDebug: true})
	s := newSink(t)
	instance, logs := run(t, s, func(c *Config) {
		c.ClientConfig.Endpoint = sim.URL()
		c.Scrapers.Slots.Get().Poll = "always"
		c.ResourceAttributes.LlamacppModelPath.Enabled = true
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); request(ctx, sim.URL(), "my private words", 300) }()
	eventually(t, func() bool { return s.value(instance, "llamacpp.slots generating") > 0 }, "busy")
	sim.SetFault("/slots", llamasim.Garbage)
	eventually(t, func() bool { return logs.FilterMessage("cannot read /slots").Len() > 0 }, "complains")
	stop()
	<-done
	for _, private := range []string{"private", "assistant", "{{"} {
		assert.NotContains(t, s.seen(), private)
		for _, e := range logs.All() {
			assert.NotContains(t, e.Message+fields(e), private)
		}
	}
}

func TestReceiver_ShutdownIsNoOutage(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	s := newSink(t)
	cfg := newDefaultConfig()
	cfg.ClientConfig.Endpoint = sim.URL()
	cfg.Scrapers.Server.Get().ControllerConfig.CollectionInterval = time.Millisecond
	r := newReceiver(cfg, receivertest.NewNopSettings(NewFactory().Type()), s)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	eventually(t, func() bool { return s.count(predicted) > 10 }, "scrapes")
	sim.SetFault("", llamasim.HangConnect)
	time.Sleep(10 * time.Millisecond) // a scrape hangs now
	began := time.Now()
	require.NoError(t, r.Shutdown(t.Context()))
	assert.Less(t, time.Since(began), wait/2, "does not wait for the timeout")
	for _, p := range s.points {
		if v, ok := p.Attributes().Get("llamacpp.server.state"); ok && v.Str() == "unreachable" {
			assert.Zero(t, p.IntValue())
		}
	}
}

func fields(e observer.LoggedEntry) string {
	var b strings.Builder
	for k, v := range e.ContextMap() {
		b.WriteString(k + "=")
		if s, ok := v.(string); ok {
			b.WriteString(s)
		}
		b.WriteString(" ")
	}
	return b.String()
}
