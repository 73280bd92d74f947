// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// RampConfig is the section ramp: a rate that changes linearly From one value To
// another and then stays. Rates are in requests per second.
type RampConfig struct {
	From float64       `mapstructure:"from"`
	To   float64       `mapstructure:"to"`
	Over time.Duration `mapstructure:"over"`
}

// StepConfig is one of the steps, which follow one another. The last one stays,
// whatever its For.
type StepConfig struct {
	Rate float64       `mapstructure:"rate"`
	For  time.Duration `mapstructure:"for"`
}

// SineConfig is the section sine: a rate that oscillates around Mean by Amplitude.
type SineConfig struct {
	Mean      float64       `mapstructure:"mean"`
	Amplitude float64       `mapstructure:"amplitude"`
	Period    time.Duration `mapstructure:"period"`
}

// ReplayConfig is the section replay, which sends requests at recorded times.
type ReplayConfig struct {
	// Times is the path of a file of times in seconds from the start, one per line.
	Times string `mapstructure:"times"`
	// Speed is how many times faster to replay; 1 by default.
	Speed float64 `mapstructure:"speed"`
}

// schedules returns the names of the settings that say when requests are due, of
// which a profile has exactly one.
func (p *ProfileConfig) schedules() []string {
	var names []string
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"rate", p.Rate != 0},
		{"ramp", p.Ramp.HasValue()},
		{"steps", p.Steps != nil},
		{"sine", p.Sine.HasValue()},
		{"replay", p.Replay.HasValue()},
		{"users", p.Users != 0},
	} {
		if s.set {
			names = append(names, s.name)
		}
	}
	return names
}

// unscheduled returns the profile without any schedule.
func (p ProfileConfig) unscheduled() ProfileConfig {
	p.Rate, p.Users, p.Steps = 0, 0, nil
	p.Ramp, p.Sine, p.Replay = configoptional.None[RampConfig](), configoptional.None[SineConfig](), configoptional.None[ReplayConfig]()
	return p
}

// validateSchedule checks what can be checked without reading a file.
func (p *ProfileConfig) validateSchedule(l LimitsConfig) error {
	given := p.schedules()
	switch {
	case len(given) > 1 && slices.Contains(given, "users"):
		return fmt.Errorf("%s: an open loop has a rate, a closed loop has users; keep one of them", strings.Join(given, " and "))
	case len(given) > 1:
		return fmt.Errorf("%s: each says when requests are due; keep one of them", strings.Join(given, " and "))
	case p.Users < 0 || p.Users > l.Users:
		return fmt.Errorf("users: %d: want 1 to %d, or raise limits::users", p.Users, l.Users)
	}
	for _, t := range []struct {
		name string
		time time.Duration
	}{{"think", p.Think}, {"warm_up", p.WarmUp}, {"tail", p.Tail}, {"max_wait", p.MaxWait}, {"drain", p.Drain}} {
		if t.time < 0 {
			return fmt.Errorf("%s: %s: want 0s or more", t.name, t.time)
		}
	}
	if p.Replay.HasValue() {
		if p.Gaps != "constant" {
			return errors.New("gaps and replay: the times of a replay have their own gaps; leave gaps out")
		}
		if err := p.Replay.Get().validate(); err != nil {
			return err
		}
		_, err := p.paced(arrival.Replay{}, 0)
		return err
	}
	_, err := p.pacing(0, l)
	return err
}

// pacing returns how a run is paced. It reads the file of a replay.
func (p *ProfileConfig) pacing(seed uint64, l LimitsConfig) (*loadgen.Config, error) {
	if p.Users > 0 {
		return p.paced(nil, seed)
	}
	curve, peak, err := p.curve()
	if err != nil {
		return nil, err
	}
	if r, ok := curve.(arrival.Replay); ok && p.Duration == l.Duration && r[len(r)-1] >= l.Duration {
		return nil, fmt.Errorf("replay: takes %s: want less than %s, a higher speed, a duration after which to cut it off, or raise limits::duration", r[len(r)-1], l.Duration)
	}
	switch {
	case peak > l.Rate && p.Replay.HasValue():
		return nil, fmt.Errorf("replay: %g requests in one second: want at most %g, a lower speed, or raise limits::rate", peak, l.Rate)
	case peak > l.Rate:
		return nil, fmt.Errorf("%s: %g: want at most %g requests a second, or raise limits::rate", p.schedules()[0], peak, l.Rate)
	}
	return p.paced(curve, seed)
}

// paced returns how a run whose rate follows the curve, or a closed loop for a nil
// curve, is paced.
func (p *ProfileConfig) paced(curve arrival.Curve, seed uint64) (*loadgen.Config, error) {
	c := &loadgen.Config{
		Users: p.Users, Think: p.Think, Duration: p.Duration, WarmUp: p.WarmUp, Tail: p.Tail,
		MaxInFlight: p.MaxInFlight, MaxWait: p.MaxWait, Drain: p.Drain, MaxErrors: p.MaxErrors, Sleep: loadgen.PreciseSleep,
	}
	if curve != nil {
		gaps, err := p.gaps()
		if err != nil {
			return nil, err
		}
		c.Dial = arrival.NewDial(curve, gaps, seed)
	}
	if p.Objective != "" {
		var err error
		if c.Objective, err = loadgen.ParseObjective(p.Objective); err != nil {
			return nil, err
		}
	}
	err := c.Validate()
	return c, err
}

// curve returns the rate of an open loop over time, and the highest rate that it
// reaches.
func (p *ProfileConfig) curve() (c arrival.Curve, peak float64, err error) {
	switch {
	case p.Ramp.HasValue():
		r := p.Ramp.Get()
		c, err = arrival.NewRamp(r.From, r.To, r.Over)
		return c, max(r.From, r.To), err // the error names the ramp
	case p.Steps != nil:
		steps := make([]arrival.Step, len(p.Steps))
		for i, s := range p.Steps {
			steps[i] = arrival.Step(s)
			peak = max(peak, s.Rate)
		}
		if c, err = arrival.NewSteps(steps); err != nil {
			err = fmt.Errorf("steps: %w", err)
		}
		return c, peak, err
	case p.Sine.HasValue():
		s := p.Sine.Get()
		if c, err = arrival.NewSine(s.Mean, s.Amplitude, s.Period); err != nil {
			err = fmt.Errorf("sine: %w", err)
		}
		return c, s.Mean + s.Amplitude, err
	case p.Replay.HasValue():
		r, err := p.Replay.Get().read()
		if err != nil {
			return nil, 0, fmt.Errorf("replay: %w", err)
		}
		return r, float64(r.Peak()), nil
	}
	if c, err = arrival.NewConstant(p.Rate); err != nil {
		err = fmt.Errorf("rate: %w", err)
	}
	return c, p.Rate, err
}

func (r *ReplayConfig) validate() error {
	if r.Times == "" {
		return errors.New("replay::times is missing: want a file of seconds from the start, one a line")
	}
	if _, err := arrival.NewReplay(nil, r.Speed); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

func (r *ReplayConfig) read() (arrival.Replay, error) {
	file, err := os.Open(r.Times)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	rec, err := traffic.Read(file, r.Times, traffic.Window{})
	switch {
	case err != nil:
		return nil, err
	case rec.Format != traffic.Times:
		return nil, fmt.Errorf("%s has lengths of prompts and answers besides times: want seconds from the start, one a line, or replay it with llamaload replay", r.Times)
	}
	dues := make([]time.Duration, len(rec.Requests))
	for i, q := range rec.Requests {
		dues[i] = q.Due
	}
	return arrival.NewReplay(dues, r.Speed)
}

func (p *ProfileConfig) gaps() (arrival.Gaps, error) {
	switch p.Gaps {
	case "constant":
		return arrival.Regular, nil
	case "poisson":
		return arrival.Poisson, nil
	case "gamma":
		if !(p.Burstiness > 0) {
			return nil, fmt.Errorf("burstiness: %g: want a number greater than 0", p.Burstiness)
		}
		return arrival.Gamma(p.Burstiness), nil
	}
	return nil, fmt.Errorf("gaps: %q: want constant, poisson or gamma", p.Gaps)
}

// schedule describes for people when requests are due.
func (p *ProfileConfig) schedule() string {
	words, lasts := p.arrivals(), "for"
	if p.converses() {
		words += fmt.Sprintf(", conversations of %s turns with %s between an answer and the next", workload.Range(p.Turns), loadgen.Plain(p.Think))
	}
	if p.Replay.HasValue() {
		lasts = "for at most"
	}
	return fmt.Sprintf("%s, %s %s", words, lasts, loadgen.Plain(p.Duration))
}

func (p *ProfileConfig) arrivals() string {
	var rate string
	switch {
	case p.Users > 0:
		return fmt.Sprintf("closed loop of %d users who think %s", p.Users, loadgen.Plain(p.Think))
	case p.Replay.HasValue():
		r := p.Replay.Get()
		return fmt.Sprintf("open loop, replay of %s %g times as fast", r.Times, r.Speed)
	case p.Ramp.HasValue():
		r := p.Ramp.Get()
		rate = fmt.Sprintf("ramp from %g to %g requests/s over %s", r.From, r.To, loadgen.Plain(r.Over))
	case p.Steps != nil:
		var steps []string
		for i, s := range p.Steps {
			step := fmt.Sprintf("%g requests/s", s.Rate)
			if i < len(p.Steps)-1 {
				step += " for " + loadgen.Plain(s.For)
			}
			steps = append(steps, step)
		}
		rate = "steps " + strings.Join(steps, ", ")
	case p.Sine.HasValue():
		s := p.Sine.Get()
		rate = fmt.Sprintf("sine around %g by %g requests/s in %s", s.Mean, s.Amplitude, loadgen.Plain(s.Period))
	default:
		rate = fmt.Sprintf("%g requests/s", p.Rate)
	}
	rate = "open loop, " + rate + ", gaps " + p.Gaps
	if p.Gaps == "gamma" {
		rate += fmt.Sprintf(" of burstiness %g", p.Burstiness)
	}
	return rate
}
