// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package saturation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// slots is a server with four slots. Each request takes half a second and others
// queue, so its throughput is 8 requests per second.
type slots struct {
	free    chan struct{}
	outcome completion.Outcome
}

func newSlots() *slots { return &slots{free: make(chan struct{}, 4)} }

func (s *slots) Do(ctx context.Context, _ *completion.Request, due time.Time) completion.Result {
	r := completion.Result{Due: due, Sent: time.Now(), Outcome: s.outcome, Status: 200, OutputTokens: 5}
	select {
	case s.free <- struct{}{}:
		time.Sleep(100 * time.Millisecond)
		r.FirstToken = time.Now()
		time.Sleep(400 * time.Millisecond)
		r.LastToken = time.Now()
		<-s.free
	case <-ctx.Done():
		r.Outcome = completion.Cancelled
	}
	r.End = time.Now()
	return r
}

type none struct{}

func (none) Request(uint64) *completion.Request { return nil }

func search(t *testing.T, s loadgen.Sender, objective string) (*Search, *[]Trial) {
	t.Helper()
	o, err := loadgen.ParseObjective(objective)
	require.NoError(t, err)
	const each = time.Minute
	var trials []Trial
	return &Search{
		MaxUsers: 64, Share: 0.99, Precision: 0.02,
		Expected: func(rate float64) float64 { return rate * each.Seconds() },
		Tell:     func(t Trial) { trials = append(trials, t) },
		Run: func(ctx context.Context, p Pace, watch func(loadgen.Sample)) (*loadgen.Results, error) {
			c := loadgen.Config{
				Users: p.Users, Duration: each, MaxInFlight: 1000, Drain: time.Minute, MaxErrors: 0.5, Objective: o, Record: watch,
			}
			if p.Rate > 0 {
				c.Arrivals = arrival.Times(arrival.Constant(p.Rate), arrival.Regular, 1)
			}
			r, err := loadgen.Start(ctx, c, s, none{})
			if err != nil {
				return nil, err
			}
			return r.Wait()
		},
	}, &trials
}

func TestFind_TheLimitOfAServerWithAKnownOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, trials := search(t, newSlots(), "ttft<300ms && e2e<1s")
		f, err := s.Find(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, 8, f.Ceiling.Done, 0.1)
		assert.Equal(t, 4, f.Ceiling.Users, "more users got no more done")
		require.NotNil(t, f.Limit)
		assert.InDelta(t, 8, f.Limit.Rate, 0.2)
		assert.LessOrEqual(t, f.Beyond-f.Limit.Rate, 0.02*8.1)
		var users int
		for _, x := range *trials {
			if x.Users > 0 {
				users++
			}
		}
		assert.Equal(t, 4, users, "1, 2, 4, and 8 without effect")
	})
}

func TestFind_AnObjectiveThatNoRateMeets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, trials := search(t, newSlots(), "ttft<50ms")
		f, err := s.Find(t.Context())
		require.NoError(t, err)
		assert.Nil(t, f.Limit)
		last := (*trials)[len(*trials)-1]
		assert.Contains(t, last.Why, "missed the objective, ended early")
		assert.Less(t, last.Results.Counts.Due, 10, "no longer than needed")
	})
}

func TestFind_AQueueThatGrowsIsNoLimitHoweverLaxTheObjective(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, trials := search(t, newSlots(), "ttft<1h")
		f, err := s.Find(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, 8, f.Limit.Rate, 0.2)
		grew := false
		for _, x := range *trials {
			if x.Rate > 8.1 {
				assert.False(t, x.Met)
				early := x.Why == "the time to first token grew all along, ended early: the queue would never end"
				if early {
					assert.Less(t, x.Results.Counts.Due, int(0.9*60*x.Rate), "no longer than needed")
				}
				grew = grew || early
			}
		}
		assert.True(t, grew)
	})
}

func TestFind_EndsWhereRequestsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := newSlots()
		failing.outcome = completion.Failed
		s, _ := search(t, failing, "ttft<1s")
		_, err := s.Find(t.Context())
		assert.EqualError(t, err, "not even one user got an answer: try llamaload run first")
	})
}

func TestFind_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := search(t, newSlots(), "ttft<1s")
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Second, func() { cancel(interrupted) })
		_, err := s.Find(ctx)
		assert.ErrorIs(t, err, interrupted)
	})
}
