// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"

import (
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper/internal/metadata"
)

// Config is the section scrapers::gpu.
type Config struct {
	ControllerConfig     scraperhelper.ControllerConfig `mapstructure:",squash"`
	MetricsBuilderConfig metadata.MetricsBuilderConfig  `mapstructure:",squash"`
	// Devices are the GPUs to watch, each by UUID or by index; all by default. An
	// index can come to mean another GPU when one drops out.
	Devices []any `mapstructure:"devices"`
}

// NewDefaultConfig returns the section as it is when left empty.
func NewDefaultConfig() Config {
	c := scraperhelper.NewDefaultControllerConfig()
	c.CollectionInterval = 2 * time.Second
	c.InitialDelay = 0
	return Config{ControllerConfig: c, MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig()}
}

// Validate implements confmap.Validator.
func (c *Config) Validate() error {
	for _, d := range c.Devices {
		switch d := d.(type) {
		case int:
			if d >= 0 {
				continue
			}
		case string:
			if strings.HasPrefix(d, "GPU-") {
				continue
			}
		}
		return fmt.Errorf(`"devices": %v: want an index from 0, or a UUID such as GPU-8f5c2e6a-…, which nvidia-smi -L lists`, d)
	}
	return nil
}
