package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper/internal/metadata"
)

// Poll says when /slots is asked.
type Poll string

const (
	// PollActive asks while /metrics shows activity. A server that is idle can
	// fall asleep.
	PollActive Poll = "active"
	// PollAlways asks at every tick, which keeps an idle server from falling
	// asleep. It works without /metrics.
	PollAlways Poll = "always"
)

// Want implements configcheck.Wanter.
func (Poll) Want() string { return fmt.Sprintf("%q or %q", PollActive, PollAlways) }

// Config is the section scrapers::slots.
type Config struct {
	ControllerConfig scraperhelper.ControllerConfig `mapstructure:",squash"`
	Metrics          MetricsConfig                  `mapstructure:"metrics"`
	// Poll is "active" (default) or "always".
	Poll Poll `mapstructure:"poll"`
}

// MetricsConfig switches metrics on and off: those that are declared in
// metadata.yaml, and the histograms, which cannot be declared there.
type MetricsConfig struct {
	metadata.MetricsConfig `mapstructure:",squash"`
	RequestDuration        HistogramConfig `mapstructure:"llamacpp.request.duration"`
	RequestPromptDuration  HistogramConfig `mapstructure:"llamacpp.request.prompt.duration"`
}

// HistogramConfig is the section of one histogram.
type HistogramConfig struct {
	Enabled bool `mapstructure:"enabled"`
}

// NewDefaultConfig returns the section as it is when left empty.
func NewDefaultConfig() Config {
	c := scraperhelper.NewDefaultControllerConfig()
	c.CollectionInterval = 500 * time.Millisecond
	c.InitialDelay = 0
	return Config{
		ControllerConfig: c,
		Metrics: MetricsConfig{
			MetricsConfig:         metadata.DefaultMetricsConfig(),
			RequestDuration:       HistogramConfig{Enabled: true},
			RequestPromptDuration: HistogramConfig{Enabled: true},
		},
		Poll: PollActive,
	}
}

// Check returns what is wrong, besides the ControllerConfig, each with the name of the setting.
func (c *Config) Check() []error {
	var errs []error
	if c.Poll != PollActive && c.Poll != PollAlways {
		errs = append(errs, fmt.Errorf("poll: %q: want %s", c.Poll, c.Poll.Want()))
	}
	return errs
}
