// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
)

const (
	defaultEndpoint = "localhost:9465"
	// minRetention is what the page needs for its shortest windows.
	minRetention = 10 * time.Minute
	// minSize is less than one block of a small server's series.
	minSizeMiB = 16
)

// Config is the configuration of the exporter.
type Config struct {
	// ServerConfig configures the server of the page and its APIs: endpoint
	// (localhost:9465 by default), tls, auth and so on.
	ServerConfig confighttp.ServerConfig `mapstructure:",squash"`

	// AllowedHosts are names and addresses, without port, under which the server may
	// be reached besides localhost, such as host.docker.internal. Without auth, all
	// others are refused, so that no page of another site can read the data.
	AllowedHosts []string `mapstructure:"allowed_hosts"`

	// StorageDirectory keeps the history when the collector ends. It is empty by
	// default: the history begins anew at every start.
	StorageDirectory string `mapstructure:"storage_directory"`

	// Retention says how much is kept.
	Retention RetentionConfig `mapstructure:"retention"`

	// MaxSeries is how many series are kept at once; 20,000 by default. Points of
	// others are refused.
	MaxSeries int `mapstructure:"max_series"`

	// Query limits a single query.
	Query QueryConfig `mapstructure:"query"`

	// Rules says what alerts and recording rules there are besides the built-in ones.
	Rules RulesConfig `mapstructure:"rules"`

	// Requests is how many of the last requests are kept for each server; 2,000 by
	// default.
	Requests int `mapstructure:"requests"`

	// MaxViewers is how many pages are sent live data at once; 200 by default.
	MaxViewers int `mapstructure:"max_viewers"`
}

// RetentionConfig is the section retention.
type RetentionConfig struct {
	// Time is how long data is kept; 24h by default.
	Time time.Duration `mapstructure:"time"`
	// SizeMiB is how much disk it may take; 1024 by default. The oldest data goes
	// first. What has not been written as a block yet, up to three hours, does not
	// count.
	SizeMiB int64 `mapstructure:"size_mib"`
}

// QueryConfig is the section query.
type QueryConfig struct {
	// Timeout limits how long a query runs; 30s by default.
	Timeout time.Duration `mapstructure:"timeout"`
	// MaxSamples limits how many samples a query holds in memory; 10,000,000 by
	// default, which are some 160 MB.
	MaxSamples int `mapstructure:"max_samples"`
	// LookbackDelta is how long a series has the value of its last point; 15s by
	// default. Set it above the longest collection interval.
	LookbackDelta time.Duration `mapstructure:"lookback_delta"`
}

// RulesConfig is the section rules.
type RulesConfig struct {
	// Files are rule files in the format of Prometheus.
	Files []string `mapstructure:"files"`
	// Interval is the time between two evaluations of groups that do not set one; 5s
	// by default.
	Interval time.Duration `mapstructure:"interval"`
}

func newDefaultConfig() *Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	server.MaxRequestBodySize = 1 << 20
	return &Config{
		ServerConfig: server,
		Retention:    RetentionConfig{Time: 24 * time.Hour, SizeMiB: 1024},
		MaxSeries:    20_000,
		Query:        QueryConfig{Timeout: 30 * time.Second, MaxSamples: 10_000_000, LookbackDelta: 15 * time.Second},
		Rules:        RulesConfig{Interval: 5 * time.Second},
		Requests:     2000,
		MaxViewers:   200,
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
	return conf.Unmarshal(cfg)
}

// Validate implements confmap.Validator.
func (cfg *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if cfg.ServerConfig.NetAddr.Endpoint == "" {
		wrong("endpoint is empty: leave it out for %s", defaultEndpoint)
	}
	for _, h := range cfg.AllowedHosts {
		if h == "" || strings.ContainsAny(h, "/*@ ") {
			wrong("allowed_hosts: %q: want a host name or an address, without scheme, port or wildcard", h)
		}
	}
	if cfg.Retention.Time < minRetention {
		wrong("retention::time: %s: want %s or more", cfg.Retention.Time, minRetention)
	}
	if cfg.Retention.SizeMiB < minSizeMiB {
		wrong("retention::size_mib: %d: want %d or more", cfg.Retention.SizeMiB, minSizeMiB)
	}
	for _, least := range []struct {
		setting string
		value   int
		least   int
	}{
		{"max_series", cfg.MaxSeries, 100},
		{"query::max_samples", cfg.Query.MaxSamples, 10_000},
		{"requests", cfg.Requests, 1},
		{"max_viewers", cfg.MaxViewers, 1},
	} {
		if least.value < least.least {
			wrong("%s: %d: want %d or more", least.setting, least.value, least.least)
		}
	}
	for _, least := range []struct {
		setting string
		value   time.Duration
	}{
		{"query::timeout", cfg.Query.Timeout},
		{"query::lookback_delta", cfg.Query.LookbackDelta},
		{"rules::interval", cfg.Rules.Interval},
	} {
		if least.value < time.Second {
			wrong("%s: %s: want 1s or more", least.setting, least.value)
		}
	}
	for _, file := range cfg.Rules.Files {
		if err := history.CheckRules(file); err != nil {
			wrong("rules::files: %w", err)
		}
	}
	return errors.Join(errs...)
}
