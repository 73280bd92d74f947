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
	"github.com/llamatelemetry/otelcol-llamacpp/test/wrongconfig"
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
		"profiles: {a: {turns: {min: 2}}}":                          "profiles::a: turns: 2 to 1",
		"profiles: {a: {turns: {max: 2}, api: embeddings}}":         "profiles::a: turns: embeddings have no answer",
		"profiles: {a: {think: 1s}}":                                "profiles::a: think: nobody waits for an answer here",
		"profiles: {a: {api: messages, prompts: {no_cache: true}}}": "profiles::a: prompts::no_cache: llama-server uses its cache",
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

// Each case is what a user might write, with what the extension says about it.
// UPDATE=1 go test -run WrongSettings ./loadgenextension writes what it says now.
func TestConfig_WrongSettingsSayWhatToWriteInstead(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
}

// due returns the first n times at which requests of a profile are due.
func due(t *testing.T, p ProfileConfig, n int) []time.Duration {
	t.Helper()
	pace, err := p.pacing(0, newDefaultConfig().Limits)
	require.NoError(t, err)
	var times []time.Duration
	for at := range pace.Dial.Times() {
		if times = append(times, at); len(times) == n {
			break
		}
	}
	return times
}

func TestProfile_RequestsAreDueAsItsScheduleSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "times.txt")
	require.NoError(t, os.WriteFile(file, []byte("0\n1\n1.5\n"), 0o600))
	profiles := configure(t, `
profiles:
  ramp: {ramp: {from: 0, to: 2, over: 1s}}
  steps: {steps: [{rate: 1, for: 2s}, {rate: 0, for: 3s}, {rate: 4}]}
  sine: {sine: {mean: 1, amplitude: 1, period: 2s}}
  replay: {replay: {times: "`+file+`", speed: 2}, duration: 5m}
  whole: {replay: {times: "`+file+`"}}
`).Profiles
	for name, test := range map[string]struct {
		due   []time.Duration
		words string
	}{
		"ramp":   {[]time.Duration{0, 1000 * ms, 1500 * ms, 2000 * ms}, "open loop, ramp from 0 to 2 requests/s over 1s, gaps constant, for 1m"},
		"steps":  {[]time.Duration{0, 1000 * ms, 5000 * ms, 5250 * ms}, "open loop, steps 1 requests/s for 2s, 0 requests/s for 3s, 4 requests/s, gaps constant, for 1m"},
		"sine":   {[]time.Duration{0, 591 * ms, 2000 * ms, 2591 * ms}, "open loop, sine around 1 by 1 requests/s in 2s, gaps constant, for 1m"},
		"replay": {[]time.Duration{0, 500 * ms, 750 * ms}, "open loop, replay of " + file + " 2 times as fast, for at most 5m"},
		"whole":  {[]time.Duration{0, 1000 * ms, 1500 * ms}, "open loop, replay of " + file + " 1 times as fast, for at most 1h"},
	} {
		p := profiles[name]
		require.NoError(t, p.validate(newDefaultConfig().Limits), name)
		got := due(t, p, 4)
		require.Len(t, got, len(test.due), name)
		for i := range got {
			assert.InDelta(t, test.due[i], got[i], float64(ms), "%s: %v", name, got)
		}
		assert.Equal(t, test.words, p.schedule())
	}
}

// A rate or users that a request to start a run gives replace the whole schedule.
func TestProfile_OverridesReplaceItsSchedule(t *testing.T) {
	steady, users := 4.0, 3
	for _, text := range []string{"rate: 9", "users: 9", "ramp: {to: 5, over: 1m}", "steps: [{rate: 5}]", "sine: {mean: 5, period: 1s}", "replay: {times: a}"} {
		p := configure(t, "profiles: {a: {"+text+"}}").Profiles["a"]
		open := p.with(Overrides{Rate: &steady})
		assert.Equal(t, []string{"rate"}, open.schedules(), text)
		assert.InDelta(t, 4, open.Rate, 0)
		closed := p.with(Overrides{Users: &users})
		assert.Equal(t, []string{"users"}, closed.schedules(), text)
		assert.Equal(t, 3, closed.Users)
		as := p.with(Overrides{})
		assert.Equal(t, p.schedules(), as.schedules(), text)
	}
}

func TestProfile_CancelsTheShareOfRequestsThatItSays(t *testing.T) {
	profiles := configure(t, "profiles: {some: {cancel: {share: 0.5, after: 7}}, all: {cancel: {share: 1}}, none: {}}").Profiles
	for name, test := range map[string]struct{ after, least, most int }{"some": {7, 400, 600}, "all": {10, 1000, 1000}, "none": {0, 0, 0}} {
		p := profiles[name]
		w, _, err := p.workload(t.Context(), nil, 1)
		require.NoError(t, err)
		cancelled := 0
		for n := range uint64(1000) {
			if after := w.Request(n).CancelAfter; after > 0 {
				cancelled++
				assert.Equal(t, test.after, after, name)
			}
		}
		assert.GreaterOrEqual(t, cancelled, test.least, name)
		assert.LessOrEqual(t, cancelled, test.most, name)
		assert.Equal(t, test.after, w.Settings().CancelAfter, "%s: what is never used is not part of the hash", name)
	}
}

func TestStart_ReadsTimesBeforeAnythingStarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "times.txt")
	start := func() error {
		e := newExtension(configure(t, "endpoint: localhost:0\nlimits: {rate: 2}\nprofiles: {a: {replay: {times: "+file+", speed: 2}}}"), extensiontest.NewNopSettings(metadata.Type))
		err := e.Start(t.Context(), componenttest.NewNopHost())
		require.NoError(t, e.Shutdown(t.Context()))
		return err
	}
	require.ErrorContains(t, start(), "profiles::a: replay: open "+file)
	for content, want := range map[string]string{
		"":          "profiles::a: replay: " + file + ": empty: want a recording",
		"0\nsoon\n": "profiles::a: replay: " + file + `:2: "soon" is no number`,
		"1\n0\n":    "profiles::a: replay: " + file + ":2: 0 s after 1 s: want times from 0 on, in order",
		"0\n7200\n": "profiles::a: replay: takes 1h0m0s: want less than 1h0m0s, a higher speed, a duration after which to cut it off, or raise limits::duration",
		`{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1]}`: file + " has lengths of prompts and answers besides times",
		"0\n0.8\n1\n9\n": "profiles::a: replay: 3 requests in one second: want at most 2, a lower speed, or raise limits::rate",
	} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		require.ErrorContains(t, start(), want, content)
	}
	require.NoError(t, os.WriteFile(file, []byte("0\n1\n2\n"), 0o600))
	require.NoError(t, start())
}
