// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package repeat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// report is a report with the given output tokens per second.
func report(t *testing.T, tokens float64, ended string) *loadgen.Report {
	t.Helper()
	r := &loadgen.Report{Run: loadgen.About{Ended: ended, Schedule: "s"}, Workload: loadgen.Workload{Hash: "h"}}
	r.Rates.Seconds, r.Rates.OutputTokens = 1, tokens
	return r
}

// instant answers at once, and says that it took as long.
type instant time.Duration

func (d instant) Do(_ context.Context, _ *completion.Request, due time.Time) completion.Result {
	return completion.Result{Due: due, Sent: due, End: due.Add(time.Duration(d)), OutputTokens: -1, CachedTokens: -1}
}

func (d instant) Request(uint64) *completion.Request { return nil }

// set is a set of runs of one request each, which took as long.
func set(t *testing.T, schedule string, took ...time.Duration) *Set {
	t.Helper()
	var runs []*loadgen.Report
	for _, d := range took {
		c := loadgen.Config{Users: 1, Requests: 1, MaxErrors: 1}
		run, err := loadgen.Start(t.Context(), c, instant(d), instant(d))
		require.NoError(t, err)
		results, err := run.Wait()
		require.NoError(t, err)
		runs = append(runs, loadgen.NewReport(&c, results, loadgen.About{Ended: loadgen.Done, Schedule: schedule}, loadgen.Workload{Hash: "h"}))
	}
	return NewSet(&Rule{Least: len(runs), Most: len(runs)}, runs)
}

func TestOf_IsTheIntervalOfStudentsT(t *testing.T) {
	// Student's own data (1908): the additional hours of sleep with the second drug.
	e := Of([]float64{1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4})
	assert.Equal(t, 10, e.Runs)
	assert.InDelta(t, 2.33, e.Mean, 1e-9)
	assert.InDelta(t, 0.8976775, *e.Low, 1e-6, "as R's t.test says")
	assert.InDelta(t, 3.7623225, *e.High, 1e-6)
	relative, ok := e.Relative()
	assert.True(t, ok)
	assert.InDelta(t, 1.4323225/2.33, relative, 1e-6)

	one := Of([]float64{3})
	assert.Equal(t, Estimate{Runs: 1, Mean: 3}, one, "one run says nothing of how runs differ")
	_, ok = one.Relative()
	assert.False(t, ok)
	relative, ok = Of([]float64{0, 0, 0}).Relative()
	assert.True(t, ok)
	assert.Zero(t, relative)
	_, ok = Of([]float64{-1, 1}).Relative()
	assert.False(t, ok, "no share of a mean of 0")
}

func TestDifference_IsWelchs(t *testing.T) {
	drug1 := []float64{0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0}
	drug2 := []float64{1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4}
	mean, half := difference(drug1, drug2, 0.025)
	assert.InDelta(t, 1.58, mean, 1e-9)
	assert.InDelta(t, -0.2054832, mean-half, 1e-6, "as R's t.test says")
	assert.InDelta(t, 3.3654832, mean+half, 1e-6)
	_, half = difference([]float64{1, 1}, []float64{2, 2}, 0.025)
	assert.Zero(t, half)
}

// normal returns a function that draws values around a mean.
func normal(seed uint64) func(mean, deviation float64, n int) []float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(mean, deviation float64, n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = mean + deviation*r.NormFloat64()
		}
		return v
	}
}

// Runs that stop once the interval is narrow enough stop too early now and then,
// when it is narrow by chance. This is how often the interval still covers the truth.
func TestOf_CoversTheTruthAlthoughRunsStopOnceItIsNarrow(t *testing.T) {
	draw := normal(1)
	const trials, truth = 1000, 100
	for _, deviation := range []float64{0.5, 2, 4} { // percent of the mean, to be known within 2 %
		covered, runs := 0, 0
		for range trials {
			values := draw(truth, deviation, 5)
			for ; len(values) < 30; values = append(values, draw(truth, deviation, 1)...) {
				if r, _ := Of(values).Relative(); r < 0.02 {
					break
				}
			}
			e := Of(values)
			if *e.Low <= truth && truth <= *e.High {
				covered++
			}
			runs += len(values)
		}
		share := float64(covered) / trials
		t.Logf("deviation %g %%: %.1f runs, %.1f %% cover", deviation, float64(runs)/trials, share*100)
		assert.Greater(t, share, 0.91)
	}
}

func TestMayBeBest_HasTheBestAsOftenAsItSays(t *testing.T) {
	draw := normal(2)
	const trials = 500
	missed, ties := 0, 0
	for range trials {
		may := MayBeBest([][]float64{draw(10, 1, 5), draw(10.3, 1, 5), draw(11, 2, 5), draw(12, 1, 5)}, false)
		if !may[0] {
			missed++
		}
		equal := MayBeBest([][]float64{draw(10, 1, 5), draw(10, 1, 5), draw(10, 1, 5)}, true)
		if fmt.Sprint(equal) == "[true true true]" {
			ties++
		}
	}
	assert.Less(t, float64(missed)/trials, 1-Level)
	assert.Greater(t, float64(ties)/trials, 0.85, "no difference is shown where there is none, mostly")
}

func TestMayBeBest(t *testing.T) {
	slow, fast, vague := []float64{20, 21, 20}, []float64{10, 11, 10}, []float64{5, 30, 17}
	assert.Equal(t, []bool{false, true, true}, MayBeBest([][]float64{slow, fast, vague}, false))
	assert.Equal(t, []bool{true, false, true}, MayBeBest([][]float64{slow, fast, vague}, true), "more is better")
	assert.Equal(t, []bool{false, true, false}, MayBeBest([][]float64{slow, fast, nil}, false), "what was not measured is not the best")
	assert.Nil(t, MayBeBest([][]float64{slow, {1}}, false), "one run says nothing")
	assert.Nil(t, MayBeBest([][]float64{slow, nil}, false), "nothing to be better than")
	assert.Nil(t, MayBeBest(nil, false))
}

func TestParsePrecision(t *testing.T) {
	for text, want := range map[string]string{
		"ci<2%":                               "ci<2%",
		"ci(p95(ttft))<0.5%":                  "ci(p95(ttft))<0.5%",
		"ci(output_tokens_per_second) < 10 %": "ci(output_tokens_per_second)<10%",
		"ci<2":                                "",
		"ci<0%":                               "",
		"ci>2%":                               "",
		"ci(speed)<2%":                        "",
		"":                                    "",
	} {
		p, err := ParsePrecision(text)
		if want == "" {
			require.ErrorContains(t, err, "precision ", text)
			require.ErrorContains(t, err, "want ", text)
			continue
		}
		require.NoError(t, err, text)
		assert.Equal(t, want, p.String())
	}
}

func TestRule_StopsWhenPreciseOrAtTheMost(t *testing.T) {
	p, err := ParsePrecision("ci(output_tokens_per_second)<5%")
	require.NoError(t, err)
	runs := func(values ...float64) (all []*loadgen.Report) {
		for _, v := range values {
			all = append(all, report(t, v, loadgen.Done))
		}
		return all
	}
	until := &Rule{Least: 3, Most: 6, Until: []Precision{p}}
	assert.Equal(t, "3 to 6 runs, until ci(output_tokens_per_second)<5%", until.String())
	assert.False(t, until.Enough(runs(100, 100)), "fewer than the least")
	assert.True(t, until.Enough(runs(100, 100, 101)))
	assert.False(t, until.Enough(runs(100, 100, 120)))
	assert.True(t, until.Enough(runs(100, 100, 120, 130, 140, 150)), "the most")
	unmeasured := runs(100, 100, 101)
	unmeasured[1].Rates.Seconds = 0
	assert.False(t, until.Enough(unmeasured))

	fixed := &Rule{Least: 2, Most: 2}
	assert.Equal(t, "2 runs", fixed.String())
	assert.False(t, fixed.Enough(runs(1)))
	assert.True(t, fixed.Enough(runs(1, 100)))
}

func FuzzParsePrecision(f *testing.F) {
	for _, text := range []string{"ci<2%", "ci(p95(ttft))<0.5%", "ci(goodput) < 10 %", "ci()<1%", "ci<0%", "ci<1e9%", "ci(goodput) < 5555510 %", "ci<0.0000001%"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePrecision(text)
		if err != nil {
			return
		}
		again, err := ParsePrecision(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q: %q: %v", text, p, err)
		}
	})
}

func TestPrecision_IsAboutTheWholeAnswerWhereNothingIsStreamed(t *testing.T) {
	p, err := ParsePrecision("ci<5%")
	require.NoError(t, err)
	const ms = time.Millisecond
	rule := &Rule{Least: 2, Most: 9, Until: []Precision{p}}
	assert.True(t, rule.Met(set(t, "s", 100*ms, 101*ms, 100*ms).Runs))
	assert.False(t, rule.Met(set(t, "s", 100*ms, 150*ms, 100*ms).Runs))
	assert.False(t, rule.Met([]*loadgen.Report{report(t, 1, loadgen.Done), report(t, 1, loadgen.Done)}), "nothing was measured")
}

func TestSeed_OfEachRunIsItsOwn(t *testing.T) {
	assert.EqualValues(t, 7, Seed(7, "", 0), "one run is the first of several")
	seen := map[uint64]bool{}
	for base := range uint64(20) {
		for _, part := range []string{"", "rates=1", "rates=2"} {
			for run := range 20 {
				s := Seed(base, part, run)
				assert.False(t, seen[s] && s >= 20, "%d %s %d", base, part, run)
				assert.Less(t, s, uint64(1)<<32)
				seen[s] = true
			}
		}
	}
}

func TestSet_LeavesOutTheRunThatEndedEarly(t *testing.T) {
	runs := []*loadgen.Report{report(t, 100, loadgen.Done), report(t, 110, loadgen.Done), report(t, 5, "interrupted")}
	s := NewSet(&Rule{Least: 5, Most: 5}, runs)
	assert.InDelta(t, 105, s.Figures["output_tokens_per_second"].Mean, 1e-9)
	assert.Nil(t, s.Precise)
	_, measured := s.Figures["p50(ttft)"]
	assert.False(t, measured)

	var text, markdown, csv, j bytes.Buffer
	require.NoError(t, s.WriteText(&text))
	assert.True(t, strings.HasPrefix(text.String(), "honesty"))
	assert.Contains(t, text.String(), "3, wanted 5 runs, the last ended early and is not counted below: interrupted")
	assert.Regexp(t, `output_tokens_per_second +105\.0/s +41\.5/s to 168\.5/s +±61 % +100\.0/s +110\.0/s`, text.String())
	require.NoError(t, s.WriteMarkdown(&markdown))
	assert.Contains(t, markdown.String(), "| output_tokens_per_second | 105.0/s | 41.5/s to 168.5/s | ±61 % | 100.0/s | 110.0/s |")
	require.NoError(t, s.WriteCSV(&csv))
	assert.Contains(t, csv.String(), "output_tokens_per_second,2,105,41.46")

	require.NoError(t, s.WriteJSON(&j))
	var back Set
	require.NoError(t, json.Unmarshal(j.Bytes(), &back))
	assert.Equal(t, s.Figures, back.Figures)
	assert.Len(t, back.Runs, 3)
}

func TestSet_SaysWhetherItIsPrecise(t *testing.T) {
	p, err := ParsePrecision("ci(output_tokens_per_second)<5%")
	require.NoError(t, err)
	rule := &Rule{Least: 2, Most: 3, Until: []Precision{p}}
	for want, values := range map[string][]float64{": reached": {100, 100, 101}, ": NOT REACHED": {100, 150, 101}} {
		var runs []*loadgen.Report
		for _, v := range values {
			runs = append(runs, report(t, v, loadgen.Done))
		}
		runs[1].Generator = loadgen.Generator{Limited: true, Note: "GENERATOR WAS THE BOTTLENECK: late"}
		var text bytes.Buffer
		require.NoError(t, NewSet(rule, runs).WriteText(&text))
		assert.Contains(t, text.String(), want)
		assert.True(t, strings.HasPrefix(text.String(), "honesty      in 1 of 3 runs, such as: GENERATOR WAS THE BOTTLENECK: late"), text.String())
	}
}

func TestCompare_IsOverRuns(t *testing.T) {
	const ms = time.Millisecond
	before, after := set(t, "s", 100*ms, 101*ms, 102*ms, 101*ms), set(t, "s", 110*ms, 111*ms, 112*ms)
	all, err := Compare(before, after)
	require.NoError(t, err)
	require.Len(t, all, 3, "nothing was streamed: p50, p95 and mean of e2e")
	for _, d := range all {
		assert.Equal(t, "e2e", d.Metric)
		assert.True(t, d.Shown(), d.Statistic)
		assert.InDelta(t, 10*ms, d.B-d.A, float64(ms))
		assert.True(t, d.Low > 6*ms && d.High < 14*ms, "%s to %s", d.Low, d.High)
	}
	all, err = Compare(before, set(t, "s", 90*ms, 102*ms, 111*ms))
	require.NoError(t, err)
	for _, d := range all {
		assert.False(t, d.Shown(), d.Statistic)
	}

	_, err = Compare(before, set(t, "s", 100*ms))
	require.EqualError(t, err, "4 and 1 completed runs: want two or more of each")
	_, err = Compare(before, set(t, "faster", 100*ms, 101*ms))
	assert.EqualError(t, err, "different schedules: s and faster: run both with the same settings and --seed")
}

func TestFigures_AreThoseThatTablesUse(t *testing.T) {
	for _, f := range Brief {
		assert.Contains(t, fmt.Sprint(Figures), f.String())
	}
	for _, f := range append(usual, fallback...) {
		assert.Contains(t, fmt.Sprint(Brief), f.String())
	}
}
