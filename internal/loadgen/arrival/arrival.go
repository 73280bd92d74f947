// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package arrival computes when the requests of a run are due.
//
// A Curve is the rate over time. Gaps are the distances between arrivals at a rate
// of 1. Any curve can be combined with any gaps: the position of an arrival is the
// sum of the gaps before it, and the arrival is due when the curve's expected count
// reaches that position (the time-rescaling theorem; with exponential gaps this
// is a Poisson process whose rate follows the curve).
//
// The package has no clock: a due time is a function of the curve, the gaps, the
// seed and the number of the arrival.
package arrival // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A Curve is a rate of arrivals over the time since the start.
type Curve interface {
	// Rate returns the rate at t, in arrivals per second.
	Rate(t time.Duration) float64
	// Count returns the expected number of arrivals until t: the integral of the
	// rate.
	Count(t time.Duration) float64
	// When is the inverse of Count. It returns the first time at which n arrivals
	// are expected, and false if that never happens.
	When(n float64) (time.Duration, bool)
}

// Gaps returns the positions of arrivals: a sequence that grows by 1 on average.
// The same seed gives the same positions.
type Gaps func(seed uint64) iter.Seq[float64]

// Times returns the due times of all arrivals of a curve with the given gaps, in
// order and counted from the start.
func Times(c Curve, g Gaps, seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		for p := range g(seed) {
			t, ok := c.When(p)
			if !ok || !yield(t) {
				return
			}
		}
	}
}

// Regular gaps are all equal. The first arrival is due at once.
func Regular(uint64) iter.Seq[float64] {
	return func(yield func(float64) bool) {
		for n := 0.0; yield(n); n++ { //nolint:revive // The condition does the work.
		}
	}
}

// Poisson gaps follow an exponential distribution: arrivals are independent of one
// another, like those of many independent users.
func Poisson(seed uint64) iter.Seq[float64] {
	return sums(func() func() float64 { return random(seed).ExpFloat64 })
}

// Gamma gaps follow a gamma distribution whose shape is the burstiness, as in
// vllm bench: 1 is Poisson, less is burstier, more is more regular. The
// coefficient of variation of a gap is 1/√burstiness. The burstiness must be
// greater than 0.
func Gamma(burstiness float64) Gaps {
	return func(seed uint64) iter.Seq[float64] {
		return sums(func() func() float64 {
			r := random(seed)
			return func() float64 { return gamma(r, burstiness) / burstiness }
		})
	}
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6172726976616c)) } //nolint:gosec // Reproducible, and nobody's secret.

func sums(newGap func() func() float64) iter.Seq[float64] {
	return func(yield func(float64) bool) {
		gap := newGap()
		for p := gap(); yield(p); p += gap() { //nolint:revive // The condition does the work.
		}
	}
}

// gamma draws from the gamma distribution with the given shape and scale 1.
// Marsaglia and Tsang, A Simple Method for Generating Gamma Variables, ACM TOMS
// 26 (2000), with their boost for a shape below 1.
func gamma(r *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(r, shape+1) * math.Pow(1-r.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := r.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-r.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// Constant is a rate that never changes.
//
//	rate ┤────────────
//	     └──────────── t
type Constant float64

// NewConstant returns a constant rate, and an error unless it is greater than 0.
func NewConstant(rate float64) (Constant, error) {
	if err := positive("rate", rate); err != nil {
		return 0, err
	}
	return Constant(rate), nil
}

// Rate implements Curve.
func (c Constant) Rate(time.Duration) float64 { return float64(c) }

// Count implements Curve.
func (c Constant) Count(t time.Duration) float64 { return float64(c) * t.Seconds() }

// When implements Curve.
func (c Constant) When(n float64) (time.Duration, bool) {
	if c <= 0 {
		return 0, n <= 0
	}
	return duration(n / float64(c))
}

// ramp is a rate that grows or falls linearly. It is valid until over, where it is
// spliced with another curve.
type ramp struct {
	from, to float64
	over     time.Duration
}

// NewRamp returns a rate that changes linearly from one value to another and stays
// there.
//
//	to   ┤     ╭──────
//	from ┤────╯
//	     └────┴─┴───── t
//	          over
func NewRamp(from, to float64, over time.Duration) (Curve, error) {
	switch {
	case !(from >= 0) || math.IsInf(from, 0):
		return nil, fmt.Errorf("ramp from %g requests a second: want 0 or more", from)
	case over <= 0:
		return nil, fmt.Errorf("ramp over %s: want a time greater than 0", over)
	}
	if !(to > 0) || math.IsInf(to, 0) {
		return nil, fmt.Errorf("ramp to %g requests a second: want a number greater than 0", to)
	}
	return Splice(ramp{from, to, over}, over, Constant(to)), nil
}

func (r ramp) Rate(t time.Duration) float64 {
	return r.from + (r.to-r.from)*t.Seconds()/r.over.Seconds()
}

func (r ramp) Count(t time.Duration) float64 {
	return (r.from + r.Rate(t)) / 2 * t.Seconds()
}

// When solves from·t + slope/2·t² = n in the form that is exact for a slope near 0.
func (r ramp) When(n float64) (time.Duration, bool) {
	slope := (r.to - r.from) / r.over.Seconds()
	d := r.from*r.from + 2*slope*n
	if n <= 0 {
		return 0, true
	}
	if d < 0 {
		return 0, false
	}
	return duration(2 * n / (r.from + math.Sqrt(d)))
}

// Step is a rate and how long it lasts.
type Step struct {
	Rate float64
	For  time.Duration
}

// NewSteps returns a rate that changes in steps. The last step has no end.
//
//	     ┤        ╭────
//	rate ┤   ╭────╯
//	     ┤───╯
//	     └───┴────┴──── t
func NewSteps(steps []Step) (Curve, error) {
	if len(steps) == 0 {
		return nil, errors.New("no steps: want at least one rate")
	}
	var c Curve
	for i, s := range slices.Backward(steps) {
		if !(s.Rate >= 0) || math.IsInf(s.Rate, 0) || s.Rate == 0 && i == len(steps)-1 {
			return nil, fmt.Errorf("step %d: rate of %g requests a second: want 0 or more, and in the last step more", i+1, s.Rate)
		}
		if c == nil {
			c = Constant(s.Rate)
			continue
		}
		if s.For <= 0 {
			return nil, fmt.Errorf("step %d: lasts %s: want a time greater than 0", i+1, s.For)
		}
		c = Splice(Constant(s.Rate), s.For, c)
	}
	return c, nil
}

// Sine is a rate that oscillates around a mean, like the load over a day.
//
//	rate(t) = mean + amplitude · sin(2π · t/period)
type Sine struct {
	Mean, Amplitude float64
	Period          time.Duration
}

// NewSine returns a sine, and an error if the rate would fall below 0.
func NewSine(mean, amplitude float64, period time.Duration) (Sine, error) {
	switch {
	case !(amplitude >= 0) || amplitude > mean:
		return Sine{}, fmt.Errorf("amplitude of %g requests a second around %g: want between 0 and the mean", amplitude, mean)
	case period <= 0:
		return Sine{}, fmt.Errorf("period of %s: want a time greater than 0", period)
	}
	return Sine{mean, amplitude, period}, positive("mean", mean)
}

// Rate implements Curve.
func (s Sine) Rate(t time.Duration) float64 {
	return s.Mean + s.Amplitude*math.Sin(2*math.Pi*t.Seconds()/s.Period.Seconds())
}

// Count implements Curve.
func (s Sine) Count(t time.Duration) float64 {
	w := 2 * math.Pi / s.Period.Seconds()
	return s.Mean*t.Seconds() + s.Amplitude/w*(1-math.Cos(w*t.Seconds()))
}

// When implements Curve. Count lies between mean·t and mean·t + amplitude·period/π,
// and never falls: bisection between these ends at the nanosecond.
func (s Sine) When(n float64) (time.Duration, bool) {
	if n <= 0 {
		return 0, true
	}
	hi, ok := duration(n / s.Mean)
	if !ok {
		return 0, false
	}
	lo, _ := duration(max(0, n-s.Amplitude*s.Period.Seconds()/math.Pi) / s.Mean)
	for hi-lo > 1 {
		if mid := lo + (hi-lo)/2; s.Count(mid) < n {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi, true
}

// Splice returns a curve that follows the first curve until at and the second from
// then on, whose own time begins at 0 there. The next arrival keeps the share of
// its gap that has passed, so the change causes neither a burst nor a pause.
func Splice(first Curve, at time.Duration, second Curve) Curve {
	return splice{first, second, at, first.Count(at)}
}

type splice struct {
	first, second Curve
	at            time.Duration
	n             float64 // expected arrivals until at
}

func (s splice) Rate(t time.Duration) float64 {
	if t < s.at {
		return s.first.Rate(t)
	}
	return s.second.Rate(t - s.at)
}

func (s splice) Count(t time.Duration) float64 {
	if t < s.at {
		return s.first.Count(t)
	}
	return s.n + s.second.Count(t-s.at)
}

func (s splice) When(n float64) (time.Duration, bool) {
	if n < s.n {
		if t, ok := s.first.When(n); ok && t < s.at {
			return t, true
		}
	}
	t, ok := s.second.When(max(0, n-s.n))
	if !ok || t > math.MaxInt64-s.at {
		return 0, false
	}
	return s.at + t, true
}

// Replay is a list of times after the start, in order. With regular gaps, there is
// one arrival at each of them.
type Replay []time.Duration

// NewReplay returns arrivals at the given offsets, replayed speed times as fast.
func NewReplay(offsets []time.Duration, speed float64) (Replay, error) {
	if err := positive("speed", speed); err != nil {
		return nil, err
	}
	r := make(Replay, len(offsets))
	last := time.Duration(0)
	for i, o := range offsets {
		if o < last {
			return nil, fmt.Errorf("arrival %d at %s: want times from 0 on, in order", i+1, o)
		}
		r[i] = time.Duration(math.Round(float64(o) / speed))
		last = o
	}
	return r, nil
}

// Rate implements Curve. It returns the number of arrivals in the second around t.
func (r Replay) Rate(t time.Duration) float64 {
	return r.Count(t+time.Second/2) - r.Count(t-time.Second/2)
}

// Count implements Curve.
func (r Replay) Count(t time.Duration) float64 {
	n, _ := slices.BinarySearch(r, t)
	return float64(n)
}

// When implements Curve.
func (r Replay) When(n float64) (time.Duration, bool) {
	if i := int(n); i < len(r) {
		return r[i], true
	}
	return 0, false
}

// Peak returns the greatest number of arrivals within any one second.
func (r Replay) Peak() int {
	most, first := 0, 0
	for i, at := range r {
		for at-r[first] >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// duration converts seconds. It returns false if they exceed time.Duration's range
// of 292 years.
func duration(seconds float64) (time.Duration, bool) {
	ns := math.Round(seconds * 1e9)
	return time.Duration(ns), ns < math.MaxInt64
}

func positive(what string, v float64) error {
	if !(v > 0) || math.IsInf(v, 0) {
		return fmt.Errorf("%s of %g: want a number greater than 0", what, v)
	}
	return nil
}
