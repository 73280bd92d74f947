// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
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
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
)

const (
	defaultEndpoint    = "localhost:9467"
	defaultUpstream    = "http://localhost:8080"
	defaultServiceName = "llama-server"
)

// Config is the configuration of one receiver. Receivers with the same endpoint are one
// proxy: they may differ in Histogram, Exemplars, Metrics, ResourceAttributes and
// MetricsFlushInterval.
type Config struct {
	// ServerConfig is where clients connect: endpoint (localhost:9467 by default), tls,
	// auth, cors and so on. With an empty endpoint the receiver is off. The body of a
	// request may have any size, and writing an answer may take any time, unless
	// max_request_body_size and write_timeout say otherwise.
	ServerConfig confighttp.ServerConfig `mapstructure:",squash"`

	// Upstream is the server that requests go to. Its endpoint is llama-server's base
	// URL, http://localhost:8080 by default. The timeout, no limit by default, ends at
	// the head of an answer.
	Upstream confighttp.ClientConfig `mapstructure:"upstream"`

	// ServiceName is the resource attribute service.name; "llama-server" by default.
	ServiceName string `mapstructure:"service_name"`

	// PreserveHost passes the client's Host header on; true by default. Otherwise it is
	// the host of the upstream's endpoint.
	PreserveHost bool `mapstructure:"preserve_host"`

	// ForwardedHeaders adds X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto;
	// false by default.
	ForwardedHeaders bool `mapstructure:"forwarded_headers"`

	// DrainTimeout is how long requests that are under way may go on when the collector
	// ends; 30s by default.
	DrainTimeout time.Duration `mapstructure:"drain_timeout"`

	// AggregationCardinalityLimit is the highest number of series of one metric, of one
	// server or of one model of a router; 1000 by default. Further models and clients
	// are called "other".
	AggregationCardinalityLimit int `mapstructure:"aggregation_cardinality_limit"`

	// Clients tells clients apart by their API keys; off by default.
	Clients configoptional.Optional[ClientsConfig] `mapstructure:"clients"`

	// Histogram says how distributions are recorded.
	Histogram HistogramConfig `mapstructure:"histogram"`

	// Exemplars link distributions to the spans of requests.
	Exemplars ExemplarsConfig `mapstructure:"exemplars"`

	// Metrics switches metrics on and off.
	Metrics MetricsConfig `mapstructure:"metrics"`

	// ResourceAttributes switches resource attributes on and off.
	ResourceAttributes metadata.ResourceAttributesConfig `mapstructure:"resource_attributes"`

	// MetricsFlushInterval is the time between two points of a series; 1s by default.
	MetricsFlushInterval time.Duration `mapstructure:"metrics_flush_interval"`
}

// ClientsConfig is the section clients.
type ClientsConfig struct {
	// Names are the API keys of clients, by the name that metrics and spans get.
	Names map[string]configopaque.String `mapstructure:"names"`

	// HashSecret, if it is not empty, calls clients without a name by a hash of their
	// key. Who has neither the secret nor the key cannot find the one from the other.
	HashSecret configopaque.String `mapstructure:"hash_secret"`
}

// HistogramConfig is the section histogram.
type HistogramConfig struct {
	// Exponential switches from fixed buckets to exponential histograms.
	Exponential configoptional.Optional[ExponentialConfig] `mapstructure:"exponential"`
}

// size is the highest number of exponential buckets, 0 for fixed ones.
func (c *HistogramConfig) size() int32 {
	if e := c.Exponential.Get(); e != nil {
		return e.MaxSize
	}
	return 0
}

// ExponentialConfig is the section histogram::exponential.
type ExponentialConfig struct {
	// MaxSize is the highest number of buckets of one histogram; 160 by default.
	MaxSize int32 `mapstructure:"max_size"`
}

// ExemplarsConfig is the section exemplars.
type ExemplarsConfig struct {
	Enabled bool `mapstructure:"enabled"`
}

// MetricsConfig switches metrics on and off: those that are declared in metadata.yaml,
// and the distributions, which cannot be declared there.
type MetricsConfig struct {
	metadata.MetricsConfig `mapstructure:",squash"`
	RequestDuration        DistributionConfig `mapstructure:"gen_ai.server.request.duration"`
	TimePerOutputToken     DistributionConfig `mapstructure:"gen_ai.server.time_per_output_token"`
	TimeToFirstToken       DistributionConfig `mapstructure:"gen_ai.server.time_to_first_token"`
	HTTPRequestDuration    DistributionConfig `mapstructure:"http.server.request.duration"`
	RequestQueueDuration   DistributionConfig `mapstructure:"llamacpp.request.queue.duration"`
	RequestStallDuration   DistributionConfig `mapstructure:"llamacpp.request.stall.duration"`
}

// DistributionConfig is the section of one distribution.
type DistributionConfig struct {
	Enabled bool `mapstructure:"enabled"`
}

func newDefaultConfig() *Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	server.WriteTimeout = 0 // an answer may take hours
	server.MaxRequestBodySize = math.MaxInt64
	server.CompressionAlgorithms = []string{} // a compressed request stays as it is
	client := confighttp.NewDefaultClientConfig()
	client.Endpoint = defaultUpstream
	// Each stream has a connection, whose buffers stay. A longer body is not buffered.
	client.ReadBufferSize, client.WriteBufferSize = 2<<10, 1<<10
	keepalive := confighttp.NewDefaultKeepaliveClientConfig()
	keepalive.MaxIdleConns, keepalive.MaxIdleConnsPerHost = 0, 1000
	client.Keepalive = configoptional.Some(keepalive)
	on := DistributionConfig{Enabled: true}
	return &Config{
		ServerConfig:                server,
		Upstream:                    client,
		ServiceName:                 defaultServiceName,
		PreserveHost:                true,
		DrainTimeout:                30 * time.Second,
		AggregationCardinalityLimit: 1000,
		Clients:                     configoptional.Default(ClientsConfig{}),
		Histogram:                   HistogramConfig{Exponential: configoptional.Default(ExponentialConfig{MaxSize: histogram.DefaultSize})},
		Exemplars:                   ExemplarsConfig{Enabled: true},
		Metrics: MetricsConfig{
			MetricsConfig:        metadata.DefaultMetricsConfig(),
			RequestDuration:      on,
			TimePerOutputToken:   on,
			TimeToFirstToken:     on,
			HTTPRequestDuration:  on,
			RequestQueueDuration: on,
			RequestStallDuration: on,
		},
		ResourceAttributes:   metadata.DefaultResourceAttributesConfig(),
		MetricsFlushInterval: time.Second,
	}
}

var (
	_ confmap.Unmarshaler = (*Config)(nil)
	_ confmap.Validator   = (*Config)(nil)
)

// Unmarshal implements confmap.Unmarshaler. It says what is wrong in the terms of the
// YAML file.
func (cfg *Config) Unmarshal(conf *confmap.Conf) error {
	// The Unmarshal methods of the embedded configurations accept unknown keys.
	if err := configcheck.Section(conf, cfg); err != nil {
		return err
	}
	if err := conf.Unmarshal(cfg); err != nil {
		return err
	}
	if at, ok := conf.ToStringMap()["endpoint"]; ok && at == nil { // of an environment variable that is not set
		cfg.ServerConfig.NetAddr.Endpoint = ""
	}
	// confmap would check these too, but say it twice, of clientconfig::tls.
	if err := cfg.Upstream.TLS.Validate(); err != nil {
		return fmt.Errorf("upstream::tls: %w", err)
	}
	return nil
}

// Validate implements confmap.Validator.
func (cfg *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if e, err := endpoint.Parse(cfg.Upstream.Endpoint); err != nil {
		wrong("upstream::endpoint: %w", err)
	} else if cfg.ServerConfig.NetAddr.Endpoint == e.URL.Host {
		wrong("endpoint and upstream::endpoint are both %s: the proxy would call itself; give it a port of its own, e.g. %s", e.URL.Host, defaultEndpoint)
	}
	if cfg.Upstream.Timeout < 0 {
		wrong("upstream::timeout: must not be negative; 0 is no limit")
	} else if err := interval.Check(cfg.Upstream.Timeout); err != nil && cfg.Upstream.Timeout > 0 {
		wrong("upstream::timeout: %w", err)
	}
	if cfg.Upstream.Compression.IsCompressed() {
		wrong("upstream::compression: requests pass as the clients sent them; leave it out")
	}
	if cfg.Upstream.Cookies.HasValue() {
		wrong("upstream::cookies: cookies are the clients' own, and pass; leave it out")
	}
	if len(cfg.ServerConfig.CompressionAlgorithms) > 0 {
		wrong("compression_algorithms: requests pass as the clients sent them; leave it out")
	}
	if cfg.ServiceName == "" {
		wrong("service_name is empty: leave it out for %q", defaultServiceName)
	}
	if cfg.DrainTimeout < 0 {
		wrong("drain_timeout: must not be negative; 0 cuts off what is under way")
	} else if err := interval.Check(cfg.DrainTimeout); err != nil && cfg.DrainTimeout > 0 {
		wrong("drain_timeout: %w", err)
	}
	if cfg.AggregationCardinalityLimit < 1 {
		wrong("aggregation_cardinality_limit: must be at least 1")
	}
	if cfg.MetricsFlushInterval <= 0 {
		wrong("metrics_flush_interval: must be positive, e.g. 1s")
	} else if err := interval.Check(cfg.MetricsFlushInterval); err != nil {
		wrong("metrics_flush_interval: %w", err)
	}
	if e := cfg.Histogram.Exponential.Get(); e != nil {
		if err := histogram.CheckSize(e.MaxSize); err != nil {
			wrong("histogram::exponential::max_size: %w", err)
		}
	}
	return errors.Join(append(errs, cfg.Clients.Get().check()...)...)
}

func (c *ClientsConfig) check() (errs []error) {
	if c == nil {
		return nil
	}
	if len(c.Names) == 0 && c.HashSecret == "" {
		errs = append(errs, errors.New("clients: has neither names nor hash_secret; set one of them, or leave the section out"))
	}
	owners := map[configopaque.String]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Names)) {
		key := c.Names[name]
		if err := apikey.Check(string(key)); err != nil {
			errs = append(errs, fmt.Errorf("clients::names::%s: %w", name, err))
		}
		switch other, taken := owners[key]; {
		case key == "":
			errs = append(errs, fmt.Errorf("clients::names::%s: is empty; set it to the client's API key", name))
		case taken:
			errs = append(errs, fmt.Errorf("clients::names: %s and %s have the same key", other, name))
		}
		owners[key] = name
		if name == noKey || name == otherName {
			errs = append(errs, fmt.Errorf("clients::names::%s: means another thing; choose another name", name))
		}
	}
	return errs
}

// sameProxy reports whether two receivers with the same endpoint agree on the proxy that
// they share.
func (cfg *Config) sameProxy(other *Config) bool {
	proxy := func(c Config) Config {
		c.Histogram, c.Exemplars, c.Metrics = HistogramConfig{}, ExemplarsConfig{}, MetricsConfig{}
		c.ResourceAttributes, c.MetricsFlushInterval = metadata.ResourceAttributesConfig{}, 0
		return c
	}
	return reflect.DeepEqual(proxy(*cfg), proxy(*other))
}
