// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package simreal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// emitted collects what a receiver makes of a server.
type emitted struct {
	mu     sync.Mutex
	shapes map[string]bool    // resource, kind, unit and attributes of each series
	values map[string]float64 // the last point of each series
	most   map[string]float64 // the largest
}

func (*emitted) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (e *emitted) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for rm, m := range points.Metrics(md) {
		if m.Name() == "llamacpp.server.response.duration" {
			continue // which endpoint is asked is a matter of timing
		}
		shape := fmt.Sprint(strings.Join(keys(rm.Resource().Attributes()), ","), " ", m.Name(), " ", m.Type(), " ", m.Unit())
		switch m.Type() {
		case pmetric.MetricTypeSum:
			e.take(fmt.Sprint(shape, " monotonic=", m.Sum().IsMonotonic()), m)
		case pmetric.MetricTypeGauge:
			e.take(shape, m)
		default:
			e.shapes[shape] = true
		}
	}
	return nil
}

func (e *emitted) take(shape string, m pmetric.Metric) {
	for _, p := range points.Numbers(m).All() {
		attributes := ""
		for _, v := range p.Attributes().All() {
			attributes += " " + v.AsString()
		}
		v := p.DoubleValue()
		if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
			v = float64(p.IntValue())
		}
		e.shapes[fmt.Sprint(shape, " ", p.ValueType(), attributes)] = true
		e.values[m.Name()+attributes] = v
		e.most[m.Name()+attributes] = max(e.most[m.Name()+attributes], v)
	}
}

func keys(m pcommon.Map) (names []string) {
	for k := range m.All() {
		names = append(names, k)
	}
	return names
}

// value returns the last value of a series, named with its attributes' values.
func (e *emitted) value(series string) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, ok := e.values[series]
	if !ok {
		return -1
	}
	return v
}

func watched(t *testing.T, url string) *emitted {
	t.Helper()
	e := &emitted{shapes: map[string]bool{}, values: map[string]float64{}, most: map[string]float64{}}
	f := llamacppreceiver.NewFactory()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{
		"endpoint": url,
		"scrapers": map[string]any{
			"server": map[string]any{"collection_interval": "100ms"},
			"slots": map[string]any{"collection_interval": "50ms", "metrics": map[string]any{
				"llamacpp.slot.context.usage":    map[string]any{"enabled": true},
				"llamacpp.slot.status":           map[string]any{"enabled": true},
				"llamacpp.slot.task":             map[string]any{"enabled": true},
				"llamacpp.slot.tokens.decoded":   map[string]any{"enabled": true},
				"llamacpp.slot.tokens.processed": map[string]any{"enabled": true},
				"llamacpp.slot.tokens.remaining": map[string]any{"enabled": true},
			}},
		},
	}).Unmarshal(cfg))
	r, err := f.CreateMetrics(t.Context(), receivertest.NewNopSettings(f.Type()), cfg, e)
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { assert.NoError(t, r.Shutdown(context.Background())) })
	return e
}

// The receiver makes the same metrics of both servers, with the same totals,
// when both get the same requests: idle, one, cached, more than slots, and one
// long enough to be seen in its slot.
func TestReceiverSeesTheSame(t *testing.T) {
	ctx := within(t)
	real := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow, Slots: 2, Context: 4096})
	_, simURL := startSim(t, llamasim.Options{Slots: 2, ContextPerSlot: 2048, TokensPerSecond: 150})
	seen := map[string]*emitted{"real": watched(t, real.URL()), "simulated": watched(t, simURL)}

	var wg sync.WaitGroup
	for name, url := range map[string]string{"real": real.URL(), "simulated": simURL} {
		e := seen[name]
		wg.Go(func() {
			await := func(what string, condition func() bool) {
				assert.Eventually(t, condition, 30*time.Second, 10*time.Millisecond, "%s: %s", name, what)
			}
			client := &llamatest.Client{BaseURL: url}
			complete := func(r llamatest.Request) {
				_, err := client.Complete(ctx, r)
				assert.NoError(t, err, name)
			}
			await("idle", func() bool { return e.value("llamacpp.slots idle") == 2 })

			one := llamatest.Request{Prompt: llamatest.Words(30, 1), MaxTokens: 8}
			complete(one)
			complete(one) // its prompt is cached
			var crowd sync.WaitGroup
			for seed := range uint64(5) {
				crowd.Go(func() { complete(llamatest.Request{Prompt: llamatest.Words(20, 10+seed), MaxTokens: 40, Stream: true}) })
			}
			await("queue", func() bool { return e.value("llamacpp.requests.deferred") > 0 })
			crowd.Wait()
			complete(llamatest.Request{Prompt: llamatest.Words(40, 99), MaxTokens: 150, Stream: true})
			await("idle again", func() bool {
				const all = 8 + 8 + 5*40 + 150
				return e.value("llamacpp.tokens.predicted") == all && e.value("llamacpp.slots.tokens.decoded") == all &&
					e.value("llamacpp.slots idle") == 2
			})
		})
	}
	wg.Wait()

	r, s := seen["real"], seen["simulated"]
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, r.shapes, s.shapes)
	for _, series := range []string{
		"llamacpp.tokens.predicted", "llamacpp.slots.tokens.decoded",
		"llamacpp.slots.limit", "llamacpp.context.limit", "llamacpp.sequence.tokens.max",
		"llamacpp.requests.processing", "llamacpp.requests.deferred", "llamacpp.server.status ok",
		"llamacpp.slots idle", "llamacpp.slots prompt", "llamacpp.slots generating", "llamacpp.context.usage",
		"llamacpp.speculative.drafts", "llamacpp.speculative.tokens accepted", "llamacpp.speculative.tokens rejected",
	} {
		require.Contains(t, r.values, series)
		assert.InDelta(t, r.values[series], s.values[series], 0, series)
	}
	// Which slot a request of a crowd gets, and so what it finds cached there, is
	// chance; what it needs is not.
	prompt := func(e *emitted) float64 {
		return e.values["llamacpp.tokens.prompt computed"] + e.values["llamacpp.tokens.prompt cached"]
	}
	assert.InDelta(t, prompt(r), prompt(s), 0)
	for _, series := range []string{"llamacpp.slots generating", "llamacpp.requests.processing", "llamacpp.requests.deferred"} {
		assert.Positive(t, r.most[series], series)
		assert.Positive(t, s.most[series], series)
	}
}
