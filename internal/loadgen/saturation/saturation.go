// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package saturation finds how much load a server can handle. First it finds the
// ceiling, which is the server's highest throughput, with more and more users in a
// closed loop. Then it searches, by bisection below the ceiling, for the highest
// rate of an open loop that meets the objective.
package saturation // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/saturation"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// Pace is the load of one trial: the Users of a closed loop, or the Rate of an open
// loop in requests per second.
type Pace struct {
	Users int     `json:"users,omitempty"`
	Rate  float64 `json:"rate,omitempty"`
}

// String returns a text such as "8 users" or "2.5 requests/s".
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
	// Done is the number of successful requests per second.
	Done float64
	// Met reports whether the objective was met. If not, Why is the reason.
	Met bool
	Why string
}

// Search defines what to search for and how to run the trials.
type Search struct {
	// MaxUsers is the largest number of users to try.
	MaxUsers int
	// Share is the share of the due requests that have to meet the objective.
	Share float64
	// Precision is the width of the interval, as a share of the ceiling, at which
	// the bisection ends.
	Precision float64
	// Run makes the run of a trial. It calls watch with each request when it ends,
	// and ends early when ctx is cancelled. If the cause is ErrHopeless, it returns
	// that error with the results so far.
	Run func(ctx context.Context, p Pace, watch func(loadgen.Sample)) (*loadgen.Results, error)
	// Expected returns the expected number of measured requests of a trial at the
	// given rate.
	Expected func(rate float64) float64
	// Tell, if not nil, is called with each trial when it ends.
	Tell func(Trial)
}

// ErrHopeless ends a trial that can no longer meet its objective. The cause of its
// context is this error, or wraps it.
var ErrHopeless = errors.New("the objective can no longer be met")

// Found is the result of a search.
type Found struct {
	// Ceiling is the closed-loop trial with the highest throughput.
	Ceiling Trial
	// Limit is the open-loop trial with the highest rate that met the objective, or
	// nil if none did. Beyond is the lowest rate that did not meet it.
	Limit  *Trial
	Beyond float64
}

const (
	// The number of users is no longer doubled once that multiplies the throughput by
	// less than this factor.
	worthwhile = 1.05
	// The bisection begins below this share of the ceiling, which no server sustains.
	above = 1.1
	// The bisection gives up below this share of the ceiling.
	tooLittle = 1.0 / 64
	// The number of users is not increased further once more than this share of the
	// requests fails.
	tooManyErrors = 0.01
)

// Find searches until it has found the limit, or until ctx ends.
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

// errQueueGrows ends a trial whose queue would never end.
var errQueueGrows = fmt.Errorf("%w: the queue grows", ErrHopeless)

// try tries a rate. The trial ends early when too few of its requests can still
// meet the objective. It also ends early when its queue grows, but not in its first
// half, in which a burst of requests looks the same.
func (s *Search) try(ctx context.Context, rate float64) (Trial, error) {
	trialCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	expected := s.Expected(rate)
	bad, allowed := 0, (1-s.Share)*expected
	var ttft trend
	p := Pace{Rate: rate}
	r, err := s.Run(trialCtx, p, func(x loadgen.Sample) {
		if !x.Measured {
			return
		}
		if d, ok := x.Result.TTFT(x.Result.Due); ok {
			ttft.add(x.Due, d)
			if ttft.n >= expected/2 && ttft.grows() {
				cancel(errQueueGrows)
			}
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
	case errors.Is(err, errQueueGrows):
		t.Why = "the time to first token grew all along, ended early: the queue would never end"
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

// trend is a least-squares line through the times to first token over due time.
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

// grows reports whether the line rises by more than the mean within the observed
// time, and too steeply to be chance: Student's t is above 5.
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
	// Due times are spread evenly, so their range is √12 standard deviations.
	rise := slope * math.Sqrt(12*sxx/t.n)
	deviation := math.Sqrt(max(syy-slope*sxy, 0) / (t.n - 2) / sxx)
	return rise > t.y/t.n && slope > 5*deviation
}
