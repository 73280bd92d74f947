// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/metadata"
)

func TestConfig_ProfilesHaveDefaults(t *testing.T) {
	cfg := configure(t, "profiles:\n  empty:\n  slow: {rate: 0.5}\n  closed: {users: 4}\n  cold: {temperature: {enabled: false}, prompts: {synthetic: {depth: 100}}}\n")
	require.NoError(t, cfg.Validate())
	assert.Equal(t, newDefaultProfile(), cfg.Profiles["empty"])
	assert.InDelta(t, 2, cfg.Profiles["empty"].Rate, 0)
	assert.InDelta(t, 0.5, cfg.Profiles["slow"].Rate, 0)
	assert.Equal(t, time.Minute, cfg.Profiles["slow"].Duration, "bounded")
	assert.Zero(t, cfg.Profiles["closed"].Rate, "users replace the default rate")
	cold := cfg.Profiles["cold"]
	assert.False(t, cold.Temperature.HasValue())
	assert.Equal(t, SyntheticConfig{Tokens: RangeConfig{512, 512}, Depth: 100}, *cold.Prompts.Synthetic.Get())
	assert.Equal(t, "localhost:9466", cfg.ServerConfig.NetAddr.Endpoint)
	assert.Equal(t, "http://localhost:8080", cfg.Target.ClientConfig.Endpoint)
}

func TestConfig_WrongSettingsAreNamedWithTheirCure(t *testing.T) {
	for text, want := range map[string]string{
		"end_point: a":                                              "end_point: unknown setting: did you mean endpoint?",
		"target: {apikey: k}":                                       "target::apikey: unknown setting: did you mean api_key?",
		"profiles: {a: {rat: 1}}":                                   "profiles::a::rat: unknown setting: did you mean rate?",
		"profiles: {a: {duration: 5}}":                              "profiles::a::duration: 5ns: has it a unit? e.g. 5s",
		"profiles: {a: {prompts: {text: [b]}}}":                     "profiles::a::prompts::text: unknown setting: did you mean texts?",
		"profiles: [a]":                                             "profiles: is a list: want a section",
		"endpoint: ''":                                              "endpoint is empty: leave it out for localhost:9466",
		"target: {endpoint: 'localhost:8080'}":                      "target::endpoint: scheme",
		"target: {endpoint: ''}":                                    "target::endpoint is empty: set it to the server's address",
		"target: {compression: gzip}":                               "target::compression: not supported",
		"target: {connect_timeout: -1s}":                            "target::timeout, connect_timeout or first_token_timeout is negative",
		"target: {api_key: k, auth: {authenticator: a}}":            "target::api_key and auth: both would set",
		"target: {api_key: k, headers: {authorization: a}}":         "target::api_key and headers: both would set",
		"provider: ''":                                              "provider is empty",
		"history: 0":                                                "history: 0: want 1 or more",
		"metrics_flush_interval: 1ms":                               "metrics_flush_interval: 1ms: want 10ms or more",
		"histogram: {exponential: {max_size: 1}}":                   "histogram::exponential::max_size: 1: want 2 to 16384",
		"limits: {rate: 0}":                                         "limits: rate of 0",
		"profiles: {a b: {}}":                                       "profiles::a b: want a name",
		"profiles: {a: {rate: 0}}":                                  "profiles::a: rate: rate of 0: want a number greater than 0",
		"profiles: {a: {rate: 1001}}":                               "profiles::a: rate: 1001: want at most 1000 requests a second, or raise limits::rate",
		"profiles: {a: {rate: 1, users: 1}}":                        "profiles::a: rate and users: an open loop has a rate",
		"profiles: {a: {users: 1001}}":                              "profiles::a: users: 1001: want 1 to 1000, or raise limits::users",
		"profiles: {a: {duration: 2h}}":                             "profiles::a: duration: 2h0m0s: want more than 0 and at most 1h0m0s, or raise limits::duration",
		"profiles: {a: {duration: 0s}}":                             "profiles::a: duration: 0s: want more than 0",
		"profiles: {a: {gaps: pareto}}":                             `profiles::a: gaps: "pareto": want constant, poisson or gamma`,
		"profiles: {a: {gaps: gamma, burstiness: 0}}":               "profiles::a: burstiness: 0: want a number greater than 0",
		"profiles: {a: {warm_up: 1m}}":                              "profiles::a: warm-up of 1m0s and tail of 0s leave nothing of 1m0s",
		"profiles: {a: {max_in_flight: 0}}":                         "profiles::a: 0 requests in flight: want 1 or more",
		"profiles: {a: {max_errors: 2}}":                            "profiles::a: share of errors of 2: want 0 to 1",
		"profiles: {a: {objective: fast}}":                          `profiles::a: objective "fast": want bounds on`,
		"profiles: {a: {api: chats}}":                               `profiles::a: api: endpoint "chats": want one of chat`,
		"profiles: {a: {max_tokens: {min: 9, max: 8}}}":             "profiles::a: max_tokens: 9 to 8",
		"profiles: {a: {temperature: {min: 1, max: 0}}}":            "profiles::a: temperature: 1 to 0",
		"profiles: {a: {prompts: {texts: [b], file: c}}}":           "profiles::a: prompts: texts, file and synthetic: keep one of them",
		"profiles: {a: {prompts: {synthetic: {depth: -1}}}}":        "profiles::a: prompts::synthetic: 512 to 512 tokens after -1",
		"profiles: {a: {prompts: {synthetic: {shared_prefix: 2}}}}": "profiles::a: prompts::synthetic::shared_prefix: 2: want 0 to 1",
	} {
		retrieved, err := confmap.NewRetrievedFromYAML([]byte(text))
		require.NoError(t, err, text)
		conf, err := retrieved.AsConf()
		require.NoError(t, err, text)
		cfg := newDefaultConfig()
		if err = conf.Unmarshal(cfg); err == nil {
			err = cfg.Validate()
		}
		assert.ErrorContains(t, err, want, text)
	}
}

// If a prompt file cannot be read, the collector does not start, instead of
// failing when the profile is run.
func TestStart_ReadsPromptFilesBeforeAnythingStarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prompts.jsonl")
	start := func() error {
		e := newExtension(configure(t, "endpoint: localhost:0\nprofiles: {a: {prompts: {file: "+file+"}}}"), extensiontest.NewNopSettings(metadata.Type))
		err := e.Start(t.Context(), componenttest.NewNopHost())
		require.NoError(t, e.Shutdown(t.Context()))
		return err
	}
	require.ErrorContains(t, start(), "profiles::a: prompts: open "+file)
	require.NoError(t, os.WriteFile(file, []byte(`{"promt": "a"}`), 0o600))
	require.ErrorContains(t, start(), file+":1: ")
	require.NoError(t, os.WriteFile(file, []byte(`{"prompt": "a"}`), 0o600))
	require.NoError(t, start())
}
