// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper/internal/metadata"
)

// Config is the section scrapers::gpu.
type Config struct {
	ControllerConfig     scraperhelper.ControllerConfig `mapstructure:",squash"`
	MetricsBuilderConfig metadata.MetricsBuilderConfig  `mapstructure:",squash"`
	// Devices are the GPUs to watch, each by UUID or index, and the MIG instances
	// to watch without the rest of their GPU, each by UUID or as "GPU index:instance
	// index"; all by default. When a GPU drops out, an index can come to mean another
	// one.
	Devices Devices `mapstructure:"devices"`
	// Report is what to do about a GPU that another receiver of this process watches
	// as well: with "once", the default, one of them reports it; with "always" this
	// one does in any case, as for a pipeline of its own.
	Report Report `mapstructure:"report"`
}

// Devices are names of GPUs and MIG instances, each an int or a string.
type Devices []any

// Want implements configcheck.Wanter.
func (Devices) Want() string {
	return "a list, e.g. [0, 1] or [GPU-8f5c2e6a-…]; leave it out for all"
}

// Report is a way to deal with GPUs that several receivers watch.
type Report string

const (
	ReportOnce   Report = "once"
	ReportAlways Report = "always"
)

// Want implements configcheck.Wanter.
func (Report) Want() string {
	return fmt.Sprintf("%q, or %q to report GPUs that another receiver reports as well", ReportOnce, ReportAlways)
}

// NewDefaultConfig returns the section as it is when left empty.
func NewDefaultConfig() Config {
	c := scraperhelper.NewDefaultControllerConfig()
	c.CollectionInterval = 2 * time.Second
	c.InitialDelay = 0
	return Config{ControllerConfig: c, MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig(), Report: ReportOnce}
}

// Check returns what is wrong, besides the ControllerConfig, each with the name of the setting.
func (c *Config) Check() []error {
	var errs []error
	for _, d := range c.Devices {
		if _, err := gpu.ParseSelector(d); err != nil {
			errs = append(errs, fmt.Errorf("devices: %w", err))
		}
	}
	if c.Report != ReportOnce && c.Report != ReportAlways {
		errs = append(errs, fmt.Errorf("report: %q: want %s", c.Report, c.Report.Want()))
	}
	return errs
}

// Want is what the scraper of the named receiver needs of the session with the
// driver. server is set where the receiver watches a server as well.
func (c *Config) Want(name string, host pcommon.Resource, server bool) gpu.Want {
	m := c.MetricsBuilderConfig.Metrics
	w := gpu.Want{
		Processes: server && m.LlamacppGpuMemoryUsage.Enabled || m.NvidiaGpuProcessMemoryUsage.Enabled,
		Profile: m.NvidiaGpuSmUtilization.Enabled || m.NvidiaGpuSmOccupancy.Enabled ||
			m.NvidiaGpuTensorUtilization.Enabled || m.NvidiaGpuDramUtilization.Enabled,
		Dedicated: !server, Always: c.Report == ReportAlways, Name: name,
		Output: output{c, host},
	}
	for _, d := range c.Devices {
		if selector, err := gpu.ParseSelector(d); err == nil {
			w.Devices = append(w.Devices, selector)
		}
	}
	return w
}
