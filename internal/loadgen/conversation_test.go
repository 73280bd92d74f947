// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// talks are conversations of a number of turns, whose requests have all before them
// as a text.
type talks int

func (talks) Request(n uint64) *completion.Request {
	return &completion.Request{Prompt: fmt.Sprintf("%d:", n)}
}

func (t talks) Next(_ uint64, turn int, q *completion.Request, answer string) *completion.Request {
	if turn == int(t) {
		return nil
	}
	return &completion.Request{Prompt: q.Prompt + answer}
}

// talker answers each request with a letter, as the server does, and keeps what it
// was asked.
type talker struct {
	*server
	mu    sync.Mutex
	asked []string
}

func (s *talker) Do(ctx context.Context, q *completion.Request, due time.Time) completion.Result {
	s.mu.Lock()
	s.asked = append(s.asked, q.Prompt)
	s.mu.Unlock()
	r := s.server.Do(ctx, q, due)
	r.Text = "x"
	r.CachedTokens = 2 * (len(q.Prompt) - 2)
	return r
}

func talk(t *testing.T, c Config, s *talker, turns talks) *Results {
	t.Helper()
	r, err := Start(t.Context(), c, s, turns)
	require.NoError(t, err)
	results, err := r.Wait()
	require.NoError(t, err)
	return results
}

func TestConversation_TurnsFollowTheAnswersInAnOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Duration, c.Requests, c.Think = 0, 3, 5*time.Second
		dues := map[string]time.Duration{}
		c.Record = func(s Sample) {
			dues[fmt.Sprintf("%d.%d", s.N, s.Turn)] = s.Due
			assert.Empty(t, s.Result.Text, "nobody records what was said")
		}
		s := &talker{server: takes(2 * time.Second)}
		r := talk(t, c, s, 3)
		assert.Equal(t, Counts{Due: 9, Sent: 9, OK: 9}, r.Counts)
		sec := time.Second
		assert.Equal(t, map[string]time.Duration{
			"0.0": 0, "1.0": sec, "2.0": 2 * sec, "0.1": 7 * sec, "1.1": 8 * sec, "2.1": 9 * sec, "0.2": 14 * sec, "1.2": 15 * sec, "2.2": 16 * sec,
		}, dues)
		assert.Equal(t, []string{"0:", "1:", "2:", "0:x", "1:x", "2:x", "0:xx", "1:xx", "2:xx"}, s.asked)
		assert.Zero(t, r.Lag.Max())

		require.Len(t, r.Turns, 3)
		for i, turn := range r.Turns {
			assert.Equal(t, 3, turn.Counts.OK)
			rate, ok := turn.Tokens.HitRate()
			assert.True(t, ok)
			assert.InDelta(t, 0.2*float64(i), rate, 1e-9)
			assert.Equal(t, sec, turn.TTFT.Max())
		}
		p := NewReport(&c, r, About{}, Workload{})
		var text, markdown, csv strings.Builder
		require.NoError(t, p.WriteText(&text))
		require.NoError(t, p.WriteMarkdown(&markdown))
		require.NoError(t, p.WriteCSV(&csv))
		assert.Regexp(t, `(?m)^ +3 +3 +30 +40.0 % +1s +1s$`, text.String())
		assert.Contains(t, markdown.String(), "| 3 | 3 | 30 | 40.0 % | 1s | 1s |")
		assert.Contains(t, csv.String(), "\nttft_turn_3,3,1,")
	})
}

func TestConversation_UsersHoldOneAfterTheOtherInAClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Users: 1, Think: time.Second, Requests: 2, Drain: time.Minute, MaxErrors: 1}
		s := &talker{server: takes(time.Second)}
		began := time.Now()
		r := talk(t, c, s, 2)
		assert.Equal(t, []string{"0:", "0:x", "1:", "1:x"}, s.asked)
		assert.Equal(t, 4, r.Counts.OK)
		assert.Equal(t, 7*time.Second, time.Since(began))
	})
}

func TestConversation_EndsWithTheRunAndWithAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Duration, c.Think = 4*time.Second, 500*ms
		r := talk(t, c, &talker{server: takes(time.Second)}, 100)
		// A turn is due each 1.5 s until 4 s: three of the first, two of the next two, one.
		assert.Equal(t, Counts{Due: 8, Sent: 8, OK: 8}, r.Counts)

		c = every(1)
		c.Requests, c.Duration, c.MaxErrors = 1, 0, 1
		failing := &talker{server: &server{answer: func(n int) (time.Duration, completion.Outcome) {
			return ms, map[bool]completion.Outcome{true: completion.Failed}[n == 1]
		}}}
		r = talk(t, c, failing, 5)
		assert.Equal(t, Counts{Due: 2, Sent: 2, OK: 1, Failed: 1}, r.Counts)
	})
}

func TestConversation_TheLastOnesMayGoOnAfterTheLastArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Duration, c.Requests, c.Think, c.Drain = 0, 1, time.Minute, 10*time.Second
		r := talk(t, c, &talker{server: takes(time.Second)}, 3)
		assert.Equal(t, 3, r.Counts.OK, "though its turns come long after the time to wait for answers")

		c.Drain = 2 * time.Second
		began := time.Now()
		r = talk(t, c, &talker{server: &server{answer: func(n int) (time.Duration, completion.Outcome) {
			return []time.Duration{ms, time.Hour}[n], completion.OK
		}}}, 3)
		assert.Equal(t, Counts{Due: 2, Sent: 2, OK: 1, Cancelled: 1}, r.Counts)
		assert.Equal(t, time.Minute+2*time.Second+ms, time.Since(began), "an answer that never comes is waited for no longer than another")
	})
}

func TestConversation_ATurnWithoutAPlaceIsDroppedAndEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := every(1)
		c.Duration, c.Requests, c.Think, c.MaxInFlight = 0, 2, 500*ms, 1
		// The first is answered at 0.7 s, its second turn due at 1.2 s, when the second
		// has the place.
		r := talk(t, c, &talker{server: takes(700 * ms)}, 2)
		assert.Equal(t, Counts{Due: 4, Sent: 3, OK: 3, Dropped: 1}, r.Counts)
		c.MaxWait = time.Second
		r = talk(t, c, &talker{server: takes(700 * ms)}, 2)
		assert.Equal(t, Counts{Due: 4, Sent: 4, OK: 4}, r.Counts)
		assert.Equal(t, 500*ms, r.Lag.Max())
	})
}

func TestConversation_AnInterruptEndsTheThinking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := every(1)
		c.Duration, c.Requests, c.Think = 0, 1, time.Hour
		r, err := Start(ctx, c, &talker{server: takes(ms)}, talks(3))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		cancel()
		<-r.Done()
		assert.Equal(t, time.Minute, r.Elapsed())
	})
}

func TestReport_ManyTurnsAreToldApartUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := talk(t, Config{Users: 1, Requests: 1, Drain: time.Minute, MaxErrors: 1}, &talker{server: takes(ms)}, 40)
		require.Len(t, r.Turns, maxTurns)
		assert.Equal(t, 9, r.Turns[maxTurns-1].Counts.OK)
		assert.Nil(t, NewReport(&Config{}, newRecorder(&Config{}, nil).results(), About{}, Workload{}).Turns)
	})
}
