// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/interval"
)

const (
	defaultEndpoint    = "http://localhost:8080"
	defaultServiceName = "llama-server"
	defaultOperation   = "text_completion"
)

// Config of the connector.
type Config struct {
	// Endpoint is the base URL of the server whose log is read, the same as the
	// receiver's. Nothing is sent there: it names the server. The log's
	// resource can say another one, with server.address, server.port or
	// service.instance.id.
	Endpoint string `mapstructure:"endpoint"`

	// ServiceName becomes service.name, unless the log's resource has one.
	ServiceName string `mapstructure:"service_name"`

	// Model is the name of the model, for a server with an alias, which the log
	// does not say. Without it the model is called after its file.
	Model string `mapstructure:"model"`

	// Operation becomes gen_ai.operation.name: the log does not tell a chat
	// from a completion.
	Operation string `mapstructure:"operation"`

	// Histogram says how distributions are recorded.
	Histogram HistogramConfig `mapstructure:"histogram"`

	// Exemplars link distributions to the spans of requests.
	Exemplars ExemplarsConfig `mapstructure:"exemplars"`

	// Metrics switches metrics on and off.
	Metrics MetricsConfig `mapstructure:"metrics"`

	// ResourceAttributes switches resource attributes on and off.
	ResourceAttributes metadata.ResourceAttributesConfig `mapstructure:"resource_attributes"`

	// MetricsFlushInterval is the time between two points of a series.
	MetricsFlushInterval time.Duration `mapstructure:"metrics_flush_interval"`

	// MetricsExpiration is how long a server whose log is silent goes on being
	// reported. 0 is for ever.
	MetricsExpiration time.Duration `mapstructure:"metrics_expiration"`

	// StorageID is the storage extension in which counts, and requests under
	// way, outlive the collector.
	StorageID *component.ID `mapstructure:"storage"`
}

// HistogramConfig is the section histogram.
type HistogramConfig struct {
	// Exponential switches from the fixed buckets of the semantic conventions
	// to exponential histograms.
	Exponential configoptional.Optional[ExponentialConfig] `mapstructure:"exponential"`
}

// ExponentialConfig is the section histogram::exponential.
type ExponentialConfig struct {
	// MaxSize is the highest number of buckets of one histogram.
	MaxSize int32 `mapstructure:"max_size"`
}

// ExemplarsConfig is the section exemplars.
type ExemplarsConfig struct {
	Enabled bool `mapstructure:"enabled"`
}

// MetricsConfig switches metrics on and off: those that are declared in
// metadata.yaml, and the distributions, which cannot be declared there.
type MetricsConfig struct {
	metadata.MetricsConfig `mapstructure:",squash"`
	RequestDuration        DistributionConfig `mapstructure:"gen_ai.server.request.duration"`
	TimePerOutputToken     DistributionConfig `mapstructure:"gen_ai.server.time_per_output_token"`
	TimeToFirstToken       DistributionConfig `mapstructure:"gen_ai.server.time_to_first_token"`
	RequestCachedTokens    DistributionConfig `mapstructure:"llamacpp.request.cached_tokens"`
	RequestDraftAcceptance DistributionConfig `mapstructure:"llamacpp.request.draft.acceptance"`
	RequestGenerationSpeed DistributionConfig `mapstructure:"llamacpp.request.generation.speed"`
	RequestPromptSpeed     DistributionConfig `mapstructure:"llamacpp.request.prompt.speed"`
	RequestQueueDuration   DistributionConfig `mapstructure:"llamacpp.request.queue.duration"`
	RequestTokens          DistributionConfig `mapstructure:"llamacpp.request.tokens"`
}

// DistributionConfig is the section of one distribution.
type DistributionConfig struct {
	Enabled bool `mapstructure:"enabled"`
}

func newDefaultConfig() *Config {
	on := DistributionConfig{Enabled: true}
	return &Config{
		Endpoint:    defaultEndpoint,
		ServiceName: defaultServiceName,
		Operation:   defaultOperation,
		Histogram:   HistogramConfig{Exponential: configoptional.Default(ExponentialConfig{MaxSize: histogram.DefaultSize})},
		Exemplars:   ExemplarsConfig{Enabled: true},
		Metrics: MetricsConfig{
			MetricsConfig:          metadata.DefaultMetricsConfig(),
			RequestDuration:        on,
			TimePerOutputToken:     on,
			TimeToFirstToken:       on,
			RequestCachedTokens:    on,
			RequestDraftAcceptance: on,
			RequestGenerationSpeed: on,
			RequestPromptSpeed:     on,
			RequestQueueDuration:   on,
			RequestTokens:          on,
		},
		ResourceAttributes:   metadata.DefaultResourceAttributesConfig(),
		MetricsFlushInterval: time.Second,
		MetricsExpiration:    24 * time.Hour,
	}
}

var (
	_ confmap.Unmarshaler = (*Config)(nil)
	_ confmap.Validator   = (*Config)(nil)
)

// Unmarshal implements confmap.Unmarshaler.
func (cfg *Config) Unmarshal(conf *confmap.Conf) error {
	if err := configcheck.Section(conf, cfg); err != nil {
		return err
	}
	return conf.Unmarshal(cfg)
}

// Validate implements confmap.Validator.
func (cfg *Config) Validate() error {
	var errs []error
	if _, err := endpoint.Parse(cfg.Endpoint); err != nil {
		errs = append(errs, fmt.Errorf("endpoint: %w", err))
	}
	if cfg.ServiceName == "" {
		errs = append(errs, fmt.Errorf("service_name is empty: leave it out for %q", defaultServiceName))
	}
	if cfg.Operation == "" {
		errs = append(errs, fmt.Errorf("operation is empty: leave it out for %q", defaultOperation))
	}
	if cfg.MetricsFlushInterval <= 0 {
		errs = append(errs, errors.New("metrics_flush_interval: must be positive, e.g. 1s"))
	} else if err := interval.Check(cfg.MetricsFlushInterval); err != nil {
		errs = append(errs, fmt.Errorf("metrics_flush_interval: %w", err))
	}
	if cfg.MetricsExpiration < 0 {
		errs = append(errs, errors.New("metrics_expiration: must not be negative; 0 is for ever"))
	}
	if e := cfg.Histogram.Exponential.Get(); e != nil {
		if err := histogram.CheckSize(e.MaxSize); err != nil {
			errs = append(errs, fmt.Errorf("histogram::exponential::max_size: %w", err))
		}
	}
	return errors.Join(errs...)
}
