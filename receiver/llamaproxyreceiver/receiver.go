// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

// lastSend is how long Shutdown waits for what is being sent.
const lastSend = 2 * time.Second

// proxyReceiver is one output of a proxy: metrics or traces.
type proxyReceiver struct {
	cfg    *Config
	set    receiver.Settings
	output output
	hub    *hub // nil unless it runs
}

// output takes the measurements of a proxy.
type output interface {
	// start begins to send what is measured.
	start(h *hub)
	// ended takes in a request that has ended. It does not block.
	ended(x *measured)
	// stop sends what is left. No request ends any more.
	stop(ctx context.Context)
}

func newMetricsReceiver(cfg *Config, set receiver.Settings, next consumer.Metrics) (receiver.Metrics, error) {
	return &proxyReceiver{cfg: cfg, set: set, output: newMetricsOutput(cfg, set, next)}, nil
}

func newTracesReceiver(cfg *Config, set receiver.Settings, next consumer.Traces) (receiver.Traces, error) {
	return &proxyReceiver{cfg: cfg, set: set, output: newTracesOutput(set, next)}, nil
}

// Start implements component.Component.
func (r *proxyReceiver) Start(ctx context.Context, host component.Host) error {
	if r.cfg.ServerConfig.NetAddr.Endpoint == "" {
		r.set.Logger.Info("the proxy is off: endpoint is empty")
		return nil
	}
	h, err := join(ctx, r, host)
	if err != nil {
		return err
	}
	r.hub = h
	r.output.start(h)
	h.attach(r.output)
	return nil
}

// Shutdown implements component.Component. The first receiver of a proxy to be shut
// down drains it.
func (r *proxyReceiver) Shutdown(ctx context.Context) error {
	if r.hub == nil {
		return nil
	}
	err := r.hub.drain()
	r.output.stop(ctx)
	r.hub.leave()
	r.hub = nil
	return err
}
