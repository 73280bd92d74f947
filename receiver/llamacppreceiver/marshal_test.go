// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

func TestConfig_MarshalLeavesOutDefaults(t *testing.T) {
	for name, given := range map[string]map[string]any{
		"nothing":    {},
		"endpoint":   {"endpoint": "http://server:1"},
		"no slots":   {"scrapers": map[string]any{"server": map[string]any{"collection_interval": "2s"}}},
		"one metric": {"scrapers": map[string]any{"server": map[string]any{}, "slots": map[string]any{"metrics": map[string]any{"llamacpp.slots": map[string]any{"enabled": false}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newDefaultConfig()
			require.NoError(t, confmap.NewFromStringMap(given).Unmarshal(cfg))
			conf := confmap.New()
			require.NoError(t, conf.Marshal(map[string]any{"llamacpp": cfg}))
			sub, err := conf.Sub("llamacpp")
			require.NoError(t, err)
			assert.LessOrEqual(t, len(sub.AllKeys()), 40, "%v", sub.ToStringMap())
			again := newDefaultConfig()
			require.NoError(t, sub.Unmarshal(again))
			first, second := confmap.New(), confmap.New()
			require.NoError(t, first.Marshal(settings(*cfg)))
			require.NoError(t, second.Marshal(settings(*again)))
			assert.Equal(t, first.ToStringMap(), second.ToStringMap())
		})
	}
}
