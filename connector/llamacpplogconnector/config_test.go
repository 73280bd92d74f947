// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

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

func load(t *testing.T, id string) (*Config, error) {
	t.Helper()
	all, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := all.Sub(id)
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	return cfg, confmap.Validate(cfg)
}

func TestConfig_EmptyFollowsTheDefaultServer(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(NewFactory().CreateDefaultConfig()))
	cfg, err := load(t, "llamacpplog")
	require.NoError(t, err)
	assert.Equal(t, "http://localhost:8080", cfg.Endpoint)
	assert.Equal(t, "llama-server", cfg.ServiceName)
	assert.Equal(t, "text_completion", cfg.Operation)
	assert.Equal(t, time.Second, cfg.MetricsFlushInterval)
	assert.Equal(t, 24*time.Hour, cfg.MetricsExpiration)
	assert.False(t, cfg.Histogram.Exponential.HasValue())
	assert.True(t, cfg.Exemplars.Enabled)
	assert.Nil(t, cfg.StorageID)
	for _, d := range distributions {
		assert.True(t, d.enabled(&cfg.Metrics), d.name)
	}
}

func TestConfig_EverySettingIsRead(t *testing.T) {
	cfg, err := load(t, "llamacpplog/all")
	require.NoError(t, err)
	assert.Equal(t, "https://gpu-1:8443/llama", cfg.Endpoint)
	assert.Equal(t, "chat-service", cfg.ServiceName)
	assert.Equal(t, "qwen", cfg.Model)
	assert.Equal(t, "chat", cfg.Operation)
	assert.Equal(t, 15*time.Second, cfg.MetricsFlushInterval)
	assert.Zero(t, cfg.MetricsExpiration)
	assert.EqualValues(t, 80, cfg.Histogram.Exponential.Get().MaxSize)
	assert.False(t, cfg.Exemplars.Enabled)
	assert.Equal(t, "file_storage/logs", cfg.StorageID.String())
	assert.False(t, cfg.ResourceAttributes.ServerPort.Enabled)
	assert.True(t, cfg.ResourceAttributes.ServerAddress.Enabled)
	assert.False(t, cfg.Metrics.LlamacppRequests.Enabled)
	for _, d := range distributions {
		assert.False(t, d.enabled(&cfg.Metrics), d.name)
	}
}

func TestConfig_ExponentialAloneHasItsDefaultSize(t *testing.T) {
	cfg, err := load(t, "llamacpplog/exponential")
	require.NoError(t, err)
	assert.EqualValues(t, 160, cfg.Histogram.Exponential.Get().MaxSize)
}

func TestConfig_SaysWhatIsWrong(t *testing.T) {
	for id, want := range map[string]string{
		"llamacpplog/endpoint":   `endpoint: scheme "localhost": want http://host:port`,
		"llamacpplog/service":    `service_name is empty: leave it out for "llama-server"`,
		"llamacpplog/operation":  `operation is empty: leave it out for "text_completion"`,
		"llamacpplog/interval":   "metrics_flush_interval: must be positive, e.g. 1s",
		"llamacpplog/expiration": "metrics_expiration: must not be negative; 0 is for ever",
		"llamacpplog/small":      "histogram::exponential::max_size: 1: want 2 to 16384",
		"llamacpplog/large":      "histogram::exponential::max_size: 16385: want 2 to 16384",
	} {
		_, err := load(t, id)
		assert.ErrorContains(t, err, want, id)
	}
	cfg := newDefaultConfig()
	cfg.Endpoint = "localhost"
	set, _ := settings()
	_, err := newMetricsConnector(cfg, set, nil)
	require.ErrorContains(t, err, "endpoint: ")
	_, err = newTracesConnector(cfg, set, nil)
	require.ErrorContains(t, err, "endpoint: ")
}

func TestConfig_EveryWrongSettingIsExplained(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
}
