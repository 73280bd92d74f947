// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func take(n int, c Curve, g Gaps, seed uint64) []time.Duration {
	var ts []time.Duration
	for t := range Times(c, g, seed) {
		if ts = append(ts, t); len(ts) == n {
			break
		}
	}
	return ts
}

func must[C Curve](c C, err error) Curve {
	if err != nil {
		panic(err)
	}
	return c
}

func TestTimes_ConstantRateIsExactAfterAMillionArrivals(t *testing.T) {
	ts := take(1_000_001, Constant(1000), Regular, 0)
	for _, i := range []int{0, 1, 999, 1_000_000} {
		assert.Equal(t, time.Duration(i)*time.Millisecond, ts[i])
	}
	thirds := take(301, Constant(3), Regular, 0)
	assert.Equal(t, 100*time.Second, thirds[300], "rounding does not add up")
}

func TestTimes_SameSeedSameTimes(t *testing.T) {
	for name, g := range map[string]Gaps{"poisson": Poisson, "gamma": Gamma(0.5)} {
		first := take(1000, Constant(10), g, 7)
		assert.Equal(t, first, take(1000, Constant(10), g, 7), name)
		assert.NotEqual(t, first, take(1000, Constant(10), g, 8), name)
	}
}

// The Kolmogorov-Smirnov test: the largest distance between the distribution of
// the gaps and the expected one. By chance, one seed in a hundred exceeds 1.63/√n;
// these seeds are fixed.
func TestGaps_HaveTheirDistribution(t *testing.T) {
	const n = 20_000
	exponential := func(x float64) float64 { return 1 - math.Exp(-x) }
	for _, c := range []struct {
		name string
		gaps Gaps
		cdf  func(float64) float64
	}{
		{"poisson", Poisson, exponential},
		{"gamma of burstiness 1 is Poisson", Gamma(1), exponential},
		{"gamma of burstiness 0.5", Gamma(0.5), func(x float64) float64 { return math.Erf(math.Sqrt(x / 2)) }},
		{"gamma of burstiness 2", Gamma(2), func(x float64) float64 { return 1 - math.Exp(-2*x)*(1+2*x) }},
		{"gamma of burstiness 3", Gamma(3), func(x float64) float64 { return 1 - math.Exp(-3*x)*(1+3*x+4.5*x*x) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			gaps := make([]float64, 0, n)
			last := 0.0
			for p := range c.gaps(42) {
				gaps, last = append(gaps, p-last), p
				if len(gaps) == n {
					break
				}
			}
			assert.InDelta(t, n, last, 5*math.Sqrt(n)*1.5, "a gap is 1 on average")
			slices.Sort(gaps)
			worst := 0.0
			for i, x := range gaps {
				f := c.cdf(x)
				worst = max(worst, f-float64(i)/n, float64(i+1)/n-f)
			}
			assert.Less(t, worst, 1.63/math.Sqrt(n))
		})
	}
}

// In a Poisson process, the counts of equal intervals have a variance equal to
// their mean, even if the rate follows a curve.
func TestTimes_PoissonCountsFollowTheCurve(t *testing.T) {
	c := must(NewSine(50, 40, 20*time.Second))
	ts := take(100_000, c, Poisson, 3)
	end := ts[len(ts)-1]
	const bins = 400
	width := end / bins
	counts := make([]float64, bins)
	for _, at := range ts {
		counts[min(int(at/width), bins-1)]++
	}
	// Chi-square with some 400 degrees of freedom: mean 400, deviation √800.
	chi2 := 0.0
	for i, n := range counts {
		want := c.Count(time.Duration(i+1)*width) - c.Count(time.Duration(i)*width)
		chi2 += (n - want) * (n - want) / want
	}
	assert.InDelta(t, bins, chi2, 3*math.Sqrt(2*bins))
}

func TestCurves_WhenIsTheInverseOfCount(t *testing.T) {
	for name, c := range map[string]Curve{
		"constant":  Constant(7),
		"ramp up":   must(NewRamp(0, 10, 5*time.Second)),
		"ramp down": must(NewRamp(20, 1, 5*time.Second)),
		"flat ramp": must(NewRamp(4, 4, 5*time.Second)),
		"steps":     must(NewSteps([]Step{{1, 2 * time.Second}, {0, time.Second}, {10, time.Second}, {3, 0}})),
		"sine":      must(NewSine(10, 10, 3*time.Second)),
		"spliced":   Splice(must(NewSine(10, 5, 3*time.Second)), 1700*time.Millisecond, Constant(2)),
	} {
		t.Run(name, func(t *testing.T) {
			last := time.Duration(-1)
			for n := 0.25; n < 60; n += 0.25 {
				at, ok := c.When(n)
				require.True(t, ok)
				assert.InDelta(t, n, c.Count(at), 1e-6)
				assert.GreaterOrEqual(t, at, last)
				last = at
			}
		})
	}
}

func TestCurves_RateIsTheSlopeOfCount(t *testing.T) {
	for name, c := range map[string]Curve{
		"constant": Constant(7),
		"ramp":     must(NewRamp(1, 10, 5*time.Second)),
		"steps":    must(NewSteps([]Step{{1, 2 * time.Second}, {10, time.Second}, {3, 0}})),
		"sine":     must(NewSine(10, 8, 3*time.Second)),
	} {
		for at := 100 * time.Millisecond; at < 8*time.Second; at += 270 * time.Millisecond {
			const h = 100 * time.Microsecond
			slope := (c.Count(at+h) - c.Count(at-h)) / (2 * h).Seconds()
			assert.InDelta(t, slope, c.Rate(at), 1e-3, "%s at %s", name, at)
		}
	}
}

func TestTimes_StepsChangeTheRateAtTheirTime(t *testing.T) {
	c := must(NewSteps([]Step{{2, time.Second}, {0, time.Second}, {4, 0}}))
	want := []time.Duration{0, 500, 2000, 2250, 2500}
	for i := range want {
		want[i] *= time.Millisecond
	}
	assert.Equal(t, want, take(5, c, Regular, 0))
}

func TestTimes_RampSendsTheAreaUnderIt(t *testing.T) {
	c := must(NewRamp(0, 10, 10*time.Second))
	n := 0
	for at := range Times(c, Regular, 0) {
		if at >= 10*time.Second {
			break
		}
		n++
	}
	assert.Equal(t, 50, n)
}

func TestSplice_ChangesTheRateWithoutBurstOrPause(t *testing.T) {
	// One a second; after 2.5 s half of the gap to the next has passed, so at
	// ten a second the other half takes 50 ms.
	c := Splice(Constant(1), 2500*time.Millisecond, Constant(10))
	want := []time.Duration{0, 1000, 2000, 2550, 2650, 2750}
	for i := range want {
		want[i] *= time.Millisecond
	}
	assert.Equal(t, want, take(6, c, Regular, 0))
}

func TestReplay_SendsAtItsTimesAndFaster(t *testing.T) {
	offsets := []time.Duration{0, 0, 300 * time.Millisecond, 2 * time.Second}
	assert.Equal(t, offsets, take(10, must(NewReplay(offsets, 1)), Regular, 0), "ends after the last")
	assert.Equal(t, []time.Duration{0, 0, 75 * time.Millisecond, 500 * time.Millisecond}, take(10, must(NewReplay(offsets, 4)), Regular, 0))
}

func TestNew_SaysWhatIsWrong(t *testing.T) {
	_, rate := NewConstant(0)
	_, nan := NewConstant(math.NaN())
	_, over := NewRamp(1, 2, 0)
	_, from := NewRamp(-1, 2, time.Second)
	_, none := NewSteps(nil)
	_, last := NewSteps([]Step{{1, time.Second}, {0, 0}})
	_, short := NewSteps([]Step{{1, 0}, {2, 0}})
	_, amplitude := NewSine(1, 2, time.Second)
	_, order := NewReplay([]time.Duration{2, 1}, 1)
	_, speed := NewReplay(nil, 0)
	for want, err := range map[string]error{
		"rate of 0: want a number greater than 0":   rate,
		"rate of NaN: want a number greater than 0": nan,
		"ramp over 0s: want a time greater than 0":  over,
		"ramp from -1 requests a second: want 0":    from,
		"no steps: want at least one":               none,
		"step 2: rate of 0 requests a second: want": last,
		"step 1: lasts 0s: want a time":             short,
		"amplitude of 2 requests a second around 1": amplitude,
		"arrival 2 at 1ns: want times from 0 on":    order,
		"speed of 0: want a number greater than 0":  speed,
	} {
		assert.ErrorContains(t, err, want)
	}
}

func BenchmarkTimes(b *testing.B) {
	for _, g := range []struct {
		name string
		gaps Gaps
	}{{"constant", Regular}, {"poisson", Poisson}, {"gamma", Gamma(0.5)}} {
		b.Run(fmt.Sprint(g.name), func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for range Times(Constant(1000), g.gaps, 1) {
				if n++; n > b.N {
					break
				}
			}
		})
	}
}

func TestReplay_PeakIsTheBusiestSecond(t *testing.T) {
	const ms = time.Millisecond
	times := []time.Duration{0, 100 * ms, 200 * ms, 900 * ms, 1000 * ms, 5000 * ms}
	r, err := NewReplay(times, 1)
	require.NoError(t, err)
	assert.Equal(t, 4, r.Peak(), "a second does not include its end")
	r, err = NewReplay(times, 2)
	require.NoError(t, err)
	assert.Equal(t, 5, r.Peak())
	assert.Zero(t, Replay{}.Peak())
}
