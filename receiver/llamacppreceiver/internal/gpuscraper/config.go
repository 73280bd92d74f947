// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"

import (
	"fmt"
	"reflect"
	"time"

	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper/internal/metadata"
)

// Config is the section scrapers::gpu.
type Config struct {
	ControllerConfig     scraperhelper.ControllerConfig `mapstructure:",squash"`
	MetricsBuilderConfig metadata.MetricsBuilderConfig  `mapstructure:",squash"`
	// Devices are the GPUs to watch, each by UUID or by index, and MIG instances
	// without the rest of their GPU, by UUID or as "GPU index:instance index"; all
	// by default. An index can come to mean another one when a GPU drops out.
	Devices []any `mapstructure:"devices"`
	// Report says what to do about GPUs that another receiver of this process has
	// as well: "once", the default, leaves them to the one that comes first,
	// "always" reports them all the same, as for a pipeline of its own.
	Report Report `mapstructure:"report"`
}

// Report is a way to deal with GPUs that several receivers have.
type Report string

const (
	ReportOnce   Report = "once"
	ReportAlways Report = "always"
)

// NewDefaultConfig returns the section as it is when left empty.
func NewDefaultConfig() Config {
	c := scraperhelper.NewDefaultControllerConfig()
	c.CollectionInterval = 2 * time.Second
	c.InitialDelay = 0
	return Config{ControllerConfig: c, MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig(), Report: ReportOnce}
}

// Validate implements confmap.Validator.
func (c *Config) Validate() error {
	for _, d := range c.Devices {
		if _, err := gpu.ParseSelector(d); err != nil {
			return fmt.Errorf(`"devices": %w`, err)
		}
	}
	if c.Report != ReportOnce && c.Report != ReportAlways {
		return fmt.Errorf(`"report": %q: want %q, or %q to report GPUs that another receiver reports, too`, c.Report, ReportOnce, ReportAlways)
	}
	return nil
}

// Want is what the scraper of the named receiver needs of the session. server
// tells that it watches one, whose memory is to be found.
func (c *Config) Want(name string, server bool) gpu.Want {
	m := c.MetricsBuilderConfig.Metrics
	w := gpu.Want{
		Processes: server && m.LlamacppGpuMemoryUsage.Enabled || m.NvidiaGpuProcessMemoryUsage.Enabled,
		Profile: m.NvidiaGpuSmUtilization.Enabled || m.NvidiaGpuSmOccupancy.Enabled ||
			m.NvidiaGpuTensorUtilization.Enabled || m.NvidiaGpuDramUtilization.Enabled,
		Dedicated: !server, Always: c.Report == ReportAlways, Name: name,
	}
	for _, d := range c.Devices {
		if d, err := gpu.ParseSelector(d); err == nil {
			w.Devices = append(w.Devices, d)
		}
	}
	m.LlamacppGpuMemoryUsage.Enabled = false // each server's own
	metrics := reflect.ValueOf(m)
	for i := range metrics.NumField() {
		if metrics.Field(i).FieldByName("Enabled").Bool() {
			w.Reports |= 1 << i
		}
	}
	return w
}
