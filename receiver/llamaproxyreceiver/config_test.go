// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/llamatelemetry/otelcol-llamacpp/test/wrongconfig"
)

func load(t *testing.T, id string) *Config {
	t.Helper()
	all, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := all.Sub(id)
	require.NoError(t, err)
	cfg := newDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg
}

func TestConfig_EmptyIsAProxyOfTheDefaultServer(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(NewFactory().CreateDefaultConfig()))
	cfg := load(t, "llamaproxy")
	assert.Equal(t, "localhost:9467", cfg.ServerConfig.NetAddr.Endpoint)
	assert.Equal(t, "http://localhost:8080", cfg.Upstream.Endpoint)
	assert.Equal(t, "llama-server", cfg.ServiceName)
	assert.Zero(t, cfg.Upstream.Timeout, "prompts may take any time")
	assert.Zero(t, cfg.ServerConfig.WriteTimeout, "and so may answers")
	assert.True(t, cfg.PreserveHost)
	assert.False(t, cfg.ForwardedHeaders)
	assert.False(t, cfg.Clients.HasValue())
	assert.False(t, cfg.Histogram.Exponential.HasValue())
	assert.Equal(t, 30*time.Second, cfg.DrainTimeout)
	for _, d := range distributions {
		assert.True(t, d.enabled(&cfg.Metrics), d.name)
	}
}

// So that a variable that is not set in the environment switches it off.
func TestConfig_EndpointWithoutAValueSwitchesItOff(t *testing.T) {
	assert.Empty(t, load(t, "llamaproxy/off").ServerConfig.NetAddr.Endpoint)
}

func TestConfig_EverySettingIsRead(t *testing.T) {
	cfg := load(t, "llamaproxy/all")
	assert.Equal(t, "0.0.0.0:443", cfg.ServerConfig.NetAddr.Endpoint)
	assert.Equal(t, "key.pem", cfg.ServerConfig.TLS.Get().KeyFile)
	assert.EqualValues(t, 1_000_000, cfg.ServerConfig.MaxRequestBodySize)
	assert.Equal(t, time.Hour, cfg.ServerConfig.WriteTimeout)
	assert.Equal(t, "https://gpu-1:8443/llama", cfg.Upstream.Endpoint)
	assert.Equal(t, 2*time.Minute, cfg.Upstream.Timeout)
	assert.Equal(t, "ca.pem", cfg.Upstream.TLS.CAFile)
	assert.Equal(t, "chat-service", cfg.ServiceName)
	assert.False(t, cfg.PreserveHost)
	assert.True(t, cfg.ForwardedHeaders)
	assert.Equal(t, 5*time.Minute, cfg.DrainTimeout)
	assert.Equal(t, 50, cfg.AggregationCardinalityLimit)
	assert.EqualValues(t, "sk-b", cfg.Clients.Get().Names["bob"])
	assert.EqualValues(t, "salt", cfg.Clients.Get().HashSecret)
	assert.EqualValues(t, 80, cfg.Histogram.size())
	assert.False(t, cfg.Exemplars.Enabled)
	assert.False(t, cfg.Metrics.LlamacppProxyTokens.Enabled)
	assert.False(t, cfg.ResourceAttributes.ServerPort.Enabled)
	assert.Equal(t, 15*time.Second, cfg.MetricsFlushInterval)
	for _, d := range distributions {
		assert.False(t, d.enabled(&cfg.Metrics), d.name)
	}
}

func TestConfig_WrongSettings(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
}
