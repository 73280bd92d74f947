// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/metadata"
)

// NewFactory returns the factory of the exporter of type dashboard.
func NewFactory() exporter.Factory {
	f := &factory{}
	return exporter.NewFactory(
		metadata.Type,
		func() component.Config { return newDefaultConfig() },
		exporter.WithMetrics(f.createMetrics, metadata.MetricsStability),
		exporter.WithTraces(f.createTraces, metadata.TracesStability),
	)
}

// factory makes one dashboard of a configuration, for its metrics and its traces.
type factory struct {
	mu         sync.Mutex
	dashboards map[*Config]*dashboard
}

func (f *factory) dashboard(set exporter.Settings, cfg *Config) (*dashboard, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.dashboards[cfg]; d != nil {
		return d, nil
	}
	d, err := newDashboard(set, cfg, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.dashboards, cfg)
	})
	if err != nil {
		return nil, err
	}
	if f.dashboards == nil {
		f.dashboards = map[*Config]*dashboard{}
	}
	f.dashboards[cfg] = d
	return d, nil
}

// noTimeout: appending takes microseconds, and there is nobody to wait for.
var noTimeout = exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0 * time.Second})

func (f *factory) createMetrics(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	d, err := f.dashboard(set, cfg.(*Config))
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewMetrics(ctx, set, cfg, d.pushMetrics, exporterhelper.WithStart(d.Start), exporterhelper.WithShutdown(d.Shutdown), noTimeout)
}

func (f *factory) createTraces(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
	d, err := f.dashboard(set, cfg.(*Config))
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewTraces(ctx, set, cfg, d.pushTraces, exporterhelper.WithStart(d.Start), exporterhelper.WithShutdown(d.Shutdown), noTimeout)
}
