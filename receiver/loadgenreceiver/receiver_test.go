// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver/internal/metadata"
)

// generator is an extension that counts the attached consumers.
type generator struct {
	component.Component
	metrics, traces int
	sizes           []int32 // those asked for
}

func (g *generator) AttachMetrics(consumer.Metrics) func() {
	g.metrics++
	return func() { g.metrics-- }
}

func (g *generator) AttachExponential(c consumer.Metrics, maxSize int32) func() {
	g.sizes = append(g.sizes, maxSize)
	return g.AttachMetrics(c)
}

func (g *generator) AttachTraces(consumer.Traces) func() {
	g.traces++
	return func() { g.traces-- }
}

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

var (
	only  = component.NewID(metadata.Type)
	other = component.NewIDWithName(metadata.Type, "other")
	web   = component.MustNewID("zpages")
)

func TestReceiver_IsAttachedFromStartToShutdown(t *testing.T) {
	g := &generator{}
	h := host{only: g, web: struct{ component.Component }{}}
	f := NewFactory()
	m, err := f.CreateMetrics(t.Context(), receivertest.NewNopSettings(metadata.Type), f.CreateDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	tr, err := f.CreateTraces(t.Context(), receivertest.NewNopSettings(metadata.Type), f.CreateDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), h))
	assert.Equal(t, []int{1, 0}, []int{g.metrics, g.traces})
	require.NoError(t, tr.Start(t.Context(), h))
	assert.Equal(t, []int{1, 1}, []int{g.metrics, g.traces})
	require.NoError(t, m.Shutdown(t.Context()))
	require.NoError(t, tr.Shutdown(t.Context()))
	assert.Equal(t, []int{0, 0}, []int{g.metrics, g.traces})
}

func TestReceiver_AsksForItsOwnKindOfHistograms(t *testing.T) {
	g := &generator{}
	f := NewFactory()
	cfg := newDefaultConfig()
	cfg.Histogram.Exponential = configoptional.Some(ExponentialConfig{MaxSize: 80})
	m, err := f.CreateMetrics(t.Context(), receivertest.NewNopSettings(metadata.Type), cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), host{only: g}))
	assert.Equal(t, []int32{80}, g.sizes)
	require.NoError(t, m.Shutdown(t.Context()))
	assert.Zero(t, g.metrics)
}

func TestReceiver_FindsTheExtensionThatIsMeantOrSaysHow(t *testing.T) {
	a, b := &generator{}, &generator{}
	for name, test := range map[string]struct {
		extension *component.ID
		host      component.Host
		want      source
		wrong     string
	}{
		"the only one":   {nil, host{only: a, web: nil}, a, ""},
		"named":          {&other, host{only: a, other: b}, b, ""},
		"none":           {nil, host{web: nil}, nil, "no extension of type loadgen is running: configure one under extensions"},
		"two":            {nil, host{only: a, other: b}, nil, "2 extensions of type loadgen are running: set extension to one of loadgen, loadgen/other"},
		"not there":      {&other, host{only: a}, nil, "extension: loadgen/other is not running: configure it"},
		"something else": {&web, host{only: a, web: struct{ component.Component }{}}, nil, "extension: zpages generates no load: want one of type loadgen"},
		"no extensions":  {nil, componenttest.NewNopHost(), nil, "no extension of type loadgen"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Extension: test.extension}
			got, err := c.find(test.host.GetExtensions())
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			assert.Same(t, test.want, got)
		})
	}
}
