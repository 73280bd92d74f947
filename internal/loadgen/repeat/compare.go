// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package repeat

import (
	"fmt"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// outside is the probability of a difference outside the interval of Compare, both
// sides together. It is that of loadgen.Compare.
const outside = 0.01

// Compare returns the differences between the latencies of two sets, with 99 %
// intervals over their runs (Welch's t). The numbers of runs may differ. It returns
// an error if the sets are not comparable, or if one has fewer than two completed
// runs.
func Compare(a, b *Set) ([]loadgen.Difference, error) {
	ra, rb := a.Completed(), b.Completed()
	if len(ra) < 2 || len(rb) < 2 {
		return nil, fmt.Errorf("%d and %d completed runs: want two or more of each", len(ra), len(rb))
	}
	if err := loadgen.Comparable(ra[0], rb[0]); err != nil {
		return nil, err
	}
	var all []loadgen.Difference
	for _, metric := range []string{"ttft", "tpot", "e2e"} {
		for _, statistic := range []string{"p50", "p95", "mean"} {
			f, err := loadgen.ParseFigure(statistic + "(" + metric + ")")
			if err != nil {
				return nil, err
			}
			va, vb := Values(f, ra), Values(f, rb)
			if len(va) < 2 || len(vb) < 2 {
				continue
			}
			mean, half := difference(va, vb, outside/2)
			all = append(all, loadgen.Difference{
				Metric: metric, Statistic: statistic, A: duration(Of(va).Mean), B: duration(Of(vb).Mean),
				Low: duration(mean - half), High: duration(mean + half),
			})
		}
	}
	return all, nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
