// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
)

// gpus defines the flag for the metrics of GPUs.
func (o *options) gpus(f *pflag.FlagSet) {
	f.StringVar(&o.gpuMetrics, "gpu-metrics", "", "`URL` of a collector's page of metrics, or of Prometheus' query API, from which to report the energy of the GPUs, such as http://localhost:9464/metrics or http://localhost:9090/api/v1/query")
}

// energySource returns where the energy is read; nil if it is not.
func (o *options) energySource(transport http.RoundTripper) (*energy.Source, error) {
	if o.gpuMetrics == "" {
		return nil, nil //nolint:nilnil // Nothing is wrong, and there is nothing.
	}
	s, err := energy.NewSource(o.gpuMetrics, &http.Client{Transport: transport})
	if err != nil {
		return nil, fmt.Errorf("--gpu-metrics: %w", err)
	}
	return s, nil
}

// beginMetering begins to measure the energy of a run, which starts when it returns.
func beginMetering(ctx context.Context, gpus *energy.Source, stderr io.Writer) *loadgen.Metering {
	m := loadgen.MeterEnergy(ctx, gpus)
	if m != nil && m.Err != nil {
		fmt.Fprintln(stderr, "llamaload: the report will have no energy:", m.Err)
	}
	return m
}

// endMetering adds the energy of a run that has just ended to its report. After an
// interrupt it does so only if the energy is known soon.
func endMetering(ctx context.Context, m *loadgen.Metering, p *loadgen.Report, r *loadgen.Results) {
	ended := time.Now()
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), countersTimeout)
		defer cancel()
	}
	m.End(ctx, ended, p, r)
}
