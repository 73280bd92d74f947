// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"
	"go.uber.org/multierr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/hostproc"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

type llamacppReceiver struct {
	cfg         *Config
	set         receiver.Settings
	next        consumer.Metrics
	server      *watch.Server    // nil until Start, and where only the GPUs are watched
	identity    *identity.Server // nil until Start, and without an endpoint
	gpus        *gpu.Handle      // nil until Start, and without the gpu scraper
	controllers []receiver.Metrics
	ends        []func() pmetric.Metrics // each ends the series of one scraper
}

func newReceiver(cfg *Config, set receiver.Settings, next consumer.Metrics) *llamacppReceiver {
	return &llamacppReceiver{cfg: cfg, set: set, next: next}
}

// Start makes the client and starts each scraper's clock.
func (r *llamacppReceiver) Start(ctx context.Context, host component.Host) error {
	if !r.cfg.Scrapers.onlyGPU() {
		if err := r.addServer(ctx, host); err != nil {
			return err
		}
	}
	if err := r.addControllers(); err != nil {
		return err
	}
	for _, c := range r.controllers {
		if err := c.Start(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

func (r *llamacppReceiver) addServer(ctx context.Context, host component.Host) error {
	// Without providers, as instrumentation of every call would cost as much as
	// all that we do with the answer; the scrapes are instrumented anyway.
	telemetry := r.set.TelemetrySettings
	telemetry.TracerProvider, telemetry.MeterProvider = nil, nil
	var extensions map[component.ID]component.Component
	if host != nil {
		extensions = host.GetExtensions()
	}
	settings := r.cfg.ClientConfig
	if settings.WriteBufferSize == 0 {
		settings.WriteBufferSize = requestSize
	}
	httpClient, err := settings.ToClient(ctx, extensions, telemetry)
	if err != nil {
		return err
	}
	httpClient.Timeout = 0 // the watch has a timer of its own
	client, err := llamaserver.New(r.cfg.ClientConfig.Endpoint, httpClient, string(r.cfg.APIKey), r.cfg.MaxResponseSize)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	r.server = watch.New(client, r.cfg.ClientConfig.Timeout, r.set.Logger)
	return nil
}

// requestSize is what a request takes, in bytes. A connection holds a buffer of
// this size, of 4 KiB otherwise, which adds up in a fleet.
const requestSize = 512

// Shutdown ends the calls under way, then the clocks, then the series: what is
// true now is no longer known.
func (r *llamacppReceiver) Shutdown(ctx context.Context) error {
	if r.server != nil {
		r.server.End()
	}
	if r.gpus != nil {
		r.gpus.Close()
	}
	var errs error
	for _, c := range r.controllers {
		errs = multierr.Append(errs, c.Shutdown(ctx))
	}
	if r.server != nil {
		r.server.Wait()
	}
	for _, end := range r.ends {
		md := end()
		if md.DataPointCount() == 0 {
			continue
		}
		// Returned, it would end the collector with an error where only a queue is full.
		if err := r.next.ConsumeMetrics(ctx, md); err != nil {
			r.set.Logger.Warn("gauges stay until they expire: their last points were refused", zap.Error(err))
		}
	}
	if r.identity != nil {
		r.identity.Withdraw()
	}
	return errs
}

func (r *llamacppReceiver) addControllers() error {
	var where endpoint.Endpoint
	if r.cfg.ClientConfig.Endpoint != "" {
		var err error
		if where, err = endpoint.Parse(r.cfg.ClientConfig.Endpoint); err != nil {
			return fmt.Errorf("endpoint: %w", err)
		}
		r.identity = identity.New(r.cfg.ResourceAttributes, r.cfg.ServiceName, where)
	}
	delay := phase(r.cfg.ClientConfig.Endpoint)
	if cfg := r.cfg.Scrapers.Server.Get(); cfg != nil {
		s := serverscraper.New(cfg, r.set, r.server, r.identity, r.cfg.ForwardUnknown)
		r.ends = append(r.ends, s.End)
		c := cfg.ControllerConfig
		c.InitialDelay += delay % c.CollectionInterval
		if err := r.addController("server", c, s.Scrape); err != nil {
			return err
		}
	}
	if cfg := r.cfg.Scrapers.Slots.Get(); cfg != nil {
		c := cfg.ControllerConfig
		between := 2 * c.CollectionInterval // how often it reads /metrics itself when nobody else does
		if server := r.cfg.Scrapers.Server.Get(); server != nil {
			between = min(between, server.ControllerConfig.CollectionInterval)
		}
		s := slotsscraper.New(cfg, r.set, r.server, r.identity, between)
		r.ends = append(r.ends, s.End)
		c.InitialDelay += delay%c.CollectionInterval + afterServer
		if err := r.addController("slots", c, s.Scrape); err != nil {
			return err
		}
	}
	if cfg := r.cfg.Scrapers.GPU.Get(); cfg != nil {
		c := cfg.ControllerConfig
		c.InitialDelay += delay % c.CollectionInterval
		s := r.newGPUScraper(cfg, where)
		r.ends = append(r.ends, s.End)
		if err := r.addController("gpu", c, s.Scrape); err != nil {
			return err
		}
	}
	return nil
}

// newGPUScraper opens a handle on the session with the driver. where is the
// server's endpoint, zero without one.
func (r *llamacppReceiver) newGPUScraper(cfg *gpuscraper.Config, where endpoint.Endpoint) *gpuscraper.Scraper {
	host := identity.Host(r.cfg.ResourceAttributes)
	r.gpus = gpu.Open(r.set.Logger, cfg.Want(r.set.ID.String(), host, r.identity != nil), gpu.Options{})
	if r.identity == nil {
		return gpuscraper.New(cfg, r.set, r.gpus, host, nil, nil)
	}
	resource := func() (pcommon.Resource, bool) {
		var props *llamaserver.Props
		looked := true
		if r.server != nil {
			props, looked = r.server.LastProps()
		}
		if !looked {
			return pcommon.Resource{}, false
		}
		return r.identity.Resource("", props), true
	}
	return gpuscraper.New(cfg, r.set, r.gpus, host, hostproc.New(where.Address, int(where.Port)), resource)
}

func (r *llamacppReceiver) addController(name string, cfg scraperhelper.ControllerConfig, scrape scraper.ScrapeMetricsFunc) error {
	s, err := scraper.NewMetrics(scrape)
	if err != nil {
		return err
	}
	set := r.set
	set.Logger = withoutRepeats(set.Logger)
	c, err := scraperhelper.NewMetricsController(&cfg, set, r.next, scraperhelper.AddMetricsScraper(component.MustNewType(name), s))
	if err != nil {
		return err
	}
	r.controllers = append(r.controllers, c)
	return nil
}

// afterServer is how long after /metrics /slots is read, when both are due: long
// enough for the answer, so that both share one connection, and so short that
// few requests end in between.
const afterServer = 10 * time.Millisecond

// phase is a part of a second that spreads the clocks of many servers, so that
// they do not all tick at once. Taken modulo an interval, all intervals that
// divide a second tick at the same moment.
func phase(endpoint string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(endpoint))
	return time.Duration(h.Sum32()) % time.Second
}

// withoutRepeats drops the line that scraperhelper logs at every scrape that
// fails: the watch logs a failure once, when it begins.
func withoutRepeats(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return quietCore{c} }))
}

type quietCore struct{ zapcore.Core }

func (c quietCore) With(fields []zapcore.Field) zapcore.Core { return quietCore{c.Core.With(fields)} }

func (c quietCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Message == "Error scraping metrics" {
		return ce
	}
	return c.Core.Check(e, ce)
}
