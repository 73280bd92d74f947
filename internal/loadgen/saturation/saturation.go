// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package saturation finds how much load a server takes: first, with more and
// more users in a closed loop, the most that it gets done; then, between nothing
// and that, the highest rate of an open loop at which its objective is met.
package saturation // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/saturation"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// Pace is the load of one trial: Users of a closed loop, or the Rate of an open
// one in requests a second.
type Pace struct {
	Users int     `json:"users,omitempty"`
	Rate  float64 `json:"rate,omitempty"`
}

// String is such as 8 users or 2.5 requests/s.
func (p Pace) String() string {
	if p.Users > 0 {
		return fmt.Sprintf("%d users", p.Users)
	}
	return fmt.Sprintf("%.3g requests/s", p.Rate)
}

// Trial is one run of a search.
type Trial struct {
	Pace
	Results *loadgen.Results
	// Done is how many requests succeeded a second.
	Done float64
	// Met reports whether the objective was met, Why says why not.
	Met bool
	Why string
}

// Search says what to look for, and how to try.
type Search struct {
	// MaxUsers is the most users to try.
	MaxUsers int
	// Share of the requests that are due has to meet the objective.
	Share float64
	// Precision is the width, as a share of the ceiling, at which the search ends.
	Precision float64
	// Run makes the run of a trial. It tells watch of each request as it ends, and
	// ends early when ctx does; with the cause ErrHopeless that is a result.
	Run func(ctx context.Context, p Pace, watch func(loadgen.Sample)) (*loadgen.Results, error)
	// Expected is how many measured requests a trial at a rate has.
	Expected func(rate float64) float64
	// Tell, if not nil, is told of each trial.
	Tell func(Trial)
}

// ErrHopeless ends a trial that can no longer meet its objective.
var ErrHopeless = errors.New("the objective can no longer be met")

// Found is what a search found.
type Found struct {
	// Ceiling is the closed-loop trial that got most done.
	Ceiling Trial
	// Limit is the open-loop trial with the highest rate that met the objective,
	// nil where none did. Beyond is the lowest rate that did not.
	Limit  *Trial
	Beyond float64
}

const (
	// The ladder ends where twice the users get less than this much more done.
	worthwhile = 1.05
	// Nothing beyond this share of the ceiling can be kept up.
	above = 1.1
	// The bisection gives up below this share of the ceiling.
	tooLittle = 1.0 / 64
	// A closed loop in which more than this share fails has reached its end.
	tooManyErrors = 0.01
)

// Find searches until it has found, or ctx ends.
func (s *Search) Find(ctx context.Context) (*Found, error) {
	f := &Found{}
	for users := 1; users <= s.MaxUsers; users *= 2 {
		t, err := s.climb(ctx, users)
		if err != nil {
			return nil, err
		}
		before := f.Ceiling.Done
		if t.Done > before {
			f.Ceiling = t
		}
		if t.Why != "" || users > 1 && t.Done < before*worthwhile {
			break
		}
	}
	ceiling := f.Ceiling.Done
	if ceiling == 0 {
		return nil, errors.New("not even one user got an answer: try llamaload run first")
	}
	low := 0.0
	f.Beyond = ceiling * above
	for f.Beyond-low > s.Precision*ceiling && f.Beyond > ceiling*tooLittle {
		t, err := s.try(ctx, (low+f.Beyond)/2)
		if err != nil {
			return nil, err
		}
		if t.Met {
			low, f.Limit = t.Rate, &t
		} else {
			f.Beyond = t.Rate
		}
	}
	return f, nil
}

func (s *Search) tell(t Trial) Trial {
	if s.Tell != nil {
		s.Tell(t)
	}
	return t
}

// climb tries a number of users.
func (s *Search) climb(ctx context.Context, users int) (Trial, error) {
	p := Pace{Users: users}
	r, err := s.Run(ctx, p, func(loadgen.Sample) {})
	if err != nil && !errors.Is(err, loadgen.ErrTooManyErrors) {
		return Trial{}, err
	}
	t := Trial{Pace: p, Results: r, Done: done(r), Met: true}
	if n := r.Counts.Failed; float64(n) > tooManyErrors*float64(r.Counts.Sent) {
		t.Met, t.Why = false, fmt.Sprintf("%d of %d requests failed", n, r.Counts.Sent)
	}
	return s.tell(t), nil
}

func done(r *loadgen.Results) float64 {
	if r.Span <= 0 {
		return 0
	}
	return float64(r.Counts.OK) / r.Span.Seconds()
}

// try tries a rate. It ends early when too few requests can still be good.
func (s *Search) try(ctx context.Context, rate float64) (Trial, error) {
	trialCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bad, allowed := 0, (1-s.Share)*s.Expected(rate)
	var ttft trend
	p := Pace{Rate: rate}
	r, err := s.Run(trialCtx, p, func(x loadgen.Sample) {
		if !x.Measured {
			return
		}
		if d, ok := x.Result.TTFT(x.Result.Due); ok {
			ttft.add(x.Due, d)
		}
		if !x.Good {
			bad++
		}
		if float64(bad) > allowed {
			cancel(ErrHopeless)
		}
	})
	t := Trial{Pace: p, Results: r}
	switch {
	case errors.Is(err, ErrHopeless):
		t.Why = fmt.Sprintf("%d requests missed the objective, ended early", bad)
	case errors.Is(err, loadgen.ErrTooManyErrors):
		t.Why = "too many requests failed"
	case err != nil:
		return Trial{}, err
	case r.Counts.Due == 0:
		return Trial{}, fmt.Errorf("no request was due at %s: want longer trials", p)
	case ttft.grows():
		t.Why = "the time to first token grew all along: the queue would never end"
	default:
		t.Met = float64(r.Good) >= s.Share*float64(r.Counts.Due)
		if !t.Met {
			t.Why = fmt.Sprintf("%d of %d requests met the objective", r.Good, r.Counts.Due)
		}
	}
	if r != nil {
		t.Done = done(r)
	}
	return s.tell(t), nil
}

// trend is a line of least squares through times to first token over due time.
type trend struct{ n, x, y, xx, xy, yy float64 }

func (t *trend) add(at, d time.Duration) {
	x, y := at.Seconds(), d.Seconds()
	t.n++
	t.x += x
	t.y += y
	t.xx += x * x
	t.xy += x * y
	t.yy += y * y
}

// grows reports whether the line rises, by more than the mean within the time
// seen, and too steeply for chance: Student's t above 5.
func (t *trend) grows() bool {
	const fewest = 20
	if t.n < fewest {
		return false
	}
	sxx, sxy, syy := t.xx-t.x*t.x/t.n, t.xy-t.x*t.y/t.n, t.yy-t.y*t.y/t.n
	if sxx <= 0 {
		return false
	}
	slope := sxy / sxx
	// The times are spread evenly: their range is √12 deviations.
	rise := slope * math.Sqrt(12*sxx/t.n)
	deviation := math.Sqrt(max(syy-slope*sxy, 0) / (t.n - 2) / sxx)
	return rise > t.y/t.n && slope > 5*deviation
}
