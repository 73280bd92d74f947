// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/telemetry"
)

// Extension runs the load tests of its profiles.
type Extension struct {
	cfg    *Config
	set    extension.Settings
	pipe   telemetry.Pipe
	target target
	gpus   *energy.Source // nil if there is none

	server  *http.Server
	serving sync.WaitGroup

	// ending is cancelled when the collector shuts down, which ends all runs.
	ending  context.Context
	end     context.CancelCauseFunc
	running sync.WaitGroup

	mu   sync.Mutex
	runs []*run // oldest first
}

var (
	_ extension.Extension                   = (*Extension)(nil)
	_ extensioncapabilities.PipelineWatcher = (*Extension)(nil)
)

// target is the server under load.
type target struct {
	endpoint.Endpoint
	http      *http.Client
	client    *completion.Client
	server    *llamaserver.Client
	tokenizer workload.Tokenizer
}

var errShutdown = errors.New("stopped with the collector")

func newExtension(cfg *Config, set extension.Settings) *Extension {
	e := &Extension{cfg: cfg, set: set}
	e.ending, e.end = context.WithCancelCause(context.Background())
	return e
}

// Start implements component.Component. Runs begin when the pipelines are ready.
func (e *Extension) Start(ctx context.Context, host component.Host) error {
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Profiles)) {
		p := e.cfg.Profiles[name]
		if err := p.check(ctx, e.cfg.Limits); err != nil {
			return fmt.Errorf("profiles::%s: %w", name, err)
		}
	}
	var err error
	if e.target, err = e.cfg.Target.connect(ctx, host, e.set.TelemetrySettings); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if g := e.cfg.GPUMetrics.Get(); g != nil {
		client, err := g.ToClient(ctx, host.GetExtensions(), e.set.TelemetrySettings)
		if err != nil {
			return fmt.Errorf("gpu_metrics: %w", err)
		}
		if e.gpus, err = energy.NewSource(g.Endpoint, client); err != nil {
			return fmt.Errorf("gpu_metrics::endpoint: %w", err)
		}
	}
	s := &e.cfg.ServerConfig
	if e.server, err = s.ToServer(ctx, host.GetExtensions(), e.set.TelemetrySettings, e.handler()); err != nil {
		return fmt.Errorf("REST API: %w", err)
	}
	listener, err := s.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("REST API: listen on %s: %w: choose another endpoint", s.NetAddr.Endpoint, err)
	}
	e.set.Logger.Info("Serving the load generator's REST API", zap.Stringer("address", listener.Addr()))
	e.serving.Go(func() {
		if err := e.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("REST API: %w", err)))
		}
	})
	return nil
}

// connect makes the clients of the target. They do not report to the collector's
// internal telemetry, since the extension measures their requests itself.
func (t *TargetConfig) connect(ctx context.Context, host component.Host, set component.TelemetrySettings) (target, error) {
	set.MeterProvider, set.TracerProvider = metricnoop.NewMeterProvider(), tracenoop.NewTracerProvider()
	client, err := t.ClientConfig.ToClient(ctx, host.GetExtensions(), set)
	if err != nil {
		return target{}, err
	}
	client.Timeout = 0 // the completion client enforces it, with an error that names it
	var to target
	to.http = client
	if to.Endpoint, err = endpoint.Parse(t.ClientConfig.Endpoint); err != nil {
		return target{}, err
	}
	to.client, err = completion.New(t.ClientConfig.Endpoint, client, completion.Options{
		APIKey: string(t.APIKey), Prepare: telemetry.Prepare,
		ConnectTimeout: t.ConnectTimeout, FirstTokenTimeout: t.FirstTokenTimeout, Timeout: t.ClientConfig.Timeout,
	})
	if err != nil {
		return target{}, err
	}
	const maxAnswer = 4 << 20
	if to.server, err = llamaserver.New(t.ClientConfig.Endpoint, client, string(t.APIKey), maxAnswer); err != nil {
		return target{}, err
	}
	to.tokenizer = &workload.ServerTokenizer{Base: to.URL.String(), APIKey: string(t.APIKey), HTTP: client}
	return to, nil
}

// Ready implements extensioncapabilities.PipelineWatcher. It starts the profiles
// that run at startup, now that the pipelines can take their measurements.
func (e *Extension) Ready() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Profiles)) {
		if e.cfg.Profiles[name].Start {
			_, err := e.start(name, Overrides{})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stopWithin limits how long a shutdown waits for runs to end.
const stopWithin = 10 * time.Second

// NotReady implements extensioncapabilities.PipelineWatcher. It ends all runs
// while the pipelines can still take their measurements.
func (e *Extension) NotReady() error {
	return e.stopAll(context.Background())
}

func (e *Extension) stopAll(ctx context.Context) error {
	e.mu.Lock() // no run is added after this
	e.end(errShutdown)
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		e.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.New("load runs did not end in time: their last measurements are missing")
	}
}

// Shutdown implements component.Component.
func (e *Extension) Shutdown(ctx context.Context) error {
	err := e.stopAll(ctx)
	if e.server != nil {
		ctx, cancel := context.WithTimeout(ctx, stopWithin)
		defer cancel()
		if e.server.Shutdown(ctx) != nil { // a client still streams the events of a run that has not ended
			err = errors.Join(err, e.server.Close())
		}
	}
	e.serving.Wait()
	if e.target.http != nil {
		e.target.http.CloseIdleConnections()
	}
	if e.gpus != nil {
		e.gpus.Close()
	}
	return err
}

// AttachMetrics sends the metrics of all runs to c until detach is called, with
// histograms as the extension is configured.
func (e *Extension) AttachMetrics(c consumer.Metrics) (detach func()) {
	return e.pipe.AttachMetrics(c, e.cfg.Histogram.buckets())
}

// AttachExponential is AttachMetrics with exponential histograms of at most maxSize
// buckets, 2 to 16384, however the extension is configured. A run that has begun
// before has none.
func (e *Extension) AttachExponential(c consumer.Metrics, maxSize int32) (detach func()) {
	return e.pipe.AttachMetrics(c, telemetry.Buckets(maxSize))
}

// AttachTraces sends the traces of all runs to c until detach is called.
func (e *Extension) AttachTraces(c consumer.Traces) (detach func()) { return e.pipe.AttachTraces(c) }
