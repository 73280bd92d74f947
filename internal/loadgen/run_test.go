// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// server answers after a time of its own, as a sender that knows the truth.
type server struct {
	mu     sync.Mutex
	n      int
	answer func(n int) (time.Duration, completion.Outcome)
}

func takes(d time.Duration) *server {
	return &server{answer: func(int) (time.Duration, completion.Outcome) { return d, completion.OK }}
}

func (s *server) Do(ctx context.Context, _ *completion.Request, due time.Time) completion.Result {
	s.mu.Lock()
	d, outcome := s.answer(s.n)
	s.n++
	s.mu.Unlock()
	r := completion.Result{Due: due, Sent: time.Now(), Outcome: outcome, Status: 200, InputTokens: 10, CachedTokens: 4, OutputTokens: 3}
	select {
	case <-time.After(d):
		r.FirstToken, r.LastToken = r.Sent.Add(d/2), time.Now()
	case <-ctx.Done():
		r.Outcome = completion.Cancelled
		r.InputTokens, r.CachedTokens, r.OutputTokens = -1, -1, -1
	}
	if r.Outcome == completion.Failed {
		r.ErrorType, r.FirstToken = "503", time.Time{}
	}
	r.End = time.Now()
	return r
}

type none struct{}

func (none) Request(uint64) *completion.Request { return nil }

func every(rate float64) Config {
	return Config{
		Arrivals: arrival.Times(arrival.Constant(rate), arrival.Regular, 0),
		Duration: 10 * time.Second, MaxInFlight: 1000, Drain: time.Minute, MaxErrors: 0.5,
	}
}

func run(t *testing.T, c Config, s Sender) (*Results, error) {
	t.Helper()
	r, err := Start(t.Context(), c, s, none{})
	require.NoError(t, err)
	return r.Wait()
}

func TestOpenLoop_SendsEveryArrivalWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(10)
		var dues []time.Duration
		c.Record = func(s Sample) { dues = append(dues, s.Due) }
		r, err := run(t, c, takes(3*time.Second))
		require.NoError(t, err)
		assert.Equal(t, Counts{Due: 100, Sent: 100, OK: 100}, r.Counts)
		assert.Zero(t, r.Lag.Max())
		assert.Len(t, dues, 100)
		assert.Equal(t, 9900*ms, dues[99])
		assert.Equal(t, 3*time.Second, r.E2E.Max())
		assert.Equal(t, 1500*ms, r.TTFT.Max())
		assert.Equal(t, 750*ms, r.TPOT.Max())
		assert.Equal(t, 12900*ms, r.Span, "until the last answer, or a server that falls behind would look fast")
		assert.Equal(t, Tokens{Input: 1000, Output: 300, Cached: 400, cachedKnown: 1000}, r.Tokens)
	})
}

func TestOpenLoop_CountsDropsExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(10)
		c.MaxInFlight = 3
		// Of ten arrivals a second three are sent, and hold their places for a second
		// less a little, so that the next ones find them free.
		r, err := run(t, c, takes(999*ms))
		require.NoError(t, err)
		assert.Equal(t, Counts{Due: 100, Sent: 30, OK: 30, Dropped: 70}, r.Counts)
	})
}

func TestOpenLoop_ArrivalsWaitForAPlaceNoLongerThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Duration, c.MaxInFlight, c.MaxWait = 4*time.Second, 1, 1500*ms
		// Sent at 0, 2 (due at 1) and 4 (due at 3, since the one due at 2 gave up at 3.5).
		r, err := run(t, c, takes(2*time.Second))
		require.NoError(t, err)
		assert.Equal(t, Counts{Due: 4, Sent: 3, OK: 3, Dropped: 1}, r.Counts)
		assert.Equal(t, time.Second, r.Lag.Max())
		assert.Equal(t, 3*time.Second, r.E2E.Max(), "from when it was due")
		assert.Equal(t, 2*time.Second, r.E2EFromSend.Max(), "from when it was sent")
	})
}

// The test of coordinated omission: the server stalls once for two seconds while
// few requests may be in flight.
func TestOpenLoop_AStallShowsInFullFromDueTimeAndNotFromTheSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		stalled := func(int) (time.Duration, completion.Outcome) {
			if at := time.Since(start); at >= 4*time.Second && at < 6*time.Second {
				return 6*time.Second - at + 10*ms, completion.OK
			}
			return 10 * ms, completion.OK
		}
		c := every(100)
		c.MaxInFlight, c.MaxWait = 2, time.Minute
		r, err := run(t, c, &server{answer: stalled})
		require.NoError(t, err)
		assert.Equal(t, 1000, r.Counts.OK)
		// 200 of 1,000 were due in the stall, and those after it queue behind them.
		assert.InDelta(t, 2.01, r.E2E.Max().Seconds(), 0.001)
		assert.Greater(t, r.E2E.Percentile(85), 500*ms)
		assert.Greater(t, r.E2E.Percentile(95), 1500*ms)
		assert.Equal(t, 10*ms, r.E2EFromSend.Percentile(99).Round(ms), "all but two of a thousand")
	})
}

func TestOpenLoop_WarmUpAndTailAreCutByDueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(10)
		c.WarmUp, c.Tail = 2*time.Second, time.Second
		slowStart := &server{answer: func(n int) (time.Duration, completion.Outcome) {
			if n < 20 {
				return 5 * time.Second, completion.OK
			}
			return 10 * ms, completion.OK
		}}
		r, err := run(t, c, slowStart)
		require.NoError(t, err)
		assert.Equal(t, Counts{Due: 70, Sent: 70, OK: 70}, r.Counts)
		assert.Equal(t, Counts{Due: 30, Sent: 30, OK: 30}, r.Outside)
		assert.Equal(t, 10*ms, r.E2E.Max(), "also not of those that end after the warm-up")
		assert.Equal(t, 1000, r.AllTokens.Input)
	})
}

func TestRun_EndsAfterItsNumberOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := every(10)
		open.Duration, open.Requests = 0, 7
		closed := Config{Users: 3, Requests: 7, Drain: time.Minute, MaxErrors: 1}
		for _, c := range []Config{open, closed} {
			r, err := run(t, c, takes(time.Second))
			require.NoError(t, err)
			assert.Equal(t, Counts{Due: 7, Sent: 7, OK: 7}, r.Counts)
		}
	})
}

func TestClosedLoop_UsersWaitForAnswersAndThink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Users: 2, Think: 500 * ms, Duration: 6 * time.Second, Drain: time.Minute, MaxErrors: 1}
		r, err := run(t, c, takes(time.Second))
		require.NoError(t, err)
		// Each sends at 0, 1.5, 3, 4.5.
		assert.Equal(t, Counts{Due: 8, Sent: 8, OK: 8}, r.Counts)
		assert.Zero(t, r.Lag.Max())
	})
}

func TestClosedLoop_DoesNotHammerAServerThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Users: 1, Duration: 10 * time.Second, MaxErrors: 1}
		r, err := run(t, c, &server{answer: func(int) (time.Duration, completion.Outcome) { return 0, completion.Failed }})
		require.NoError(t, err)
		assert.Equal(t, 100, r.Counts.Failed)
	})
}

func TestRun_StopsItselfWhenTooManyFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(10)
		c.MaxErrors = 0.25
		failing := &server{answer: func(n int) (time.Duration, completion.Outcome) {
			if n >= 40 {
				return 0, completion.Failed
			}
			return ms, completion.OK
		}}
		r, err := run(t, c, failing)
		require.ErrorIs(t, err, ErrTooManyErrors)
		assert.Equal(t, 14, r.Counts.Failed, "14 of 54 is the first share above a quarter")
		assert.Equal(t, map[string]int{"503": 14}, r.Errors)
	})
}

func TestRun_CancelsWhatHasNotEndedAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]Config{
			"open":   {Arrivals: arrival.Times(arrival.Constant(2), arrival.Regular, 0), MaxInFlight: 10},
			"closed": {Users: 2},
			"count":  {Users: 2, Requests: 2},
		} {
			if c.Requests == 0 {
				c.Duration = time.Second
			}
			c.Drain, c.MaxErrors = 5*time.Second, 1
			start := time.Now()
			r, err := run(t, c, takes(time.Hour))
			require.NoError(t, err, name)
			assert.Equal(t, Counts{Due: 2, Sent: 2, Cancelled: 2}, r.Counts, name)
			assert.Equal(t, c.Duration+c.Drain, time.Since(start).Truncate(500*ms)+map[bool]time.Duration{true: 500 * ms}[name == "open"], name)
			assert.Equal(t, 2, r.Uncounted, name)
		}
	})
}

func TestRun_AnInterruptKeepsWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		interrupt := errors.New("interrupted")
		for name, c := range map[string]Config{
			"open": every(10), "closed": {Users: 10, Duration: time.Hour, Drain: time.Hour, MaxErrors: 1},
		} {
			ctx, cancel := context.WithCancelCause(t.Context())
			r, err := Start(ctx, c, takes(1500*ms), none{})
			require.NoError(t, err)
			time.Sleep(2900 * ms)
			cancel(interrupt)
			<-r.Done()
			assert.Equal(t, 2900*ms, r.Elapsed(), "%s: at once", name)
			results, err := r.Wait()
			require.ErrorIs(t, err, interrupt, name)
			assert.Positive(t, results.Counts.OK, name)
			assert.Positive(t, results.Counts.Cancelled, name)
			assert.Equal(t, results.Counts.Sent, results.Counts.OK+results.Counts.Cancelled, name)
			assert.Zero(t, r.InFlight(), name)
		}
	})
}

func TestConfig_SaysWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"0 users: want 1 or more, or a rate":                           func(c *Config) { c.Arrivals = nil },
		"a time is negative: want 0 or more":                           func(c *Config) { c.Drain = -1 },
		"the run has no end: want a duration or":                       func(c *Config) { c.Duration = 0 },
		"a tail cannot be cut from a run without a duration":           func(c *Config) { c.Duration, c.Requests, c.Tail = 0, 1, 1 },
		"warm-up of 9s and tail of 1s leave nothing of 10s: want a lo": func(c *Config) { c.WarmUp, c.Tail = 9*time.Second, time.Second },
		"0 requests in flight: want 1 or more":                         func(c *Config) { c.MaxInFlight = 0 },
		"share of errors of 2: want 0 to 1":                            func(c *Config) { c.MaxErrors = 2 },
	} {
		c := every(1)
		change(&c)
		_, err := Start(t.Context(), c, takes(0), none{})
		assert.ErrorContains(t, err, want)
	}
}

func TestObjective_CountsRequestsThatMeetAllBounds(t *testing.T) {
	at := time.Now()
	result := func(first, last time.Duration, tokens int) *completion.Result {
		return &completion.Result{Due: at, Sent: at.Add(50 * ms), FirstToken: at.Add(first), LastToken: at.Add(last), End: at.Add(last), OutputTokens: tokens}
	}
	o, err := ParseObjective("ttft<500ms && tpot < 50ms&&e2e<3s")
	require.NoError(t, err)
	assert.Equal(t, "ttft<500ms && tpot<50ms && e2e<3s", o.String())
	assert.True(t, o.met(result(400*ms, 890*ms, 11)))
	assert.False(t, o.met(result(500*ms, 900*ms, 11)), "first token at the bound, though only 450 ms after the send")
	assert.False(t, o.met(result(400*ms, 900*ms, 11)), "50 ms a token")
	assert.False(t, o.met(result(400*ms, 3*time.Second, 100)), "3 s in all")
	assert.True(t, o.met(result(400*ms, 400*ms, 1)), "one token has no time per token")
	failed := result(1, 2, 3)
	failed.Outcome = completion.Failed
	assert.False(t, o.met(failed))
	assert.False(t, o.met(&completion.Result{Due: at, End: at}), "no first token was seen")

	for _, s := range []string{"", "ttft>5s", "lag<5s", "ttft<5", "ttft<0s", "ttft<1s tpot<1s"} {
		_, err := ParseObjective(s)
		assert.ErrorContains(t, err, "objective ", s)
	}
}

func TestCondition_HoldsWhenItIsTrueOrUnknown(t *testing.T) {
	r := newRecorder(&Config{MaxErrors: 1}, nil)
	at := time.Now()
	for i := range 100 {
		d := time.Duration(i+1) * 10 * ms
		r.add(Sample{Result: &completion.Result{
			Due: at, Sent: at.Add(ms), FirstToken: at.Add(d), LastToken: at.Add(d), End: at.Add(2 * d),
			InputTokens: 10, CachedTokens: 1, OutputTokens: 1,
		}})
	}
	r.add(Sample{Result: &completion.Result{Due: at, Sent: at, End: at, Outcome: completion.Failed, CachedTokens: -1}})
	r.add(Sample{Result: &completion.Result{Due: at, Outcome: completion.Dropped}})
	report := NewReport(&Config{}, r.results(), About{}, Workload{})
	for text, want := range map[string]bool{
		"p95(ttft)>2s":                 false,
		"p95(ttft)>940ms":              true,
		"p50(ttft) > 510ms":            false,
		"p99.9(e2e)>1.9s":              true,
		"max(e2e)>2s":                  false,
		"mean(ttft_from_send)<504ms":   false,
		"mean(ttft_from_send)<504.1ms": true,
		"p99(lag)>1ms":                 false,
		"error_rate>1%":                false,
		"error_rate>0.009":             true,
		"drop_rate>0":                  true,
		"goodput<50%":                  true,
		"cache_hit_rate>0.1":           false,
		"p50(tpot)>1h":                 true, // nothing was measured
		"requests_per_second<50":       false,
		"output_tokens_per_second>60":  false,
	} {
		c, err := ParseCondition(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, c.Holds(report), text)
		assert.Equal(t, text, c.String())
	}
	for _, text := range []string{"", "p95>2s", "p95(ttft)>2", "p100(ttft)>1s", "p95(x)>1s", "min(ttft)>1s", "errors>1", "error_rate>1s", "requests_per_second>5%", "p95(ttft)=1s"} {
		_, err := ParseCondition(text)
		assert.ErrorContains(t, err, "want p95(ttft)>2s", text)
	}
}

func FuzzParseCondition(f *testing.F) {
	for _, text := range []string{"p95(ttft)>2s", "p99.9(e2e) < 1m", "error_rate>1%", "output_tokens_per_second<100", "max(lag)>0s", "p95>", ">"} {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			return
		}
		c.Holds(NewReport(&Config{}, newRecorder(&Config{}, nil).results(), About{}, Workload{}))
	})
}

func TestPreciseSleep_IsNeverEarlyAndEndsWithItsContext(t *testing.T) {
	for _, d := range []time.Duration{-ms, 0, 100 * time.Microsecond, ms, 5 * ms} {
		until := time.Now().Add(d)
		PreciseSleep(t.Context(), until)
		assert.False(t, time.Now().Before(until), d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*ms, cancel)
	began := time.Now()
	PreciseSleep(ctx, began.Add(time.Hour))
	assert.Less(t, time.Since(began), time.Minute)
}

func TestDial_ChangesTheRateAtOnceHoweverLongTheWaitWouldHaveBeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Arrivals, c.Dial = nil, arrival.NewDial(arrival.Constant(0.001), arrival.Regular, 0)
		var dues []time.Duration
		c.Record = func(s Sample) { dues = append(dues, s.Due) }
		r, err := Start(t.Context(), c, takes(10*ms), none{})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.NoError(t, r.Turn(arrival.Constant(10)))
		rate, ok := r.Rate()
		assert.True(t, ok)
		assert.InDelta(t, 10, rate, 0)
		results, err := r.Wait()
		require.NoError(t, err)
		assert.Equal(t, 81, results.Counts.OK, "one at once, then ten a second for eight seconds")
		assert.Equal(t, 2099800*time.Microsecond, dues[1], "two thousandths of the gap had passed")
		assert.Zero(t, results.Lag.Max())
	})
}

func TestDial_ARunLastsAsLongAsItWasTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Dial = arrival.NewDial(arrival.Constant(0.001), arrival.Regular, 0)
		began := time.Now()
		r, err := run(t, c, takes(10*ms))
		require.NoError(t, err)
		assert.Equal(t, 1, r.Counts.OK)
		assert.Equal(t, c.Duration, time.Since(began))
	})
}

func TestTurn_RefusesARunWithoutARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Start(t.Context(), every(1), takes(10*ms), none{})
		require.NoError(t, err)
		require.ErrorIs(t, r.Turn(arrival.Constant(2)), ErrNoRate)
		_, ok := r.Rate()
		assert.False(t, ok)
		_, err = r.Wait()
		require.NoError(t, err)
	})
}
