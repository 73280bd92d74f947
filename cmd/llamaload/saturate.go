// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/saturation"
)

const saturateLong = `Finds how much load a server can handle. First a closed loop with 1, 2, 4, … users,
until twice as many get less than 5 % more done: that is the ceiling. Then trials
of an open loop at rates below it, halving the interval, until the highest rate
is known at which the objective is met.

A trial ends early when too few of its requests can still be good. One whose time
to first token grows all along is not met, however lax the objective: its queue
would never end. That is judged from the middle of the trial on. At a low rate a
trial lasts longer, until 20 requests are expected. Each trial sends prompts of
its own.

Exit codes: 0 found, 1 failed, interrupted, or no rate met the objective, 2 wrong
usage.`

// search holds the flags of saturate, including those of its runs.
type search struct {
	options
	maxUsers         int
	share, precision float64
}

func saturateCommand(stdout, stderr io.Writer) *cobra.Command {
	var s search
	cmd := &cobra.Command{
		Use:   "saturate",
		Short: "Find the highest rate that meets an objective",
		Long:  saturateLong,
		Example: `  # up to which rate do 99 % of requests get a first token in 500 ms, and 20 tokens a second then?
  llamaload saturate --url http://localhost:8080 --objective 'ttft<500ms && tpot<50ms'

  # the same with longer trials and requests that come in bursts
  llamaload saturate --trial 5m --warm-up 30s --gaps gamma --burstiness 0.3`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			s.chooseSeed(c.Flags())
			return s.find(c.Context(), stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	s.target(f)
	f.StringVar(&s.objective, "objective", "ttft<1s && tpot<100ms", "latency bounds that a good request meets")
	f.Float64Var(&s.share, "share", 0.99, "share of requests that have to be good")
	f.Float64Var(&s.precision, "precision", 0.05, "how exactly to find the rate, as a share of the ceiling")
	f.IntVar(&s.maxUsers, "max-users", 256, "most users to try")
	f.DurationVar(&s.duration, "trial", 30*time.Second, "how long each trial sends; longer where fewer than 20 requests would be expected")
	f.DurationVar(&s.warmUp, "warm-up", 5*time.Second, "requests due in this time at the start of a trial are not counted")
	s.limits(f, "poisson")
	s.content(f)
	f.StringVar(&s.json, "json", "", "write what was found as JSON to this `file`; - is standard output")
	s.page(f)
	exclude(cmd)
	return cmd
}

func (s *search) validate() error {
	switch {
	case s.maxUsers < 1:
		return fmt.Errorf("--max-users %d: want 1 or more", s.maxUsers)
	case !(s.share > 0 && s.share <= 1):
		return fmt.Errorf("--share %g: want more than 0, and 1 at most", s.share)
	case !(s.precision > 0 && s.precision < 1):
		return fmt.Errorf("--precision %g: want between 0 and 1", s.precision)
	case s.duration <= s.warmUp:
		return fmt.Errorf("--warm-up %s leaves nothing of --trial %s: want a longer trial", s.warmUp, s.duration)
	case s.endpoint == "embeddings" || s.noStream:
		return errors.New("without a stream there is no first token to find the limit by: want another --endpoint, or no --no-stream")
	}
	return nil
}

// saturated is the output of --json.
type saturated struct {
	URL       string           `json:"url"`
	Objective string           `json:"objective"`
	Share     float64          `json:"share"`
	Ceiling   saturation.Pace  `json:"ceiling"`
	Done      float64          `json:"ceiling_requests_per_second"`
	Tokens    float64          `json:"ceiling_output_tokens_per_second"`
	Limit     *float64         `json:"limit_requests_per_second"` // null where no rate met it
	Beyond    float64          `json:"beyond_requests_per_second"`
	Trials    []saturatedTrial `json:"trials"`
}

type saturatedTrial struct {
	saturation.Pace
	Requests loadgen.Counts     `json:"requests"`
	Done     float64            `json:"requests_per_second"`
	TTFT     *loadgen.Histogram `json:"ttft"`
	TPOT     *loadgen.Histogram `json:"tpot"`
	Met      bool               `json:"met"`
	Why      string             `json:"why,omitempty"`
}

func (s *search) find(ctx context.Context, stdout, stderr io.Writer) error {
	if err := s.validate(); err != nil {
		return usageError{err}
	}
	s.rate = 1 // any: each trial has its own
	transport, err := s.transport()
	if err != nil {
		return usageError{err}
	}
	defer transport.CloseIdleConnections()
	config, _, err := s.config()
	if err != nil {
		return usageError{err}
	}
	people := stdout
	if s.json == "-" || s.html == "-" {
		people = stderr
	}
	out := saturated{URL: s.url, Objective: config.Objective.String(), Share: s.share}
	fmt.Fprintf(people, "%-18s %10s %10s %10s  %s\n", "load", "done", "p95 ttft", "p95 tpot", "objective "+out.Objective)
	finder := &saturation.Search{
		MaxUsers: s.maxUsers, Share: s.share, Precision: s.precision,
		Expected: func(rate float64) float64 { return rate * (s.lasts(rate) - s.warmUp).Seconds() },
		Run: func(ctx context.Context, p saturation.Pace, watch func(loadgen.Sample)) (*loadgen.Results, error) {
			return s.trial(ctx, *config, p, watch, transport, stderr)
		},
		Tell: func(t saturation.Trial) {
			r := t.Results
			out.Trials = append(out.Trials, saturatedTrial{t.Pace, r.Counts, t.Done, r.TTFT, r.TPOT, t.Met, t.Why})
			verdict := t.Why
			if t.Met && t.Rate > 0 {
				verdict = "met"
			}
			fmt.Fprintf(people, "%-18s %8.2f/s %10s %10s  %s\n", t.Pace, t.Done, r.TTFT.Percentile(95).Round(time.Millisecond), r.TPOT.Percentile(95).Round(100*time.Microsecond), verdict)
		},
	}
	found, err := finder.Find(ctx)
	if err != nil {
		return errors.Join(err, s.write(out, stdout)) // the trials so far
	}
	ceiling := found.Ceiling
	out.Ceiling, out.Done, out.Beyond = ceiling.Pace, ceiling.Done, found.Beyond
	out.Tokens = float64(ceiling.Results.Tokens.Output) / ceiling.Results.Span.Seconds()
	fmt.Fprintf(people, "\nceiling  %.3g requests/s, %.4g output tokens/s with %s\n", out.Done, out.Tokens, ceiling.Pace)
	var missed error
	if found.Limit != nil {
		out.Limit = &found.Limit.Rate
		fmt.Fprintf(people, "limit    %.3g requests/s: %g %% meet %s, at %.3g they do not\n", *out.Limit, s.share*100, out.Objective, found.Beyond)
	} else {
		missed = fmt.Errorf("no rate met %s, not even %.3g requests/s: want a laxer objective, shorter prompts or a faster server", out.Objective, found.Beyond)
	}
	return errors.Join(missed, s.write(out, stdout))
}

func (s *search) write(out saturated, stdout io.Writer) error {
	return writeFiles(stdout, file{s.json, func(w io.Writer) error { return loadgen.WriteJSON(w, out) }}, file{s.html, asPage(out)})
}

// fewest is the number of requests that a trial has to expect. Fewer would say
// little about a rate, and random gaps could leave a trial without any.
const fewest = 20

// lasts returns how long a trial at the given rate sends requests.
func (s *search) lasts(rate float64) time.Duration {
	return max(s.duration, s.warmUp+time.Duration(fewest/rate*float64(time.Second)))
}

// trial makes one run. Its prompts differ from those of earlier trials, which the
// server may have in its cache.
func (s *search) trial(ctx context.Context, c loadgen.Config, p saturation.Pace, watch func(loadgen.Sample), transport http.RoundTripper, stderr io.Writer) (*loadgen.Results, error) {
	s.seed++
	client, _, err := s.clients(transport)
	if err != nil {
		return nil, usageError{err}
	}
	work, _, err := s.workload(ctx, transport)
	if err != nil {
		return nil, err
	}
	c.Record, c.Users, c.Arrivals = watch, p.Users, nil
	if p.Rate > 0 {
		gaps, err := s.gapsOf()
		if err != nil {
			return nil, usageError{err}
		}
		c.Arrivals = arrival.Times(arrival.Constant(p.Rate), gaps, s.seed)
		c.Duration = s.lasts(p.Rate)
	}
	r, err := loadgen.Start(ctx, c, client, work)
	if err != nil {
		return nil, usageError{err}
	}
	showProgress(r, &c, "", stderr)
	return r.Wait()
}
