// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

// plain is what of a request has to be as it truly was.
func plain(child int, r Request) string {
	if !r.HasTimings {
		r.PromptTime, r.GenerationTime = 0, 0
	}
	return fmt.Sprint(key(child, &r), " slot ", r.Slot, " ended ", r.Ended, " ", r.Outcome, " ", r.Reason, " timings ", r.HasTimings,
		" prompt ", r.PromptTime, r.Processed, " cached ", r.Cached, " generation ", r.GenerationTime, r.Generated)
}

// same fails with the differences alone.
func same(t *testing.T, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(got, s) })
		extra := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return slices.Contains(want, s) })
		t.Errorf("%d instead of %d; missing: %q; extra: %q", len(got), len(want), missing, extra)
	}
}

func TestTracker_CompleteLogGivesEveryRequestOnceAndExactly(t *testing.T) {
	seeds(t, func(t *testing.T, random *rand.Rand) {
		s := newSchedule(random, random.IntN(2) == 0, random.IntN(2) == 0)
		var got, want []string
		for _, r := range follow(s.events...).requests {
			got = append(got, plain(0, *r))
		}
		for _, r := range s.truth {
			want = append(want, plain(0, r))
		}
		same(t, want, got)
	})
}

func TestTracker_LostLinesNeverMakeRequestsOrNumbers(t *testing.T) {
	seeds(t, func(t *testing.T, random *rand.Rand) {
		s := newSchedule(random, true, random.IntN(2) == 0)
		part := random.Float64()
		kept := slices.DeleteFunc(slices.Clone(s.events), func(e serverlog.Event) bool {
			return e.Kind != serverlog.Start && e.Kind != serverlog.Spawn && random.Float64() < part
		})
		numbers := map[string]bool{}
		for _, r := range s.truth {
			numbers[fmt.Sprint(r.Task, r.PromptTime, r.Processed, r.GenerationTime, r.Generated)] = true
		}
		type id struct {
			p    *Process
			task int
		}
		seen := map[id]bool{}
		got := follow(kept...).requests
		assert.LessOrEqual(t, len(got), len(s.truth))
		for _, r := range got {
			sane(t, r)
			if r.HasTimings {
				assert.Contains(t, numbers, fmt.Sprint(r.Task, r.PromptTime, r.Processed, r.GenerationTime, r.Generated))
			}
			if r.Task >= 0 {
				assert.False(t, seen[id{r.Process, r.Task}], "twice: %s", key(0, r))
				seen[id{r.Process, r.Task}] = true
			}
		}
	})
}

// sane fails on numbers that cannot be.
func sane(t *testing.T, r *Request) {
	t.Helper()
	assert.LessOrEqual(t, r.Launched, r.Ended)
	if d, ok := r.Duration(); ok {
		assert.GreaterOrEqual(t, d, time.Duration(0))
	}
	if d, ok := r.TimePerOutputToken(); ok {
		assert.GreaterOrEqual(t, d, time.Duration(0))
	}
	for _, n := range []int{r.Processed, r.Cached, r.Generated, r.Prompt, r.Held} {
		assert.GreaterOrEqual(t, n, Unknown)
	}
	if n, ok := r.InputTokens(); ok {
		assert.GreaterOrEqual(t, n, 0)
	}
	if v, ok := r.PromptSpeed(); ok {
		assert.Positive(t, v)
	}
	if v, ok := r.GenerationSpeed(); ok {
		assert.Positive(t, v)
	}
	assert.Less(t, r.Outcome, Outcome(Outcomes))
	assert.Equal(t, r.Outcome != Completed, r.Reason != "")
}

// within is a part of the log in which no process begins or ends.
func within(random *rand.Rand, events []serverlog.Event) (from, to int) {
	from = random.IntN(len(events))
	for to = from; to < len(events) && to < from+60; to++ {
		switch events[to].Kind {
		case serverlog.Start, serverlog.Stop, serverlog.Spawn:
			return from, to
		}
	}
	return from, to
}

func TestTracker_TwoFilesReadAtOnceGiveTheSameRequests(t *testing.T) {
	seeds(t, func(t *testing.T, random *rand.Rand) {
		s := newSchedule(random, true, false)
		from, to := within(random, s.events)
		shuffled := slices.Clone(s.events[:from])
		cut := from + (to-from)/2
		older, newer := s.events[from:cut], s.events[cut:to]
		for len(older)+len(newer) > 0 {
			next := &older
			if len(older) == 0 || len(newer) > 0 && random.IntN(2) == 0 {
				next = &newer
			}
			shuffled = append(shuffled, (*next)[0])
			*next = (*next)[1:]
		}
		shuffled = append(shuffled, s.events[to:]...)
		task := func(all []*Request) (s []string) {
			for _, r := range all {
				s = append(s, fmt.Sprint(r.Process.Child, r.Process.Began, r.Task))
			}
			return s
		}
		same(t, task(follow(s.events...).requests), task(follow(shuffled...).requests))
	})
}

func TestTracker_LinesReadTwiceGiveNothingTwice(t *testing.T) {
	seeds(t, func(t *testing.T, random *rand.Rand) {
		s := newSchedule(random, true, random.IntN(2) == 0)
		from, to := within(random, s.events)
		repeated := slices.Concat(s.events[:to], s.events[from:])
		same(t, s.keys, keys(follow(repeated...).requests))
	})
}

func TestTracker_GoesOnInAnotherProcess(t *testing.T) {
	seeds(t, func(t *testing.T, random *rand.Rand) {
		s := newSchedule(random, random.IntN(2) == 0, random.IntN(2) == 0)
		clocks := random.IntN(2) == 0
		wall := make([]time.Time, len(s.events))
		now := began
		for i := range s.events {
			now = now.Add(time.Duration(random.IntN(int(time.Second))))
			wall[i] = now
			s.events[i].HasClock = clocks
		}
		run := func(cut int) (lines []string) {
			f := &found{}
			tracker := NewTracker(f, true)
			for i := range s.events {
				if i == cut {
					b, err := json.Marshal(tracker)
					require.NoError(t, err)
					tracker = NewTracker(f, true)
					require.NoError(t, json.Unmarshal(b, tracker))
				}
				tracker.Add(&s.events[i], wall[i], !clocks)
				tracker.Settle(wall[i])
			}
			for _, r := range f.requests {
				d, ok := r.Duration()
				lines = append(lines, fmt.Sprint(plain(r.Process.Child, *r), len(r.Progress), d, ok))
			}
			return lines
		}
		same(t, run(-1), run(random.IntN(len(s.events))))
	})
}

func FuzzTracker(f *testing.F) {
	for _, seed := range []uint64{1, 2, 3, 4, 5} {
		random := rand.New(rand.NewPCG(seed, 17))
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		found := &found{}
		tracker := NewTracker(found, true)
		wall := began
		for ; len(b) >= 6; b = b[6:] {
			e := event(serverlog.Kind(b[0]%32), time.Duration(b[1])*time.Second)
			e.HasClock = b[2]&1 != 0
			e.Slot, e.Task = int(b[3]%4)-1, int(b[3]>>2)%16-1
			e.Child = int(b[2]>>1) % 3
			e.Port = int(b[4])%3 + 1
			e.Text = []string{"", "a", "b"}[b[4]>>4%3%3]
			e.Early = b[2]&8 != 0
			e.Tokens, e.Duration = int(b[4]), time.Duration(b[5])*time.Millisecond
			e.Cached, e.Drafted = int(b[5])-1, int(b[4])
			e.Severity = serverlog.Severity(b[5] % 5)
			if e.Kind == serverlog.RequestError {
				e.Reason = serverlog.ReasonServer
			}
			wall = wall.Add(time.Duration(int8(b[5])) * time.Second)
			tracker.Add(&e, wall, b[2]&16 != 0)
			if b[2]&32 != 0 {
				tracker.Settle(wall)
			}
			if b[2]&0xc0 == 0xc0 {
				state, err := json.Marshal(tracker)
				require.NoError(t, err)
				tracker = NewTracker(found, true)
				require.NoError(t, json.Unmarshal(state, tracker))
			}
		}
		for _, r := range found.requests {
			sane(t, r)
		}
	})
}
