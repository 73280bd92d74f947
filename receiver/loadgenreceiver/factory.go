// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver"

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver/internal/metadata"
)

// NewFactory returns the factory of the receiver of type loadgen.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(
		metadata.Type,
		func() component.Config { return newDefaultConfig() },
		receiver.WithMetrics(createMetrics, metadata.MetricsStability),
		receiver.WithTraces(createTraces, metadata.TracesStability),
	)
}

func createMetrics(_ context.Context, _ receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	c := cfg.(*Config)
	return &loadgenReceiver{cfg: c, attach: func(s source) (detach func()) { return c.attachMetrics(s, next) }}, nil
}

func createTraces(_ context.Context, _ receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	return &loadgenReceiver{cfg: cfg.(*Config), attach: func(s source) (detach func()) { return s.AttachTraces(next) }}, nil
}
