// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/apikey"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/interval"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/telemetry"
)

const (
	defaultEndpoint = "localhost:9466"
	defaultTarget   = "http://localhost:8080"
	defaultProvider = "llamacpp"
)

// Config is the configuration of the extension.
type Config struct {
	// ServerConfig configures the server of the REST API: endpoint
	// (localhost:9466 by default), tls, auth and so on.
	ServerConfig confighttp.ServerConfig `mapstructure:",squash"`

	// Target is the server that is put under load.
	Target TargetConfig `mapstructure:"target"`

	// GPUMetrics is where to read the energy that GPUs use; none by default.
	GPUMetrics configoptional.Optional[confighttp.ClientConfig] `mapstructure:"gpu_metrics"`

	// Provider becomes gen_ai.provider.name; "llamacpp" by default.
	Provider string `mapstructure:"provider"`

	// Profiles are the load tests that can be run, by name.
	Profiles map[string]ProfileConfig `mapstructure:"profiles"`

	// Limits apply to every run, whether a profile or a request to the REST API
	// sets its values.
	Limits LimitsConfig `mapstructure:"limits"`

	// History is the number of ended runs that are kept; 20 by default.
	History int `mapstructure:"history"`

	// MetricsFlushInterval is the time between two points of a series; 1s by
	// default.
	MetricsFlushInterval time.Duration `mapstructure:"metrics_flush_interval"`

	// Histogram says how distributions are recorded.
	Histogram HistogramConfig `mapstructure:"histogram"`
}

// TargetConfig is the section target.
type TargetConfig struct {
	// ClientConfig configures the HTTP client. The endpoint is the server's base
	// URL, http://localhost:8080 by default. The timeout, 10m by default, applies
	// to a whole request.
	ClientConfig confighttp.ClientConfig `mapstructure:",squash"`

	// APIKey is sent as a bearer token. It cannot be combined with auth.
	APIKey configopaque.String `mapstructure:"api_key"`

	// ConnectTimeout limits the time until a request has a connection; 10s by
	// default. FirstTokenTimeout limits the time until it has its first token; no
	// limit by default. 0 disables either limit.
	ConnectTimeout    time.Duration `mapstructure:"connect_timeout"`
	FirstTokenTimeout time.Duration `mapstructure:"first_token_timeout"`
}

// LimitsConfig is the section limits.
type LimitsConfig struct {
	// Rate is the highest rate of an open loop in requests per second; 1000 by
	// default.
	Rate float64 `mapstructure:"rate"`
	// Users is the largest number of users of a closed loop; 1000 by default.
	Users int `mapstructure:"users"`
	// Duration is the longest time for which a run sends requests; 1h by default.
	Duration time.Duration `mapstructure:"duration"`
}

// HistogramConfig is the section histogram. A receiver may ask for exponential
// histograms of its own.
type HistogramConfig struct {
	// Exponential switches from fixed buckets to exponential histograms.
	Exponential configoptional.Optional[ExponentialConfig] `mapstructure:"exponential"`
}

func (c *HistogramConfig) buckets() telemetry.Buckets {
	if e := c.Exponential.Get(); e != nil {
		return telemetry.Buckets(e.MaxSize)
	}
	return telemetry.Explicit
}

// ExponentialConfig is the section histogram::exponential.
type ExponentialConfig struct {
	// MaxSize is the maximum number of buckets of one histogram; 160 by default.
	MaxSize int32 `mapstructure:"max_size"`
}

func newDefaultConfig() *Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	server.MaxRequestBodySize = 64 << 10
	client := confighttp.NewDefaultClientConfig()
	client.Endpoint = defaultTarget
	client.Timeout = 10 * time.Minute
	// Each request in flight has its own connection; net/http keeps only two idle
	// connections per host by default.
	keepalive := confighttp.NewDefaultKeepaliveClientConfig()
	keepalive.MaxIdleConns = 0
	keepalive.MaxIdleConnsPerHost = 1000
	client.Keepalive = configoptional.Some(keepalive)
	return &Config{
		ServerConfig:         server,
		Target:               TargetConfig{ClientConfig: client, ConnectTimeout: 10 * time.Second},
		GPUMetrics:           configoptional.Default(confighttp.NewDefaultClientConfig()),
		Provider:             defaultProvider,
		Limits:               LimitsConfig{Rate: 1000, Users: 1000, Duration: time.Hour},
		History:              20,
		MetricsFlushInterval: time.Second,
		Histogram:            HistogramConfig{Exponential: configoptional.Default(ExponentialConfig{MaxSize: histogram.DefaultSize})},
	}
}

var (
	_ confmap.Unmarshaler = (*Config)(nil)
	_ confmap.Validator   = (*Config)(nil)
)

// Unmarshal implements confmap.Unmarshaler.
func (cfg *Config) Unmarshal(conf *confmap.Conf) error {
	// The Unmarshal methods of the embedded configurations accept unknown keys.
	if err := configcheck.Section(conf, cfg); err != nil {
		return err
	}
	if err := conf.Unmarshal(cfg); err != nil {
		return err
	}
	for name := range cfg.Profiles {
		if conf.Get("profiles"+confmap.KeyDelimiter+name) == nil { // an empty profile has all defaults
			cfg.Profiles[name] = newDefaultProfile()
		}
		if p := cfg.Profiles[name]; p.Duration == 0 && p.Replay.HasValue() {
			p.Duration = cfg.Limits.Duration
			cfg.Profiles[name] = p
		}
	}
	return nil
}

// profileName matches names that can be part of a URL and of a run's id.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate implements confmap.Validator.
func (cfg *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if cfg.ServerConfig.NetAddr.Endpoint == "" {
		wrong("endpoint is empty: leave it out for %s", defaultEndpoint)
	}
	if err := cfg.Target.validate(); err != nil {
		errs = append(errs, err)
	}
	if g := cfg.GPUMetrics.Get(); g != nil {
		if _, err := energy.NewSource(g.Endpoint, nil); err != nil {
			wrong("gpu_metrics::endpoint: %w", err)
		}
	}
	if cfg.Provider == "" {
		wrong("provider is empty: leave it out for %q", defaultProvider)
	}
	if cfg.History < 1 {
		wrong("history: %d: want 1 or more, so that results can be read", cfg.History)
	}
	if err := interval.Check(cfg.MetricsFlushInterval); err != nil {
		wrong("metrics_flush_interval: %w", err)
	}
	if e := cfg.Histogram.Exponential.Get(); e != nil {
		if err := histogram.CheckSize(e.MaxSize); err != nil {
			wrong("histogram::exponential::max_size: %w", err)
		}
	}
	if l := cfg.Limits; !(l.Rate > 0) || l.Users < 1 || l.Duration <= 0 {
		wrong("limits: rate of %g, %d users, duration of %s: want more than 0 of each", l.Rate, l.Users, l.Duration)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Profiles)) {
		if !profileName.MatchString(name) {
			wrong("profiles::%s: want a name of up to 64 letters, digits, dots, hyphens and underscores", name)
		}
		p := cfg.Profiles[name]
		if err := p.validate(cfg.Limits); err != nil {
			wrong("profiles::%s: %w", name, err)
		}
	}
	return errors.Join(errs...)
}

func (t *TargetConfig) validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("target::"+format, args...)) }
	if t.ClientConfig.Endpoint == "" {
		wrong("endpoint is empty: set it to the server's address, e.g. %s", defaultTarget)
	} else if _, err := endpoint.Parse(t.ClientConfig.Endpoint); err != nil {
		wrong("endpoint: %w", err)
	}
	if t.ClientConfig.Compression.IsCompressed() {
		wrong("compression: not supported, as it would be measured with the requests; leave it out")
	}
	if t.ClientConfig.Timeout < 0 || t.ConnectTimeout < 0 || t.FirstTokenTimeout < 0 {
		wrong("timeout, connect_timeout or first_token_timeout is negative: want 0, for any time, or more")
	}
	if err := apikey.Check(string(t.APIKey)); err != nil {
		wrong("api_key: %w", err)
	}
	if t.APIKey != "" && t.ClientConfig.Auth.HasValue() {
		wrong("api_key and auth: both would set the Authorization header; keep one of them")
	}
	for name := range t.ClientConfig.Headers.Iter {
		if t.APIKey != "" && strings.EqualFold(name, "Authorization") {
			wrong("api_key and headers: both would set the Authorization header; keep one of them")
		}
	}
	return errors.Join(errs...)
}
