// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

const ms = time.Millisecond

func start(at time.Duration) serverlog.Event { return event(serverlog.Start, at) }

func launch(at time.Duration, slot, task int) serverlog.Event {
	return of(event(serverlog.Launch, at), slot, task)
}

func promptDone(at time.Duration, task, tokens int, took time.Duration) serverlog.Event {
	e := of(event(serverlog.PromptDone, at), 0, task)
	e.Tokens, e.Duration = tokens, took
	return e
}

func generationDone(at time.Duration, task, tokens int, took time.Duration) serverlog.Event {
	e := of(event(serverlog.GenerationDone, at), 0, task)
	e.Tokens, e.Duration = tokens, took
	return e
}

func release(at time.Duration, task, held int) serverlog.Event {
	e := of(event(serverlog.Release, at), 0, task)
	e.Tokens = held
	return e
}

func cancel(at time.Duration, task int) serverlog.Event {
	return of(event(serverlog.Cancel, at), -1, task)
}

func refused(at time.Duration, task int, reason string) serverlog.Event {
	e := of(event(serverlog.RequestError, at), -1, task)
	e.Reason, e.Severity = reason, serverlog.Error
	return e
}

func listening(at time.Duration) serverlog.Event {
	e := event(serverlog.Listening, at)
	e.Text = "http://127.0.0.1:8080"
	return e
}

func spawn(at time.Duration, model string, port int) serverlog.Event {
	e := event(serverlog.Spawn, at)
	e.Text, e.Port = model, port
	return e
}

func child(port int, e serverlog.Event) serverlog.Event {
	e.Child = port
	return e
}

// one is the only request of some events.
func one(t *testing.T, events ...serverlog.Event) *Request {
	t.Helper()
	got := follow(events...).requests
	require.Len(t, got, 1)
	return got[0]
}

func TestTracker_CompletedRequestHasTheServersNumbers(t *testing.T) {
	r := one(
		t, start(1*ms), launch(231*ms, 2, 8), promptDone(19_024*ms, 8, 37, 102_630*time.Microsecond),
		generationDone(19_025*ms, 8, 700, 6_340_170*time.Microsecond), release(19_026*ms, 8, 741),
	)
	assert.Equal(t, Completed, r.Outcome)
	assert.Empty(t, r.Reason)
	assert.Equal(t, 8, r.Task)
	assert.Equal(t, 231*ms, r.Launched)
	assert.Equal(t, 19_026*ms, r.Ended)
	d, ok := r.Duration()
	assert.True(t, ok)
	assert.Equal(t, 6442_800*time.Microsecond, d)
	first, ok := r.FirstToken()
	assert.True(t, ok)
	assert.Equal(t, 19_025*ms-6_340_170*time.Microsecond, first)
	per, ok := r.TimePerOutputToken()
	assert.True(t, ok)
	assert.Equal(t, 6_340_170*time.Microsecond/699, per)
	speed, ok := r.PromptSpeed()
	assert.True(t, ok)
	assert.InDelta(t, 360.52, speed, 0.01)
	speed, ok = r.GenerationSpeed()
	assert.True(t, ok)
	assert.InDelta(t, 110.25, speed, 0.01)
	assert.Equal(t, 5, r.Cached, "741 held, without the last of 700, 37 computed")
	n, ok := r.InputTokens()
	assert.True(t, ok)
	assert.Equal(t, 42, n)
}

func TestTracker_OneTokenHasNoTimePerToken(t *testing.T) {
	r := one(t, launch(1*ms, 0, 0), promptDone(9*ms, 0, 4, 5*ms), generationDone(9*ms, 0, 1, 0), release(9*ms, 0, 4))
	_, ok := r.TimePerOutputToken()
	assert.False(t, ok)
	_, ok = r.GenerationSpeed()
	assert.False(t, ok)
	at, ok := r.FirstToken()
	assert.True(t, ok)
	assert.Equal(t, 9*ms, at)
}

func TestTracker_OutcomeFollowsFromTheLines(t *testing.T) {
	early := release(5*ms, 0, 3)
	early.Early = true
	for name, tt := range map[string]struct {
		events  []serverlog.Event
		outcome Outcome
		reason  string
	}{
		"without timings, as embeddings":   {[]serverlog.Event{launch(1*ms, 0, 0), release(2*ms, 0, 4)}, Completed, ""},
		"client went away":                 {[]serverlog.Event{launch(1*ms, 0, 0), cancel(2*ms, 0), release(3*ms, 0, 4)}, Cancelled, ReasonCancelled},
		"went away before it got a slot":   {[]serverlog.Event{cancel(1*ms, 0), launch(2*ms, 0, 0), release(3*ms, 0, 4)}, Cancelled, ReasonCancelled},
		"prompt too long":                  {[]serverlog.Event{launch(1*ms, 0, 0), refused(2*ms, 0, serverlog.ReasonContextSize), release(3*ms, 0, 0), cancel(4*ms, 0)}, Rejected, serverlog.ReasonContextSize},
		"error, then the cancel it causes": {[]serverlog.Event{launch(1*ms, 0, 0), refused(2*ms, 0, serverlog.ReasonServer), cancel(3*ms, 0), release(4*ms, 0, 0)}, Failed, serverlog.ReasonServer},
		"refused before it got a slot":     {[]serverlog.Event{refused(2*ms, 19, serverlog.ReasonInvalidRequest), cancel(3*ms, 19)}, Rejected, serverlog.ReasonInvalidRequest},
		"refused before it is a task":      {[]serverlog.Event{refused(2*ms, -1, serverlog.ReasonUnavailable)}, Rejected, serverlog.ReasonUnavailable},
		"server stopped":                   {[]serverlog.Event{launch(1*ms, 0, 0), event(serverlog.Stop, 2*ms), cancel(30*time.Second, 0)}, Failed, ReasonServerStopped},
		"server was killed":                {[]serverlog.Event{start(1 * ms), launch(2*ms, 0, 0), start(3 * ms)}, Failed, ReasonServerStopped},
		"stopped after the last token":     {[]serverlog.Event{launch(1*ms, 0, 0), promptDone(2*ms, 0, 1, ms), generationDone(3*ms, 0, 1, 0), event(serverlog.Stop, 4*ms)}, Completed, ""},
		"error after an early release":     {[]serverlog.Event{launch(1*ms, 0, 0), early, refused(6*ms, 0, serverlog.ReasonContextSize)}, Rejected, serverlog.ReasonContextSize},
	} {
		t.Run(name, func(t *testing.T) {
			r := one(t, tt.events...)
			assert.Equal(t, tt.outcome, r.Outcome, r.Outcome.String())
			assert.Equal(t, tt.reason, r.Reason)
		})
	}
}

func TestTracker_OutcomesHaveTheNamesOfTheirAttribute(t *testing.T) {
	var names []string
	for o := range Outcome(Outcomes) {
		names = append(names, o.String())
	}
	assert.Equal(t, []string{"completed", "cancelled", "rejected", "failed", "unknown"}, names)
}

func TestTracker_EarlyReleaseWaitsForTimingsAndDraft(t *testing.T) {
	early, draft := release(5*ms, 0, 9), of(event(serverlog.Draft, 7*ms), 0, 0)
	early.Early, draft.Drafted, draft.Tokens = true, 4, 3
	idle := event(serverlog.Other, 8*ms)
	r := one(t, launch(1*ms, 0, 0), early, promptDone(6*ms, 0, 2, ms), generationDone(6*ms, 0, 5, ms), draft, idle)
	assert.True(t, r.HasTimings)
	assert.Equal(t, 3, r.Accepted)
	assert.Equal(t, 6*ms, r.Ended, "not before the last token was out")
}

func TestTracker_EarlyReleaseWithoutTimingsIsSettledInTime(t *testing.T) {
	early := release(5*ms, 0, 9)
	early.Early = true
	f := &found{}
	tracker := NewTracker(f, false)
	read(tracker, launch(1*ms, 0, 0), early)
	tracker.Settle(began.Add(time.Second))
	assert.Empty(t, f.requests)
	tracker.Settle(began.Add(3 * time.Second))
	require.Len(t, f.requests, 1)
	assert.Equal(t, 5*ms, f.requests[0].Ended)
}

func TestTracker_LostEndIsKnownByTheNextRequestOfTheSlot(t *testing.T) {
	f := &found{}
	tracker := NewTracker(f, false)
	read(tracker, launch(1*ms, 0, 0), launch(50*ms, 0, 9), release(60*ms, 9, 1))
	require.Len(t, f.requests, 1)
	tracker.Settle(began.Add(9 * time.Second))
	assert.Len(t, f.requests, 1, "its last lines may be read late")
	tracker.Settle(began.Add(11 * time.Second))
	require.Len(t, f.requests, 2)
	assert.Equal(t, Lost, f.requests[1].Outcome)
	assert.Equal(t, ReasonLost, f.requests[1].Reason)
	assert.Equal(t, 50*ms, f.requests[1].Ended)

	f = follow(launch(1*ms, 0, 0), launch(50*ms, 0, 9), release(40*ms, 0, 3), release(60*ms, 9, 1))
	require.Len(t, f.requests, 2)
	assert.Equal(t, Completed, f.requests[0].Outcome, "read late")

	f = follow(launch(1*ms, 0, 0), launch(50*ms, 0, 9), release(60*ms, 9, 1), launch(11*time.Second, 0, 12))
	require.Len(t, f.requests, 2)
	assert.Equal(t, Lost, f.requests[1].Outcome)
}

func TestTracker_CachedTokensAreThoseOfTheSurestLine(t *testing.T) {
	cached := func(n int) serverlog.Event {
		e := of(event(serverlog.PromptCached, 2*ms), 0, 0)
		e.Cached = n
		return e
	}
	prompt := of(event(serverlog.NewPrompt, 2*ms), 0, 0)
	prompt.Tokens = 20
	shift := of(event(serverlog.ContextShift, 3*ms), 0, 0)
	timings := []serverlog.Event{promptDone(4*ms, 0, 15, ms), generationDone(4*ms, 0, 3, ms)}
	for name, tt := range map[string]struct {
		before []serverlog.Event
		held   int
		want   int
	}{
		"the prompt's length":           {[]serverlog.Event{prompt, cached(18)}, 0, 5},
		"the sequence":                  {nil, 15 + 2 + 4, 4},
		"the line":                      {[]serverlog.Event{cached(7)}, 3, 7},
		"the first line":                {[]serverlog.Event{cached(7), cached(12)}, 3, 7},
		"nothing after a shift":         {[]serverlog.Event{shift}, 100, Unknown},
		"nothing that makes no sense":   {nil, 3, Unknown},
		"no tokens":                     {nil, 17, 0},
		"the sequence, before the line": {[]serverlog.Event{cached(12)}, 17, 0},
	} {
		t.Run(name, func(t *testing.T) {
			events := append([]serverlog.Event{launch(1*ms, 0, 0)}, tt.before...)
			events = append(events, timings...)
			r := one(t, append(events, release(5*ms, 0, tt.held))...)
			assert.Equal(t, tt.want, r.Cached)
		})
	}
}

func TestTracker_RequestBegunBeforeTheLogFollowsFromItsTimings(t *testing.T) {
	r := one(t, promptDone(100*ms, 5, 10, 20*ms), generationDone(100*ms, 5, 10, 30*ms), release(101*ms, 5, 19))
	assert.False(t, r.HasLaunch)
	assert.Equal(t, 50*ms, r.Launched)
	d, ok := r.Duration()
	assert.True(t, ok)
	assert.Equal(t, 50*ms, d)

	r = one(t, cancel(99*ms, 5))
	_, ok = r.Duration()
	assert.False(t, ok, "nothing says when it began")
}

func TestTracker_ShiftsAndTruncationAreReported(t *testing.T) {
	f := follow(launch(1*ms, 0, 0), of(event(serverlog.ContextShift, 2*ms), 0, 0), release(3*ms, 0, 1))
	assert.Equal(t, 1, f.shifts)
	assert.True(t, f.requests[0].Truncated)
	e := release(3*ms, 0, 1)
	e.Truncated = true
	assert.True(t, one(t, launch(1*ms, 0, 0), e).Truncated)
}

func TestTracker_LoadsAreTimedAtStartAndOnWaking(t *testing.T) {
	f := follow(
		event(serverlog.Loading, 10*ms), event(serverlog.Ready, 30*ms), event(serverlog.Ready, 40*ms),
		event(serverlog.Sleep, time.Second), event(serverlog.Loading, 2*time.Second), event(serverlog.Ready, 5*time.Second),
	)
	assert.Equal(t, []time.Duration{20 * ms, 3 * time.Second}, f.loads)

	f = &found{}
	tracker := NewTracker(f, false)
	for i, kind := range []serverlog.Kind{serverlog.Loading, serverlog.Ready} {
		e := event(kind, 0)
		e.HasClock = false
		tracker.Add(&e, began.Add(time.Duration(i)*time.Second), false)
	}
	assert.Empty(t, f.loads, "the times of reading say nothing of that")
}

func TestTracker_SleepKeepsTheProcess(t *testing.T) {
	f := follow(
		start(1*ms), event(serverlog.Loading, 2*ms), listening(3*ms), launch(4*ms, 0, 0), release(5*ms, 0, 1),
		event(serverlog.Sleep, time.Second), event(serverlog.Wake, 2*time.Second), event(serverlog.Loading, 2*time.Second),
		launch(3*time.Second, 0, 14), release(4*time.Second, 14, 1),
	)
	require.Len(t, f.requests, 2)
	assert.Same(t, f.requests[0].Process, f.requests[1].Process)
}

func TestTracker_ProcessesAreToldApartByWhatTheySayOnce(t *testing.T) {
	first := []serverlog.Event{start(2 * ms), event(serverlog.Loading, 3*ms), listening(4 * ms), launch(5*ms, 0, 7), release(6*ms, 7, 1)}
	for name, second := range map[string][]serverlog.Event{
		"start":              {start(3 * ms), release(9*ms, 7, 1)},
		"loading":            {event(serverlog.Loading, 2*ms), release(9*ms, 7, 1)},
		"listening":          {listening(5 * ms), release(9*ms, 7, 1)},
		"launch":             {launch(8*ms, 0, 7), release(9*ms, 7, 1)},
		"line before launch": {release(4*ms, 7, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			got := follow(append(first[:len(first):len(first)], second...)...).requests
			require.Len(t, got, 2)
			assert.NotSame(t, got[0].Process, got[1].Process)
		})
	}
	t.Run("task long before", func(t *testing.T) {
		got := follow(launch(5*time.Minute, 0, 700), launch(ms, 1, 3), release(2*ms, 3, 1)).requests
		require.Len(t, got, 2)
		assert.Equal(t, ReasonServerStopped, got[0].Reason)
	})
	t.Run("line before launch of one under way", func(t *testing.T) {
		got := follow(launch(5*time.Second, 0, 3), promptDone(ms, 3, 1, 0), release(2*ms, 3, 1)).requests
		require.Len(t, got, 2)
		assert.Equal(t, ReasonServerStopped, got[0].Reason)
		assert.Equal(t, 5*time.Second, got[0].Launched)
	})
	t.Run("the same lines again", func(t *testing.T) {
		assert.Len(t, follow(append(first, first...)...).requests, 1)
	})
	t.Run("without a clock", func(t *testing.T) {
		f := &found{}
		tracker := NewTracker(f, false)
		for i, e := range []serverlog.Event{start(0), launch(0, 0, 0), release(0, 0, 1), start(0), launch(0, 0, 0), release(0, 0, 1)} {
			e.HasClock = false
			tracker.Add(&e, began.Add(time.Duration(i)*time.Second), false)
		}
		assert.Len(t, f.requests, 2)
	})
}

func TestTracker_UnclockedDurationsNeedTheTimesOfWriting(t *testing.T) {
	for _, exact := range []bool{true, false} {
		f := &found{}
		tracker := NewTracker(f, false)
		for i, e := range []serverlog.Event{launch(0, 0, 0), cancel(0, 0), release(0, 0, 1)} {
			e.HasClock = false
			tracker.Add(&e, began.Add(time.Duration(i)*time.Second), exact)
		}
		require.Len(t, f.requests, 1)
		d, ok := f.requests[0].Duration()
		assert.Equal(t, exact, ok)
		if exact {
			assert.Equal(t, 2*time.Second, d)
		}
		assert.Equal(t, began, f.requests[0].Process.Wall.At(f.requests[0].Launched).UTC())
	}
}

func TestTracker_UnclockedTimeGoesOnWhileTheCollectorIsDown(t *testing.T) {
	f := &found{}
	tracker := NewTracker(f, false)
	e := launch(0, 0, 0)
	e.HasClock = false
	tracker.Add(&e, began, true)
	b, err := json.Marshal(tracker)
	require.NoError(t, err)
	tracker = NewTracker(f, false)
	require.NoError(t, json.Unmarshal(b, tracker))
	e = release(0, 0, 1)
	e.HasClock = false
	tracker.Add(&e, began.Add(time.Hour), true)
	require.Len(t, f.requests, 1)
	d, _ := f.requests[0].Duration()
	assert.Equal(t, time.Hour, d)
	assert.Equal(t, began, f.requests[0].Process.Wall.At(f.requests[0].Launched).UTC())
}

func TestTracker_RouterAndChildrenAreProcesses(t *testing.T) {
	f := &found{}
	tracker := NewTracker(f, false)
	read(
		tracker, start(1*ms), listening(2*ms), spawn(3*ms, "tiny", 5000), child(5000, start(1*ms)),
		child(5000, launch(2*ms, 0, 0)), spawn(3*ms, "tiny", 5000), child(5000, release(3*ms, 0, 1)),
	)
	require.Len(t, f.requests, 1)
	assert.Equal(t, "tiny", f.requests[0].Process.Model)
	assert.Equal(t, Completed, f.requests[0].Outcome, "a line that is read twice ends nothing")

	exit := event(serverlog.ChildExit, 9*ms)
	exit.Text = "tiny"
	read(tracker, child(5000, launch(5*ms, 0, 3)), exit)
	require.Len(t, f.requests, 2)
	assert.Equal(t, ReasonServerStopped, f.requests[1].Reason)

	read(tracker, spawn(10*ms, "tiny", 6000), child(6000, launch(1*ms, 0, 0)))
	assert.NotContains(t, tracker.Processes, 5000, "a model has one child at a time")
	read(tracker, spawn(11*ms, "slow", 6000), child(6000, launch(2*ms, 0, 0)))
	require.Len(t, f.requests, 3)
	assert.Equal(t, "slow", tracker.Processes[6000].Model, "the port has another model now")

	read(tracker, start(2*ms))
	assert.Len(t, f.requests, 4, "children end with their router")
	assert.Len(t, tracker.Processes, 1)
	assert.Empty(t, tracker.Models)
}

func TestTracker_MemoryIsBounded(t *testing.T) {
	f := &found{}
	tracker := NewTracker(f, true)
	for i := range 3 * maxOpen {
		read(tracker, launch(time.Duration(i)*ms, i, i))
	}
	assert.Len(t, tracker.Processes[0].Open, maxOpen)
	assert.Equal(t, Lost, f.requests[0].Outcome)

	tracker = NewTracker(f, true)
	for i := range 3 * maxFinished {
		read(tracker, launch(time.Duration(i)*ms, 0, i), release(time.Duration(i)*ms, i, 0), refused(time.Duration(i)*ms, -1, serverlog.ReasonServer))
	}
	assert.Len(t, tracker.Processes[0].Finished, maxFinished)
	assert.Len(t, tracker.Processes[0].Order, maxFinished)
	assert.Len(t, tracker.Processes[0].Refused, maxRefused)

	tracker = NewTracker(f, true)
	for i := range 3 * maxProcesses {
		read(tracker, spawn(0, "model "+time.Duration(i).String(), 1000+i))
	}
	assert.Len(t, tracker.Models, maxProcesses)

	tracker = NewTracker(f, true)
	for i := range 3 * maxProcesses {
		e := child(1000+i, launch(time.Duration(i)*time.Hour, 0, 0))
		tracker.Add(&e, began.Add(time.Duration(i)*time.Hour), false)
	}
	assert.Len(t, tracker.Processes, maxProcesses)
	assert.Contains(t, tracker.Processes, 1000+3*maxProcesses-1)
}

func TestTracker_ProgressIsThinnedOut(t *testing.T) {
	progress := func(i int) serverlog.Event {
		e := of(event(serverlog.GenerationProgress, time.Duration(i)*ms), 0, 0)
		e.Tokens, e.Speed = i, 50
		return e
	}
	events := []serverlog.Event{launch(0, 0, 0)}
	for i := range 1000 {
		events = append(events, progress(i))
	}
	events = append(events, release(2*time.Second, 0, 1))
	r := one(t, events...)
	assert.LessOrEqual(t, len(r.Progress), maxProgress)
	assert.Equal(t, 999, r.Progress[len(r.Progress)-1].Tokens)

	f := &found{}
	read(NewTracker(f, false), events...)
	assert.Empty(t, f.requests[0].Progress)
}

func TestTracker_WarningsAndErrorsAreReported(t *testing.T) {
	w, e := event(serverlog.Other, ms), event(serverlog.Other, ms)
	w.Severity, e.Severity = serverlog.Warning, serverlog.Error
	f := follow(start(0), w, e)
	assert.Equal(t, 2, f.logged)
}

func TestTracker_StateThatIsNoneIsAnError(t *testing.T) {
	for _, state := range []string{
		`[]`, `{"processes":{"0":null}}`, `{"processes":{"0":{}}}`, `{"processes":{"0":{"open":{"1":null},"finished":{}}}}`,
		`{"processes":{"0":{"open":{"1":{"task":2}},"finished":{}}}}`, `{"processes":{"0":{"open":{"1":{"task":1,"outcome":9}},"finished":{}}}}`,
	} {
		assert.Error(t, json.Unmarshal([]byte(state), &Tracker{}), state)
	}
	f := &found{}
	tracker := &Tracker{handler: f} // none of its maps is there
	require.NoError(t, json.Unmarshal([]byte(`{}`), tracker))
	read(tracker, spawn(0, "m", 1), launch(1*ms, 0, 0), release(2*ms, 0, 0))
	assert.Len(t, f.requests, 1)
}

func BenchmarkTracker(b *testing.B) {
	f := &found{}
	tracker := NewTracker(f, false)
	events := []serverlog.Event{launch(0, 0, 0), promptDone(0, 0, 5, ms), generationDone(0, 0, 5, ms), release(0, 0, 9)}
	b.ReportAllocs()
	for i := range b.N {
		e := events[i%len(events)]
		e.Task, e.Clock = i/len(events), time.Duration(i)*ms
		tracker.Add(&e, began.Add(e.Clock), false)
		f.requests = f.requests[:0]
	}
}
