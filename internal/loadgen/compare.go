// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Difference is one statistic in two reports.
type Difference struct {
	// Metric is ttft, tpot or e2e, Statistic p50, p95 or mean.
	Metric, Statistic string
	A, B              time.Duration
	// Low and High are the bounds of a 99 % confidence interval of B - A.
	Low, High time.Duration
}

// Shown reports whether the interval excludes zero, which shows a difference.
func (d Difference) Shown() bool { return d.Low > 0 || d.High < 0 }

const (
	resamples = 2000
	outside   = 0.01 // of the resamples, both sides together
)

// Comparable returns an error if two reports are of different requests or
// schedules.
func Comparable(a, b *Report) error {
	const cure = "run both with the same settings and --seed"
	if a.Workload.Hash != b.Workload.Hash {
		return fmt.Errorf("different requests: hash %s and %s: %s", a.Workload.Hash, b.Workload.Hash, cure)
	}
	if a.Run.Schedule != b.Run.Schedule {
		return fmt.Errorf("different schedules: %s and %s: %s", a.Run.Schedule, b.Run.Schedule, cure)
	}
	return nil
}

// Compare returns the differences between the latencies of two runs, measured from
// due time, with bootstrap intervals over their requests. It returns an error if the
// runs are not comparable.
func Compare(a, b *Report) ([]Difference, error) {
	if err := Comparable(a, b); err != nil {
		return nil, err
	}
	var all []Difference
	for _, m := range []struct {
		name string
		a, b *Histogram
	}{
		{"ttft", a.Latency.TTFT, b.Latency.TTFT},
		{"tpot", a.Latency.TPOT, b.Latency.TPOT},
		{"e2e", a.Latency.E2E, b.Latency.E2E},
	} {
		if m.a.Count() > 0 && m.b.Count() > 0 {
			all = append(all, differences(m.name, newBars(m.a), newBars(m.b))...)
		}
	}
	return all, nil
}

func differences(metric string, a, b bars) []Difference {
	// The seed is fixed: the same reports give the same intervals.
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // Nobody's secret.
	var deltas [3][]float64
	for range resamples {
		sa, sb := a.resample(r).statistics(), b.resample(r).statistics()
		for i := range deltas {
			deltas[i] = append(deltas[i], sb[i]-sa[i])
		}
	}
	sa, sb := a.statistics(), b.statistics()
	var all []Difference
	for i, name := range []string{"p50", "p95", "mean"} {
		slices.Sort(deltas[i])
		cut := int(outside / 2 * resamples)
		all = append(all, Difference{
			metric, name, time.Duration(sa[i]), time.Duration(sb[i]),
			time.Duration(deltas[i][cut]), time.Duration(deltas[i][resamples-1-cut]),
		})
	}
	return all
}

// bars are values in ascending order, and how often each was seen.
type bars struct{ values, counts []float64 }

func newBars(h *Histogram) bars {
	var b bars
	for _, bar := range h.hdr.Distribution() {
		if bar.Count > 0 {
			b.values = append(b.values, float64(bar.From+bar.To)/2)
			b.counts = append(b.counts, float64(bar.Count))
		}
	}
	return b
}

// resample returns a bootstrap sample. The count of each value is drawn from a
// Poisson distribution instead of all from a multinomial one, which makes no
// difference for more than a few values (Hanley and MacGibbon, 2006).
func (b bars) resample(r *rand.Rand) bars {
	counts := make([]float64, len(b.counts))
	total := 0.0
	for i, n := range b.counts {
		counts[i] = poisson(r, n)
		total += counts[i]
	}
	if total == 0 {
		return b
	}
	return bars{b.values, counts}
}

func poisson(r *rand.Rand, mean float64) float64 {
	if mean > 50 { // a normal distribution is close enough
		return max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
	}
	n := 0.0
	for sum := r.ExpFloat64(); sum < mean; sum += r.ExpFloat64() {
		n++
	}
	return n
}

// statistics returns p50, p95 and mean.
func (b bars) statistics() (s [3]float64) {
	total, sum := 0.0, 0.0
	for i, n := range b.counts {
		total += n
		sum += n * b.values[i]
	}
	s[2] = sum / total
	for i, p := range []float64{0.5, 0.95} {
		seen := 0.0
		for j, n := range b.counts {
			if seen += n; seen >= p*total {
				s[i] = b.values[j]
				break
			}
		}
	}
	return s
}
