// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/apikey"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/interval"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"
)

const (
	defaultEndpoint        = "http://localhost:8080"
	defaultTimeout         = 10 * time.Second
	defaultMaxResponseSize = 4 << 20
	defaultServiceName     = "llama-server"
)

// Config is the configuration of one receiver, which watches one server.
type Config struct {
	// ClientConfig are the settings of the HTTP client: endpoint, tls, auth,
	// headers, proxy_url and so on. The endpoint is llama-server's base URL,
	// http://localhost:8080 by default, with its path if it has one; a receiver
	// that runs the gpu scraper alone needs none and has no default. The timeout,
	// 10s by default, ends a single read; a read may take longer than a scrape's
	// interval.
	ClientConfig confighttp.ClientConfig `mapstructure:",squash"`

	// APIKey is llama-server's --api-key, sent as a bearer token. It cannot be
	// combined with auth.
	APIKey configopaque.String `mapstructure:"api_key"`

	// MaxResponseSize is the largest answer read, in bytes; 4 MiB by default.
	MaxResponseSize int64 `mapstructure:"max_response_size"`

	// ServiceName is the resource attribute service.name; "llama-server" by
	// default.
	ServiceName string `mapstructure:"service_name"`

	// ForwardUnknown passes on the metric families that this receiver does not
	// know, e.g. those of a newer build, under llamacpp.<name with dots>. True by
	// default.
	ForwardUnknown bool `mapstructure:"forward_unknown"`

	// ResourceAttributes switches resource attributes on and off.
	ResourceAttributes metadata.ResourceAttributesConfig `mapstructure:"resource_attributes"`

	// Scrapers are those to run, each with its own clock. Without the section all
	// run; with it, those that it names.
	Scrapers ScrapersConfig `mapstructure:"scrapers"`
}

// ScrapersConfig holds one section a scraper.
type ScrapersConfig struct {
	// GPU reads this host's NVIDIA GPUs, every 2 s by default.
	GPU configoptional.Optional[gpuscraper.Config] `mapstructure:"gpu"`
	// Server reads /metrics, /health, /props and /models, every second by default.
	Server configoptional.Optional[serverscraper.Config] `mapstructure:"server"`
	// Slots reads /slots, every 500 ms by default.
	Slots configoptional.Optional[slotsscraper.Config] `mapstructure:"slots"`
}

func newDefaultConfig() *Config {
	client := confighttp.NewDefaultClientConfig()
	client.Endpoint = defaultEndpoint
	client.Timeout = defaultTimeout
	// An idle connection holds one of the server's few HTTP threads.
	keepalive := confighttp.NewDefaultKeepaliveClientConfig()
	keepalive.MaxIdleConns = 1
	keepalive.MaxIdleConnsPerHost = 1
	client.Keepalive = configoptional.Some(keepalive)
	return &Config{
		ClientConfig:       client,
		MaxResponseSize:    defaultMaxResponseSize,
		ServiceName:        defaultServiceName,
		ForwardUnknown:     true,
		ResourceAttributes: metadata.DefaultResourceAttributesConfig(),
		Scrapers: ScrapersConfig{
			GPU:    configoptional.Some(gpuscraper.NewDefaultConfig()),
			Server: configoptional.Some(serverscraper.NewDefaultConfig()),
			Slots:  configoptional.Some(slotsscraper.NewDefaultConfig()),
		},
	}
}

var (
	_ confmap.Unmarshaler = (*Config)(nil)
	_ confmap.Validator   = (*Config)(nil)
)

// Unmarshal implements confmap.Unmarshaler: a section scrapers switches off the
// scrapers that it does not name.
func (cfg *Config) Unmarshal(conf *confmap.Conf) error {
	// The Unmarshal that comes with the embedded ClientConfig lets unknown keys
	// pass, and a misspelt scraper would silently be off.
	if err := configcheck.Section(conf, cfg); err != nil {
		return err
	}
	if conf.IsSet("scrapers") {
		cfg.Scrapers = ScrapersConfig{
			GPU:    configoptional.Default(gpuscraper.NewDefaultConfig()),
			Server: configoptional.Default(serverscraper.NewDefaultConfig()),
			Slots:  configoptional.Default(slotsscraper.NewDefaultConfig()),
		}
	}
	if err := conf.Unmarshal(cfg); err != nil {
		return err
	}
	// confmap would check this too, but say it twice, of clientconfig::tls.
	if err := cfg.ClientConfig.TLS.Validate(); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if cfg.Scrapers.onlyGPU() && !conf.IsSet("endpoint") {
		cfg.ClientConfig.Endpoint = ""
	}
	return nil
}

func (s *ScrapersConfig) onlyGPU() bool {
	return s.GPU.HasValue() && !s.Server.HasValue() && !s.Slots.HasValue()
}

// Validate implements confmap.Validator.
func (cfg *Config) Validate() error {
	var errs []error
	if cfg.ClientConfig.Endpoint == "" {
		if !cfg.Scrapers.onlyGPU() { // the GPUs are this host's own
			errs = append(errs, fmt.Errorf("endpoint is empty: set it to llama-server's address, e.g. %s", defaultEndpoint))
		}
	} else if _, err := endpoint.Parse(cfg.ClientConfig.Endpoint); err != nil {
		errs = append(errs, fmt.Errorf("endpoint: %w", err))
	}
	if cfg.ClientConfig.Timeout <= 0 {
		errs = append(errs, errors.New("timeout: must be positive, or a read of a server that hangs would never end"))
	} else if err := interval.Check(cfg.ClientConfig.Timeout); err != nil {
		errs = append(errs, fmt.Errorf("timeout: %w", err))
	}
	if cfg.ClientConfig.Compression.IsCompressed() {
		errs = append(errs, errors.New("compression: not supported, as nothing is sent that could be compressed; leave it out"))
	}
	if cfg.MaxResponseSize <= 0 {
		errs = append(errs, errors.New("max_response_size: must be positive"))
	}
	if cfg.APIKey != "" && cfg.ClientConfig.Auth.HasValue() {
		errs = append(errs, errors.New("api_key and auth: both would set the Authorization header; keep one of them"))
	}
	for name := range cfg.ClientConfig.Headers.Iter {
		if cfg.APIKey != "" && strings.EqualFold(name, "Authorization") {
			errs = append(errs, errors.New("api_key and headers: both would set the Authorization header; keep one of them"))
		}
	}
	if err := apikey.Check(string(cfg.APIKey)); err != nil {
		errs = append(errs, fmt.Errorf("api_key: %w", err))
	}
	if cfg.ServiceName == "" {
		errs = append(errs, errors.New("service_name: must not be empty; to leave the attribute out, disable resource_attributes::service.name"))
	}
	if !cfg.Scrapers.Server.HasValue() && !cfg.Scrapers.Slots.HasValue() && !cfg.Scrapers.GPU.HasValue() {
		errs = append(errs, errors.New("scrapers: names none; name server, slots, gpu or several of them, or leave the section out to run all"))
	}
	errs = append(errs, cfg.Scrapers.check()...)
	return errors.Join(errs...)
}

// check collects what is wrong with the scrapers that run. They have no
// Validate of their own, as confmap would not say the whole path.
func (s *ScrapersConfig) check() (errs []error) {
	check := func(name string, c scraperhelper.ControllerConfig, others []error) {
		for _, err := range append(checkDurations(c), others...) {
			errs = append(errs, fmt.Errorf("scrapers::%s::%w", name, err))
		}
	}
	if c := s.GPU.Get(); c != nil {
		check("gpu", c.ControllerConfig, c.Check())
	}
	if c := s.Server.Get(); c != nil {
		check("server", c.ControllerConfig, nil)
	}
	if c := s.Slots.Get(); c != nil {
		check("slots", c.ControllerConfig, c.Check())
	}
	return errs
}

// checkDurations leaves those that are not positive to c's own Validate.
func checkDurations(c scraperhelper.ControllerConfig) (errs []error) {
	if err := interval.Check(c.CollectionInterval); err != nil && c.CollectionInterval > 0 {
		errs = append(errs, fmt.Errorf("collection_interval: %w", err))
	}
	if err := interval.Check(c.Timeout); err != nil && c.Timeout > 0 {
		errs = append(errs, fmt.Errorf("timeout: %w", err))
	}
	return errs
}
