// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"fmt"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
)

// NoGPUMetrics is the reason why the report of a run that had no source of GPU
// metrics has no energy.
const NoGPUMetrics = "no GPU metrics were given"

// Energy is what the GPUs used during a whole run, including warm-up and tail, and
// including what they use when idle.
type Energy struct {
	Joules float64 `json:"joules"`
	// JoulesPerOutputToken is Joules divided by the tokens that all requests of the
	// run generated; nil if there were none.
	JoulesPerOutputToken *float64 `json:"joules_per_output_token"`
	// Watts is the mean power.
	Watts float64 `json:"watts"`
	GPUs  int     `json:"gpus"`
	// Source says which metric was read, and where.
	Source string `json:"source"`
	// Note, if not empty, restricts what the figures mean.
	Note string `json:"note,omitempty"`
}

// Metering measures the energy of a run.
type Metering struct {
	meter *energy.Meter
	from  time.Time
	// Err is the reason why there is no energy; nil if it is measured.
	Err error
}

// MeterEnergy begins to measure the energy of a run that starts when it returns. It
// waits until the GPUs have been read once. A nil source measures nothing.
func MeterEnergy(ctx context.Context, s *energy.Source) *Metering {
	if s == nil {
		return nil
	}
	meter, err := s.Start(ctx)
	return &Metering{meter, time.Now(), err}
}

// End adds the energy of the run, which ended at a time, to its report, or the reason
// why it is unknown. It waits until the GPUs have been read after that time.
func (m *Metering) End(ctx context.Context, at time.Time, p *Report, r *Results) {
	if m == nil {
		return
	}
	var used energy.Used
	err := m.Err
	if err == nil {
		used, err = m.meter.End(ctx, m.from, at)
	}
	p.setEnergy(used, err, r)
}

// Discard ends the measurement, if End has not. It may be called in any case.
func (m *Metering) Discard() {
	if m != nil && m.meter != nil {
		m.meter.Stop()
	}
}

func (p *Report) setEnergy(used energy.Used, err error, r *Results) {
	if err != nil {
		p.NoEnergy = err.Error()
		return
	}
	e := &Energy{Joules: used.Joules, Watts: used.Joules / used.Within.Seconds(), GPUs: used.GPUs, Source: used.Source}
	if n := r.AllTokens.Output; n > 0 {
		each := e.Joules / float64(n)
		e.JoulesPerOutputToken = &each
	}
	if r.Uncounted > 0 {
		e.Note = fmt.Sprintf("a token cost less: %d requests were left or cut before the server told their tokens", r.Uncounted)
	}
	p.Energy, p.NoEnergy = e, ""
}

// String describes the energy for people.
func (e *Energy) String() string {
	each := "no output tokens"
	if e.JoulesPerOutputToken != nil {
		each = fmt.Sprintf("%.3g J an output token", *e.JoulesPerOutputToken)
	}
	gpus := "1 GPU"
	if e.GPUs != 1 {
		gpus = fmt.Sprintf("%d GPUs", e.GPUs)
	}
	s := fmt.Sprintf("%s, %.0f J, %.0f W on average of %s, idle power included (%s)", each, e.Joules, e.Watts, gpus, e.Source)
	if e.Note != "" {
		s += "; " + e.Note
	}
	return s
}
