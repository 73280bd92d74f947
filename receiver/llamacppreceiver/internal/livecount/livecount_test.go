// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package livecount

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

var t0 = time.Unix(1_800_000_000, 0)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * 1e9)) }

// job is a request of the model server: it holds a slot from start to end and
// decodes tokens one by one in between.
type job struct {
	slot       int
	task       int64
	start, end float64
	tokens     []float64 // when each token was decoded
}

func (j *job) decoded(t float64) int64 { return int64(sort.SearchFloat64s(j.tokens, t)) }

// server is a model of what a llama-server does over time, known as a whole
// beforehand.
type server struct {
	jobs   []job
	before int64 // tokens of requests that ended before the first
	digits bool  // prints all of them
}

// randomServer makes jobs for some slots: long ones, bursts of short ones,
// slots reused at once and left idle, some with no token at all.
func randomServer(r *rand.Rand, length float64) *server {
	s := &server{}
	if r.IntN(3) == 0 {
		s.before = r.Int64N(2e7)
	}
	s.digits = r.IntN(4) == 0
	task := int64(0)
	for slot := range 1 + r.IntN(6) {
		mean := []float64{0.05, 0.3, 2, 8}[r.IntN(4)]
		busy := []float64{0.2, 0.7, 1}[r.IntN(3)]
		speed := []float64{5, 60, 400}[r.IntN(3)]
		for t := r.ExpFloat64() * mean; t < length; {
			task += 1 + r.Int64N(5)
			j := job{slot: slot, task: task, start: t}
			prompt := r.ExpFloat64() * 0.2
			n := int(r.ExpFloat64() * mean * speed)
			if r.IntN(20) == 0 {
				n = 0 // cancelled in its prompt
			}
			x := t + prompt
			for range n {
				x += r.ExpFloat64() / speed
				j.tokens = append(j.tokens, x)
			}
			j.end = x + r.Float64()*0.001
			s.jobs = append(s.jobs, j)
			t = j.end
			if r.Float64() > busy {
				t += r.ExpFloat64() * mean / busy
			}
		}
	}
	return s
}

// truth is what has been decoded until t.
func (s *server) truth(t float64) int64 {
	n := s.before
	for i := range s.jobs {
		n += s.jobs[i].decoded(t)
	}
	return n
}

// total is what /metrics says at t: requests that have ended.
func (s *server) total(t float64) (value float64, idle bool) {
	n, idle := s.before, true
	for i := range s.jobs {
		j := &s.jobs[i]
		switch {
		case j.end <= t:
			n += int64(len(j.tokens))
		case j.start <= t:
			idle = false
		}
	}
	if s.digits {
		return float64(n), idle
	}
	v, _ := strconv.ParseFloat(strconv.FormatFloat(float64(n), 'g', 6, 64), 64)
	return v, idle
}

// running is what /slots says at t.
func (s *server) running(t float64) []Request {
	var rs []Request
	for i := range s.jobs {
		if j := &s.jobs[i]; j.start <= t && t < j.end {
			rs = append(rs, Request{Slot: j.slot, Task: j.task, Count: j.decoded(t)})
		}
	}
	return rs
}

// halfStep is how far a printed number can be from the truth.
func (s *server) halfStep(v float64) int64 {
	if s.digits || v < 1e6 {
		return 0
	}
	return int64(llamaserver.RoundingStep(v) / 2)
}

// watch reads the server as the two scrapers do and checks the counter at each
// read. latency bounds how long a call takes; a read's snapshot is taken
// somewhere in the call. apart is how long after /metrics /slots is read.
func watch(t require.TestingT, s *server, r *rand.Rand, length, interval, apart, latency float64) (lags []float64) {
	var c Counter
	last := int64(-1)
	lagging := 0.0 // time up to which the truth has been reached
	check := func(now float64) {
		v := c.Value()
		require.GreaterOrEqual(t, v, last, "went back at %f", now)
		last = v
		truth := s.truth(now)
		require.LessOrEqual(t, v, truth+s.halfStep(float64(truth)), "ahead at %f", now)
		for lagging < now && s.truth(lagging) <= v {
			lagging += 0.01
		}
		lags = append(lags, max(now-lagging, 0))
	}
	call := func(began float64) (snapshot, ended float64) {
		ended = began + r.Float64()*latency
		return began + r.Float64()*(ended-began), ended
	}
	free := 0.0 // when the last call ended: there is one at a time
	for tick := 0; float64(tick)*interval/2 < length; tick++ {
		now := max(float64(tick)*interval/2, free)
		if tick%2 == 0 {
			snapshot, ended := call(now)
			v, idle := s.total(snapshot)
			c.Total(Total{Value: v, Began: at(now), Ended: at(ended), Idle: idle})
			if idle {
				require.Equal(t, int64(v), c.Value(), "not the server's own number when idle at %f", now)
			}
			check(ended)
			now = max(now+apart, ended)
		}
		snapshot, ended := call(now)
		c.Running(at(now), s.running(snapshot))
		check(ended)
		free = ended
	}
	return lags
}

// What the package comment promises, over random schedules.
func TestCounter_IsMonotonicNeverAheadExactWhenIdleAndNotFarBehind(t *testing.T) {
	const length, interval = 40, 1
	var lags []float64
	for seed := range uint64(150) {
		t.Run(fmt.Sprintf("schedule %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			s := randomServer(r, length)
			latency := []float64{0.002, 0.02}[r.IntN(2)]
			apart := []float64{0.003, 0.01}[r.IntN(2)]
			l := watch(t, s, r, length, interval, apart, latency)
			if s.before < 1e6 || s.digits { // the printed step is a lag of its own
				lags = append(lags, l...)
			}
		})
	}
	require.NotEmpty(t, lags)
	sort.Float64s(lags)
	assert.Less(t, lags[len(lags)*99/100], float64(interval), "p99 of the lag in seconds")
	assert.Less(t, lags[len(lags)-1], float64(2*interval), "largest lag in seconds")
}

// A server so slow, or so blocked, that calls take as long as the interval, and
// scrapers so far apart that many requests end between their reads.
func TestCounter_StaysTrueWhenCallsAreSlowAndFarApart(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		watch(t, randomServer(r, 40), r, 40, 1, 0.4*r.Float64(), 1.5)
	}
}

func TestCounter_ReleasedSlotKeepsTokensCounted(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 100, Began: at(0), Ended: at(0.01)})
	c.Running(at(0.02), []Request{{Slot: 0, Task: 7, Count: 40}})
	assert.EqualValues(t, 140, c.Value())

	c.Running(at(0.5), nil)
	assert.EqualValues(t, 140, c.Value(), "request 7 has ended, the total does not have it yet")

	c.Total(Total{Value: 160, Began: at(1), Ended: at(1.01), Idle: true})
	assert.EqualValues(t, 160, c.Value())
}

func TestCounter_SlotReusedAtOnceCountsBothRequests(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 0, Began: at(0), Ended: at(0.01)})
	c.Running(at(0.02), []Request{{Slot: 0, Task: 7, Count: 40}})
	c.Running(at(0.5), []Request{{Slot: 0, Task: 9, Count: 5}})
	assert.EqualValues(t, 45, c.Value())
}

func TestCounter_SlotsReadThatOverlapsTheTotalIsNotAddedToIt(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 0, Began: at(0), Ended: at(0.01)})
	// Began before the next total ended, which may have the request already.
	c.Running(at(1.0), []Request{{Slot: 0, Task: 7, Count: 40}})
	c.Total(Total{Value: 50, Began: at(0.99), Ended: at(1.02)})
	assert.EqualValues(t, 50, c.Value())
}

func TestCounter_OldTotalIsPassedOver(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 50, Began: at(1), Ended: at(1.01), Idle: true})
	c.Total(Total{Value: 40, Began: at(0), Ended: at(0.01), Idle: true})
	assert.EqualValues(t, 50, c.Value())
}

func TestCounter_WithoutTotalsCountsWhatIsSeen(t *testing.T) {
	var c Counter
	c.Running(at(0), []Request{{Slot: 0, Task: 7, Count: 40}, {Slot: 1, Task: 8, Count: 1}})
	c.Running(at(1), []Request{{Slot: 0, Task: 7, Count: 60}, {Slot: 1, Task: 9, Count: 2}})
	c.Running(at(2), []Request{{Slot: 0, Task: 11, Count: 3}})
	assert.EqualValues(t, 40+1+20+2+3, c.Value())
}

func TestCounter_ResetStartsTheNextProcessAtZero(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 5000, Began: at(0), Ended: at(0.01)})
	c.Running(at(0.02), []Request{{Slot: 0, Task: 7, Count: 40}})
	c.Reset()
	c.Total(Total{Value: 3, Began: at(1), Ended: at(1.01)})
	assert.EqualValues(t, 3, c.Value())
}

// A million and five tokens are printed as 1e+06, one more as 1.00001e+06.
func TestCounter_SixPrintedDigitsMakeNoFalseStep(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 1.00001e6, Began: at(0), Ended: at(0.01), Idle: true}) // 1000006 in truth
	assert.EqualValues(t, 1_000_010, c.Value())
	c.Running(at(0.02), []Request{{Slot: 0, Task: 7, Count: 8}}) // 1000014 in truth
	assert.EqualValues(t, 1_000_010, c.Value(), "cannot be told from rounding")
	c.Running(at(0.5), []Request{{Slot: 0, Task: 7, Count: 108}}) // 1000114 in truth
	assert.EqualValues(t, 1_000_108, c.Value())
	c.Total(Total{Value: 1.00011e6, Began: at(1), Ended: at(1.01), Idle: true})
	assert.EqualValues(t, 1_000_110, c.Value())
}

func TestCounter_AllPrintedDigitsAreUsedWhenTheServerPrintsThem(t *testing.T) {
	var c Counter
	c.Total(Total{Value: 1_234_567, Began: at(0), Ended: at(0.01)})
	c.Running(at(0.02), []Request{{Slot: 0, Task: 7, Count: 8}})
	assert.EqualValues(t, 1_234_575, c.Value())
}

func BenchmarkCounter(b *testing.B) {
	var c Counter
	rs := []Request{{Slot: 0, Task: 7}, {Slot: 1, Task: 8}, {Slot: 2, Task: 9}, {Slot: 3, Task: 10}}
	b.ReportAllocs()
	for i := range b.N {
		now := t0.Add(time.Duration(i) * time.Second)
		c.Total(Total{Value: float64(i), Began: now, Ended: now})
		for k := range rs {
			rs[k].Count++
		}
		c.Running(now, rs)
	}
}
