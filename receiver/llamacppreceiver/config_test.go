// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"
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

func TestConfig_EmptyRunsEverything(t *testing.T) {
	cfg := load(t, "llamacpp")
	assert.Equal(t, "http://localhost:8080", cfg.ClientConfig.Endpoint)
	assert.Equal(t, 10*time.Second, cfg.ClientConfig.Timeout)
	require.True(t, cfg.Scrapers.Server.HasValue())
	require.True(t, cfg.Scrapers.Slots.HasValue())
	require.True(t, cfg.Scrapers.GPU.HasValue())
	assert.Equal(t, 2*time.Second, cfg.Scrapers.GPU.Get().ControllerConfig.CollectionInterval)
	assert.Equal(t, time.Second, cfg.Scrapers.Server.Get().ControllerConfig.CollectionInterval)
	assert.Equal(t, 500*time.Millisecond, cfg.Scrapers.Slots.Get().ControllerConfig.CollectionInterval)
	assert.Equal(t, slotsscraper.PollActive, cfg.Scrapers.Slots.Get().Poll)
}

func TestConfig_EverySettingIsRead(t *testing.T) {
	cfg := load(t, "llamacpp/all")
	assert.Equal(t, "https://gpu-1:8443/llama", cfg.ClientConfig.Endpoint)
	assert.EqualValues(t, "secret", cfg.APIKey)
	assert.NotContains(t, cfg.APIKey.String(), "secret")
	assert.EqualValues(t, 1000000, cfg.MaxResponseSize)
	assert.Equal(t, "chat", cfg.ServiceName)
	assert.False(t, cfg.ForwardUnknown)
	assert.True(t, cfg.ResourceAttributes.LlamacppModelPath.Enabled)
	assert.True(t, cfg.ResourceAttributes.LlamacppModelName.Enabled)
	server, slots := cfg.Scrapers.Server.Get(), cfg.Scrapers.Slots.Get()
	assert.Equal(t, 5*time.Second, server.ControllerConfig.CollectionInterval)
	assert.False(t, server.MetricsBuilderConfig.Metrics.LlamacppServerResponseDuration.Enabled)
	assert.True(t, server.MetricsBuilderConfig.Metrics.LlamacppServerStatus.Enabled)
	assert.Equal(t, slotsscraper.PollAlways, slots.Poll)
	assert.True(t, slots.Metrics.LlamacppSlotTokensDecoded.Enabled)
	assert.False(t, slots.Metrics.RequestDuration.Enabled)
	assert.True(t, slots.Metrics.RequestPromptDuration.Enabled)
	gpus := cfg.Scrapers.GPU.Get()
	assert.Equal(t, 10*time.Second, gpus.ControllerConfig.CollectionInterval)
	assert.Equal(t, gpuscraper.Devices{0, "GPU-8f5c2e6a-0000-0000-0000-000000000000"}, gpus.Devices)
	assert.True(t, gpus.MetricsBuilderConfig.Metrics.NvidiaGpuProcessMemoryUsage.Enabled)
	assert.False(t, gpus.MetricsBuilderConfig.Metrics.HwFanSpeedRatio.Enabled)
}

func TestConfig_LeavingAScraperOutTurnsItOff(t *testing.T) {
	cfg := load(t, "llamacpp/server_only")
	assert.True(t, cfg.Scrapers.Server.HasValue())
	assert.False(t, cfg.Scrapers.Slots.HasValue())
	assert.False(t, cfg.Scrapers.GPU.HasValue())
	cfg = load(t, "llamacpp/slots_only")
	assert.False(t, cfg.Scrapers.Server.HasValue())
	assert.True(t, cfg.Scrapers.Slots.HasValue())
}

func TestConfig_GPUsAloneNeedNoEndpoint(t *testing.T) {
	cfg := load(t, "llamacpp/gpu_only")
	assert.Empty(t, cfg.ClientConfig.Endpoint)
	assert.False(t, cfg.Scrapers.Server.HasValue())
	assert.False(t, cfg.Scrapers.Slots.HasValue())
	require.True(t, cfg.Scrapers.GPU.HasValue())
	assert.Equal(t, 2*time.Second, cfg.Scrapers.GPU.Get().ControllerConfig.CollectionInterval)
	cfg = load(t, "llamacpp/gpu_of_server")
	assert.Equal(t, "http://localhost:8081", cfg.ClientConfig.Endpoint)
}

func TestConfig_WrongSettingsNameTheCure(t *testing.T) {
	type m = map[string]any
	for want, in := range map[string]m{
		`endpoint: scheme "localhost": want http://host:port`: {"endpoint": "localhost:8080"},
		"endpoint is empty":                                                  {"endpoint": ""},
		"timeout: must be positive":                                          {"timeout": "0s"},
		"compression: not supported":                                         {"compression": "gzip"},
		"max_response_size: must be positive":                                {"max_response_size": 0},
		"api_key and auth: both would set":                                   {"api_key": "k", "auth": m{"authenticator": "bearertokenauth"}},
		"api_key and headers: both would set":                                {"api_key": "k", "headers": m{"authorization": "x"}},
		"api_key: has a line break":                                          {"api_key": "k\n"},
		"service_name: must not be empty":                                    {"service_name": ""},
		"scrapers: names none":                                               {"scrapers": m{}},
		`scrapers::gpu::devices: "0:a": want a GPU's index from 0`:           {"scrapers": m{"gpu": m{"devices": []any{"0:a"}}}},
		`scrapers::gpu::report: "never": want "once", or "always"`:           {"scrapers": m{"gpu": m{"report": "never"}}},
		`scrapers::slots::poll: "sometimes": want "active" or "always"`:      {"scrapers": m{"slots": m{"poll": "sometimes"}}},
		`"collection_interval": requires positive value`:                     {"scrapers": m{"server": m{"collection_interval": "0s"}}},
		"scrapers::server::collection_interval: 5ns: has it a unit? e.g. 5s": {"scrapers": m{"server": m{"collection_interval": 5}}},
		"scrapers::gpus: unknown setting: did you mean gpu?":                 {"scrapers": m{"gpus": m{}}},
		"api_kye: unknown setting: did you mean api_key?":                    {"api_kye": "k"},
		"scrapers::slots::metrics::llamacpp.slot.tokens: unknown setting: did you mean llamacpp.slot.tokens.decoded,": {"scrapers": m{"slots": m{"metrics": m{"llamacpp.slot.tokens": m{"enabled": true}}}}},
	} {
		t.Run(want, func(t *testing.T) {
			cfg := newDefaultConfig()
			err := confmap.NewFromStringMap(in).Unmarshal(cfg)
			if err == nil {
				err = confmap.Validate(cfg)
			}
			assert.ErrorContains(t, err, want)
		})
	}
}

func TestConfig_EveryWrongSettingIsExplained(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
	said, err := os.ReadFile(filepath.Join("testdata", "wrong.txt"))
	require.NoError(t, err)
	for line := range strings.Lines(string(said)) {
		if strings.HasPrefix(line, "! ") {
			assert.NotContains(t, line, "secret")
		}
	}
}

// A configuration that the Collector prints is one that it takes.
func TestConfig_DefaultsAreKnownSettings(t *testing.T) {
	conf := confmap.New()
	require.NoError(t, conf.Marshal(settings(*newDefaultConfig())))
	require.NoError(t, configcheck.Section(conf, newDefaultConfig()))
}
