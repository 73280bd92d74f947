// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// backend knows of each series whether it goes on, as a backend that honours
// NoRecordedValue does.
type backend struct {
	mu     sync.Mutex
	going  map[string]bool // by instance, name and attributes
	counts map[string]bool // those of counters
}

func newBackend() *backend {
	return &backend{going: map[string]bool{}, counts: map[string]bool{}}
}

func (*backend) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (b *backend) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, rm := range md.ResourceMetrics().All() {
		instance, _ := rm.Resource().Attributes().Get("service.instance.id")
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			points := pmetric.NewNumberDataPointSlice()
			counter := false
			switch m.Type() {
			case pmetric.MetricTypeGauge:
				points = m.Gauge().DataPoints()
			case pmetric.MetricTypeSum:
				points, counter = m.Sum().DataPoints(), m.Sum().IsMonotonic()
			default:
			}
			for _, p := range points.All() {
				key := instance.Str() + " " + m.Name()
				for _, v := range p.Attributes().All() {
					key += " " + v.AsString()
				}
				b.going[key] = !p.Flags().NoRecordedValue()
				b.counts[key] = counter
			}
		}
	}
	return nil
}

func (b *backend) goesOn(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.going[key]
}

// left are the series with a prefix that go on, other than counters.
func (b *backend) left(prefix string) (keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, going := range b.going {
		if going && !b.counts[key] && strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// now are series that speak of what a busy server is doing.
var now = []string{
	"llamacpp.requests.processing", "llamacpp.requests.deferred", "llamacpp.slots idle", "llamacpp.slots prompt", "llamacpp.slots generating",
	"llamacpp.context.usage", "llamacpp.context.utilization", "llamacpp.decode.busy_slots", "llamacpp.slots.limit", "llamacpp.context.limit",
}

func TestReceiver_WhatIsTrueNowEndsWhenTheServerDoes(t *testing.T) {
	for name, leave := range map[string]func(*llamasim.Server){
		"unreachable":            func(s *llamasim.Server) { s.SetFault("", llamasim.Refuse) },
		"unreachable, cut short": func(s *llamasim.Server) { s.SetFault("", llamasim.CloseEarly) },
		"error":                  func(s *llamasim.Server) { s.SetFault("", llamasim.HTML) },
		"unauthorized":           func(s *llamasim.Server) { s.SetFault("", llamasim.Status(http.StatusUnauthorized)) },
		"ok, but /metrics and /slots fail": func(s *llamasim.Server) {
			s.SetFault("/metrics", llamasim.Garbage)
			s.SetFault("/slots", llamasim.Garbage)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := llamasim.Start(t, llamasim.Options{})
			sim.AddLoad(llamasim.Load{Concurrency: 2, PromptTokens: 10, MaxTokens: 1000})
			b := newBackend()
			instance, _ := run(t, b, func(c *Config) {
				c.ClientConfig.Endpoint = sim.URL()
				c.Scrapers.Slots.Get().Metrics.LlamacppSlotTokensDecoded.Enabled = true
			})
			gauges := append([]string{"llamacpp.slot.tokens.decoded 0"}, now...)
			for _, key := range gauges {
				eventually(t, func() bool { return b.goesOn(instance + " " + key) }, key)
			}
			leave(sim)
			for _, key := range gauges {
				if strings.HasPrefix(name, "ok") && strings.HasSuffix(key, ".limit") {
					continue // of /props, which is read
				}
				eventually(t, func() bool { return !b.goesOn(instance + " " + key) }, key+" ends")
			}
			for _, key := range []string{predicted, decoded, "llamacpp.server.status ok", "llamacpp.server.status unreachable"} {
				assert.True(t, b.goesOn(instance+" "+key), "%s goes on", key)
			}

			sim.ClearFault("")
			sim.ClearFault("/metrics")
			sim.ClearFault("/slots")
			for _, key := range now {
				eventually(t, func() bool { return b.goesOn(instance + " " + key) }, key+" begins again")
			}
		})
	}
}

func TestReceiver_LoadingServerHoldsNothing(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{LoadTime: time.Hour})
	b := newBackend()
	instance, _ := run(t, b, func(c *Config) { c.ClientConfig.Endpoint = sim.URL() })
	eventually(t, func() bool { return b.goesOn(instance + " llamacpp.server.status loading") }, "loading")
	for _, key := range now {
		assert.False(t, b.goesOn(instance+" "+key), key)
	}
}

func TestReceiver_SleepingServerOfAnOlderBuildHoldsNothing(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{Build: llamasim.Old, SleepAfter: time.Hour})
	b := newBackend()
	instance, _ := run(t, b, func(c *Config) { c.ClientConfig.Endpoint = sim.URL() })
	eventually(t, func() bool { return b.goesOn(instance + " llamacpp.requests.processing") }, "ok")
	require.True(t, sim.Sleep())
	eventually(t, func() bool { return !b.goesOn(instance + " llamacpp.requests.processing") }, "ends")
	assert.True(t, sim.Sleeping())
}

func TestReceiver_NothingIsLeftOfAnUnloadedModel(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{Router: &llamasim.RouterOptions{Models: []string{"a"}, LoadTime: time.Millisecond}})
	b := newBackend()
	instance, _ := run(t, b, func(c *Config) { c.ClientConfig.Endpoint = sim.URL() })
	ask := func(what string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL()+"/models/"+what, strings.NewReader(`{"model":"a"}`))
		require.NoError(t, err)
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	ask("load")
	for _, key := range []string{"llamacpp.server.status ok", "llamacpp.requests.processing", "llamacpp.slots idle"} {
		eventually(t, func() bool { return b.goesOn(instance + "/a " + key) }, key)
	}
	ask("unload")
	eventually(t, func() bool { return len(b.left(instance+"/a ")) == 0 }, "all ends")
	assert.True(t, b.goesOn(instance+" llamacpp.models unloaded"))

	ask("load")
	eventually(t, func() bool { return b.goesOn(instance + "/a llamacpp.slots idle") }, "begins again")
	sim.SetFault("", llamasim.Refuse)
	eventually(t, func() bool { return len(b.left(instance+"/a ")) == 0 }, "nor when the router is gone")
	assert.False(t, b.goesOn(instance+" llamacpp.models unloaded"))
	assert.True(t, b.goesOn(instance+" llamacpp.server.status unreachable"))
}

func TestReceiver_SlotsGaugesEndWithItsRequest(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{TokensPerSecond: 100})
	b := newBackend()
	instance, _ := run(t, b, func(c *Config) {
		c.ClientConfig.Endpoint = sim.URL()
		c.Scrapers.Slots.Get().Poll = "always"
		c.Scrapers.Slots.Get().Metrics.LlamacppSlotContextUsage.Enabled = true
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); request(ctx, sim.URL(), "a prompt", 10000) }()
	eventually(t, func() bool { return len(b.left(instance+" llamacpp.slot.context.usage")) == 1 }, "a slot is busy")
	stop()
	<-done
	eventually(t, func() bool { return len(b.left(instance+" llamacpp.slot.context.usage")) == 0 }, "ends")
	assert.True(t, b.goesOn(instance+" llamacpp.slots idle"), "the rest goes on")
}

func TestReceiver_NothingGoesOnWhenItIsWatchedNoLonger(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	b := newBackend()
	cfg := newDefaultConfig()
	cfg.ClientConfig.Endpoint = sim.URL()
	cfg.Scrapers.GPU = configoptional.None[gpuscraper.Config]()
	r := newReceiver(cfg, receivertest.NewNopSettings(NewFactory().Type()), b)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	eventually(t, func() bool { return len(b.left("")) > 10 }, "scrapes")
	require.NoError(t, r.Shutdown(t.Context()))
	assert.Empty(t, b.left(""))
}

func TestReceiver_RefusedLastPointsAreLogged(t *testing.T) {
	sim := llamasim.Start(t, llamasim.Options{})
	cfg := newDefaultConfig()
	cfg.ClientConfig.Endpoint = sim.URL()
	cfg.Scrapers.GPU = configoptional.None[gpuscraper.Config]()
	set := receivertest.NewNopSettings(NewFactory().Type())
	core, logged := observer.New(zap.WarnLevel)
	set.Logger = zap.New(core)
	var scraped atomic.Bool
	full := errors.New("the queue is full")
	next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		if _, ok := points.Metric(md, "llamacpp.requests.processing"); ok { // there is something to end
			scraped.Store(true)
		}
		return full
	})
	require.NoError(t, err)
	r := newReceiver(cfg, set, next)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	eventually(t, scraped.Load, "a scrape")
	require.NoError(t, r.Shutdown(t.Context()), "a collector that is stopped would end with an error")
	refused := logged.FilterMessageSnippet("last points were refused")
	require.Positive(t, refused.Len())
	assert.Equal(t, full.Error(), refused.All()[0].ContextMap()["error"])
}
