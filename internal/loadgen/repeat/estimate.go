// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package repeat estimates the figures of runs that differ only in their seeds. The
// runs are independent of one another, which the requests of one run are not: they
// queue behind one another. So the intervals here are over runs.
package repeat // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/repeat"

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Level is the confidence level of estimates.
const Level = 0.95

// Estimate is what the runs say about the mean of a figure. Low and High are the
// bounds of the interval that covers the mean with probability Level, by Student's t.
// They are nil for fewer than two runs, which say nothing about their variation.
type Estimate struct {
	Runs int      `json:"runs"`
	Mean float64  `json:"mean"`
	Low  *float64 `json:"low"`
	High *float64 `json:"high"`
}

// Of returns the estimate from the values of a figure, one of each run. There must
// be at least one.
func Of(values []float64) Estimate {
	e := Estimate{Runs: len(values), Mean: stat.Mean(values, nil)}
	if len(values) > 1 {
		n := float64(len(values))
		half := student(n-1, (1-Level)/2) * math.Sqrt(stat.Variance(values, nil)/n)
		low, high := e.Mean-half, e.Mean+half
		e.Low, e.High = &low, &high
	}
	return e
}

// Relative returns half the width of the interval as a share of the mean, and false
// if there is no interval.
func (e Estimate) Relative() (float64, bool) {
	if e.Low == nil {
		return 0, false
	}
	half := (*e.High - *e.Low) / 2
	if half == 0 {
		return 0, true
	}
	return half / math.Abs(e.Mean), e.Mean != 0
}

// student returns the value that a t-distributed variable exceeds with probability
// above.
func student(degrees, above float64) float64 {
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: degrees}.Quantile(1 - above)
}

// difference returns the mean of b minus that of a, and how far it may be off, up
// or down, with probability above for each side. The variances may differ (Welch,
// 1947). Both need two values or more.
func difference(a, b []float64, above float64) (mean, half float64) {
	va, vb := stat.Variance(a, nil)/float64(len(a)), stat.Variance(b, nil)/float64(len(b))
	mean = stat.Mean(b, nil) - stat.Mean(a, nil)
	if va+vb == 0 {
		return mean, 0
	}
	degrees := (va + vb) * (va + vb) / (va*va/float64(len(a)-1) + vb*vb/float64(len(b)-1))
	return mean, student(degrees, above) * math.Sqrt(va+vb)
}

// MayBeBest returns which of several settings may be the best in a figure, given the
// figure's values in the runs of each. With probability Level, the best is among
// them: a setting is left out only if another is shown to be better, at a level
// that allows for the number of comparisons (Gupta's subset selection, with
// Bonferroni's bound). A setting without values is left out. If any other has fewer
// than two, nothing can be said, and the result is nil.
func MayBeBest(values [][]float64, moreIsBetter bool) []bool {
	measured := 0
	for _, v := range values {
		if len(v) == 1 {
			return nil
		}
		if len(v) > 0 {
			measured++
		}
	}
	if measured < 2 {
		return nil
	}
	may := make([]bool, len(values))
	for i, mine := range values {
		may[i] = len(mine) > 0
		for j, other := range values {
			if i == j || len(mine) == 0 || len(other) == 0 {
				continue
			}
			better, half := difference(mine, other, (1-Level)/float64(measured-1))
			if !moreIsBetter {
				better = -better
			}
			if better > half {
				may[i] = false
			}
		}
	}
	return may
}
