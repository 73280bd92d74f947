// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

// began is a wall time at which logs of these tests begin.
var began = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// found keeps what a tracker reports.
type found struct {
	requests []*Request
	loads    []time.Duration
	shifts   int
	logged   int
	urls     []string
}

func (f *found) Request(r *Request)                          { f.requests = append(f.requests, r) }
func (f *found) Loaded(_ *Process, d time.Duration)          { f.loads = append(f.loads, d) }
func (f *found) Shifted(*Process)                            { f.shifts++ }
func (f *found) Logged(*Process, serverlog.Severity, string) { f.logged++ }
func (f *found) Listening(_ *Process, url string)            { f.urls = append(f.urls, url) }

// event has what every event has.
func event(kind serverlog.Kind, clock time.Duration) serverlog.Event {
	return serverlog.Event{Kind: kind, Clock: clock, HasClock: true, Slot: -1, Task: -1, Cached: -1, Severity: serverlog.Info}
}

// of gives an event a slot and a task.
func of(e serverlog.Event, slot, task int) serverlog.Event {
	e.Slot, e.Task = slot, task
	return e
}

func read(t *Tracker, events ...serverlog.Event) {
	for i := range events {
		t.Add(&events[i], began.Add(events[i].Clock), false)
	}
}

func follow(events ...serverlog.Event) *found {
	f := &found{}
	read(NewTracker(f, true), events...)
	return f
}

// life is what the log of one process says, and what is true of its requests.
type life struct {
	child  int
	clock  time.Duration
	events []serverlog.Event
	truth  []Request
	random *rand.Rand
	early  bool
}

func (l *life) say(e serverlog.Event) serverlog.Event {
	l.clock += time.Duration(1+l.random.IntN(20_000)) * time.Microsecond
	e.Clock, e.HasClock, e.Child = l.clock, true, l.child
	l.events = append(l.events, e)
	return e
}

// newLife writes a log of a process with several slots. Durations and tokens
// are all different, so that none can be taken for another's.
func newLife(random *rand.Rand, child int, start, early bool) *life {
	l := &life{child: child, random: random, early: early}
	if start {
		l.say(event(serverlog.Start, 0))
	}
	loading := event(serverlog.Loading, 0)
	loading.Text = "/models/tiny.gguf"
	l.say(loading)
	l.say(event(serverlog.Ready, 0))
	listening := event(serverlog.Listening, 0)
	listening.Text = "http://127.0.0.1:8080"
	l.say(listening)

	type running struct {
		truth int
		steps []serverlog.Event
	}
	slots := make([]*running, 1+random.IntN(4))
	task := 0
	for n := 5 + random.IntN(25); n > 0; {
		slot := random.IntN(len(slots))
		if r := slots[slot]; r != nil {
			e := l.say(r.steps[0])
			if e.Kind == serverlog.Release {
				l.truth[r.truth].Ended = e.Clock
			}
			if e.Kind == serverlog.GenerationDone {
				l.truth[r.truth].Ended = max(l.truth[r.truth].Ended, e.Clock)
				l.truth[r.truth].Reported = e.Clock
			}
			if r.steps = r.steps[1:]; len(r.steps) == 0 {
				slots[slot] = nil
			}
			continue
		}
		n--
		task += 1 + random.IntN(9)
		if random.IntN(10) == 0 { // refused before it is a task
			e := event(serverlog.RequestError, 0)
			e.Reason, e.Severity = serverlog.ReasonInvalidRequest, serverlog.Warning
			e = l.say(e)
			l.truth = append(l.truth, Request{Task: -1, Slot: -1, Launched: e.Clock, Ended: e.Clock, Outcome: Rejected, Reason: e.Reason, Processed: Unknown, Cached: Unknown, Generated: Unknown})
			continue
		}
		r := &running{truth: len(l.truth)}
		slots[slot] = r
		at := l.say(of(event(serverlog.Launch, 0), slot, task)).Clock
		truth := Request{Task: task, Slot: slot, Launched: at, HasLaunch: true, Outcome: Failed, Reason: ReasonServerStopped, Processed: Unknown, Cached: Unknown, Generated: Unknown}
		step := func(kind serverlog.Kind) *serverlog.Event {
			r.steps = append(r.steps, of(event(kind, 0), slot, task))
			return &r.steps[len(r.steps)-1]
		}
		for range random.IntN(3) {
			step(serverlog.PromptProgress).Tokens = 1
		}
		truth.Processed, truth.Generated = 1000+len(l.truth)*100+task, 2000+task
		truth.Cached = random.IntN(50)
		held := truth.Processed + truth.Cached + truth.Generated - 1
		release := func() {
			e := step(serverlog.Release)
			e.Tokens, e.Early = held, early
		}
		timings := func() {
			// The server measures less than what passes between its lines.
			truth.PromptTime, truth.GenerationTime = time.Duration(task)*time.Nanosecond, time.Duration(2*task)*time.Nanosecond
			truth.HasTimings, truth.Outcome, truth.Reason = true, Completed, ""
			e := step(serverlog.PromptDone)
			e.Tokens, e.Duration = truth.Processed, truth.PromptTime
			e = step(serverlog.GenerationDone)
			e.Tokens, e.Duration = truth.Generated, truth.GenerationTime
		}
		none := func() { truth.Processed, truth.Generated, truth.Cached = Unknown, Unknown, Unknown }
		switch random.IntN(8) {
		case 0:
			none()
			truth.Outcome, truth.Reason = Cancelled, ReasonCancelled
			step(serverlog.Cancel).Slot = -1
			release()
		case 1:
			none()
			truth.Outcome, truth.Reason = Failed, serverlog.ReasonServer
			e := step(serverlog.RequestError)
			e.Reason, e.Slot, e.Severity = truth.Reason, -1, serverlog.Error
			release()
			step(serverlog.Cancel).Slot = -1
		case 2:
			none()
			truth.Outcome, truth.Reason = Rejected, serverlog.ReasonContextSize
			e := step(serverlog.RequestError)
			e.Reason, e.Slot, e.Severity = truth.Reason, -1, serverlog.Error
			release()
		default:
			for range random.IntN(3) {
				step(serverlog.GenerationProgress).Tokens = 1
			}
			if early {
				release()
				timings()
			} else {
				timings()
				release()
			}
		}
		l.truth = append(l.truth, truth)
	}
	// What is still under way when the process ends had no end of its own.
	stop := l.clock
	if random.IntN(2) == 0 {
		stop = l.say(event(serverlog.Stop, 0)).Clock
	}
	for _, r := range slots {
		if r == nil {
			continue
		}
		tr := &l.truth[r.truth]
		said := map[serverlog.Kind]bool{}
		for _, e := range l.events {
			if e.Task == tr.Task {
				said[e.Kind] = true
			}
		}
		switch {
		case said[serverlog.Release] && tr.Outcome != Completed:
		case said[serverlog.GenerationDone]:
			if !said[serverlog.Release] {
				tr.Ended, tr.Cached = stop, Unknown
			}
		case said[serverlog.Release]: // early, without timings
			*tr = Request{Task: tr.Task, Slot: tr.Slot, Launched: tr.Launched, HasLaunch: true, Ended: tr.Ended, Processed: tr.Processed, Cached: Unknown, Generated: Unknown}
			if !said[serverlog.PromptDone] {
				tr.Processed = Unknown
			}
		case said[serverlog.RequestError], said[serverlog.Cancel]:
			tr.Ended = stop
		default:
			processed := Unknown
			if said[serverlog.PromptDone] {
				processed = tr.Processed
			}
			*tr = Request{Task: tr.Task, Slot: tr.Slot, Launched: tr.Launched, HasLaunch: true, Ended: stop, Outcome: Failed, Reason: ReasonServerStopped, Processed: processed, Cached: Unknown, Generated: Unknown}
		}
	}
	return l
}

// schedule is a log with restarts, of a server or of a router with children.
type schedule struct {
	events []serverlog.Event
	truth  []Request // Process is not set
	keys   []string
}

func newSchedule(random *rand.Rand, starts, early bool) schedule {
	var s schedule
	take := func(l *life) {
		for _, r := range l.truth {
			s.truth = append(s.truth, r)
			s.keys = append(s.keys, key(l.child, &r))
		}
	}
	for range 1 + random.IntN(3) {
		if random.IntN(3) > 0 {
			l := newLife(random, 0, starts || random.IntN(2) == 0, early)
			s.events = append(s.events, l.events...)
			take(l)
			continue
		}
		router := &life{random: random}
		router.say(event(serverlog.Start, 0))
		listening := event(serverlog.Listening, 0)
		listening.Text = "http://127.0.0.1:8080"
		router.say(listening)
		s.events = append(s.events, router.events...)
		var children []*life
		for i := range 1 + random.IntN(3) {
			spawn := event(serverlog.Spawn, 0)
			spawn.Port, spawn.Text = 40_000+random.IntN(20_000), fmt.Sprintf("model-%d", i)
			s.events = append(s.events, router.say(spawn))
			l := newLife(random, spawn.Port, true, early)
			take(l)
			children = append(children, l)
		}
		for len(children) > 0 {
			i := random.IntN(len(children))
			l := children[i]
			s.events = append(s.events, l.events[0])
			if l.events = l.events[1:]; len(l.events) == 0 {
				children = slices.Delete(children, i, i+1)
			}
		}
	}
	end := event(serverlog.Start, 0)
	end.Clock = 17 * time.Nanosecond // of another process, which ends all others
	s.events = append(s.events, end)
	return s
}

// key tells a request from all others of a schedule.
func key(child int, r *Request) string {
	if r.Task < 0 {
		return fmt.Sprint(child, " refused at ", r.Ended)
	}
	return fmt.Sprint(child, " task ", r.Task, " at ", r.Launched)
}

func keys(of []*Request) []string {
	s := make([]string, 0, len(of))
	for _, r := range of {
		s = append(s, key(r.Process.Child, r))
	}
	return s
}

// seeds runs a property on many schedules.
func seeds(t *testing.T, property func(t *testing.T, random *rand.Rand)) {
	t.Helper()
	for seed := range uint64(300) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			property(t, rand.New(rand.NewPCG(seed, 17)))
		})
	}
}
