// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

const (
	// maxFinished is how many requests are remembered after their end, so that
	// a line that comes late or twice does not make a new one of them.
	maxFinished = 256
	// maxProgress bounds the lines about progress that are kept of one request;
	// beyond it every second one is dropped.
	maxProgress = 128
	// maxOpen bounds the requests under way in one process, against a log that
	// only ever begins some.
	maxOpen = 4096
	// maxRefused is how many errors that name no task are remembered.
	maxRefused = 64
	// maxProcesses bounds a router's children, against a log without the lines
	// that say when they end.
	maxProcesses = 256
	// lateness is how late a request's last lines may be read around a rotation:
	// the time, on the server's clock, since the next request got its slot.
	lateness = 10 * time.Second
	// patience is how long the last lines of a request may come after it left
	// its slot.
	patience = 2 * time.Second
)

// Handler takes in what a Tracker finds.
type Handler interface {
	// Request is called with a request that ended, which belongs to the handler.
	Request(*Request)
	// Loaded says that a model was loaded, and in what time.
	Loaded(p *Process, took time.Duration)
	// Shifted says that tokens were dropped to go on within the context.
	Shifted(*Process)
	// Logged counts a warning or an error.
	Logged(p *Process, s serverlog.Severity, area string)
	// Listening says where the server says that it takes requests.
	Listening(p *Process, url string)
}

// Tracker follows the requests of one server, which is one process or a router
// with its children, and all processes that come after it in the same log.
//
// Lines may be missing, may come twice and, around a rotation, in another
// order: a request is what its lines say together, whichever of them there are.
// It is not safe for concurrent use.
type Tracker struct {
	// Processes by the port of the router's child, 0 for the server itself.
	Processes map[int]*Process `json:"processes"`
	// Models of the router's children, by port.
	Models map[int]string `json:"models,omitempty"`

	handler      Handler
	keepProgress bool // of requests, for traces
}

// Process is one life of a server.
type Process struct {
	// Child is the port of a router's child, 0 for the server itself.
	Child int `json:"child"`
	// Model that a router's child serves, its id; empty if not known.
	Model string `json:"model,omitempty"`
	// Path of the model's file.
	Path string `json:"path,omitempty"`
	// Began is the clock of the first line, negative while it was not seen. It
	// tells processes apart.
	Began time.Duration `json:"began"`
	// Clocked says that the log has the process's clock; else it is made of
	// the times at which lines were read.
	Clocked bool `json:"clocked"`
	// Exact says that the clock shows when lines were written.
	Exact bool `json:"exact"`
	// Wall gives the clock a place in time.
	Wall Wall `json:"wall"`

	Last      time.Duration         `json:"last"`
	Loading   time.Duration         `json:"loading"` // when a load began, negative when none is under way
	Open      map[int]*Request      `json:"open"`    // by task
	Finished  map[int]time.Duration `json:"finished"`
	Order     []int                 `json:"order"`     // of Finished, oldest first
	MaxTask   int                   `json:"max_task"`  // the highest that got a slot
	MaxClock  time.Duration         `json:"max_clock"` // when it did
	Listens   bool                  `json:"listens"`
	ListensAt time.Duration         `json:"listens_at"`
	Loads     time.Duration         `json:"loads"` // the first load began

	// Refused are the clocks of the last errors that name no task.
	Refused []time.Duration `json:"refused,omitempty"`
	// Unclocked is the wall time of clock 0 where the log has no times.
	Unclocked time.Time `json:"unclocked,omitzero"`
	// Waiting is the task of a request that left its slot early and has its
	// timings since, to which one more line may belong; -1 where there is none.
	Waiting int `json:"waiting"`

	handler Handler // the tracker's
}

func newProcess(h Handler, child int, model string) *Process {
	return &Process{
		handler: h,
		Child:   child, Model: model, Began: -1, Loading: -1, MaxTask: -1, Waiting: -1,
		Open: map[int]*Request{}, Finished: map[int]time.Duration{},
	}
}

// NewTracker returns a tracker of a server of which nothing was read. It calls
// h from within Add and Settle. Requests have their progress if it is kept.
func NewTracker(h Handler, keepProgress bool) *Tracker {
	return &Tracker{Processes: map[int]*Process{}, Models: map[int]string{}, handler: h, keepProgress: keepProgress}
}

// Settle ends the requests that left their slot, or lost it to another one, some
// time before now, and whose last lines have not come. Embeddings have none.
func (t *Tracker) Settle(now time.Time) {
	for _, p := range t.Processes {
		for _, r := range p.Open {
			if r.Waits && now.Sub(p.Wall.At(r.Ended)) > patience ||
				r.Replaced != 0 && now.Sub(p.Wall.At(r.Replaced)) > lateness {
				p.lost(r)
			}
		}
	}
}

// UnmarshalJSON implements json.Unmarshaler for a tracker from NewTracker. The
// marshaled form of a tracker holds all that it needs to go on with a log in
// another process.
func (t *Tracker) UnmarshalJSON(b []byte) error {
	type plain Tracker
	if err := json.Unmarshal(b, (*plain)(t)); err != nil {
		return err
	}
	if t.Processes == nil {
		t.Processes = map[int]*Process{}
	}
	if t.Models == nil {
		t.Models = map[int]string{}
	}
	for _, p := range t.Processes {
		if p == nil || p.Open == nil || p.Finished == nil {
			return errors.New("incomplete process")
		}
		p.handler = t.handler
		p.Wall.restored = true
		for task, r := range p.Open {
			if r == nil || r.Task != task || r.Outcome >= Outcomes {
				return errors.New("incomplete request")
			}
			r.Process = p
		}
	}
	return nil
}

// Add takes the next event. wall is a moment at or after the line was written,
// the sooner the better; exact says that it is that very moment.
func (t *Tracker) Add(e *serverlog.Event, wall time.Time, exact bool) {
	p := t.process(e, wall)
	p.Exact = exact || e.HasClock
	clock := p.clock(e, wall)
	if p.Waiting >= 0 && p.Waiting != e.Task {
		if r := p.Open[p.Waiting]; r != nil {
			p.finish(r, r.Ended)
		}
		p.Waiting = -1
	}
	if e.Severity >= serverlog.Warning {
		t.handler.Logged(p, e.Severity, e.Area)
	}
	switch e.Kind {
	case serverlog.Loading:
		p.Loading = clock
		if !p.Listens {
			p.Loads = clock
		}
		p.Path = strings.Clone(e.Text)
	case serverlog.Ready:
		if p.Exact && p.Loading >= 0 && clock >= p.Loading {
			t.handler.Loaded(p, clock-p.Loading)
		}
		p.Loading = -1
	case serverlog.Listening:
		p.Listens, p.ListensAt = true, clock
		t.handler.Listening(p, strings.Clone(e.Text))
	case serverlog.Launch:
		p.launch(e, clock)
	case serverlog.NewPrompt, serverlog.PromptCached, serverlog.PromptProgress, serverlog.GenerationProgress,
		serverlog.PromptDone, serverlog.GenerationDone, serverlog.Draft:
		if r := p.find(e, clock); r != nil {
			r.add(e, clock, t.keepProgress)
			if r.Waits && r.HasTimings {
				p.Waiting = r.Task
			}
		}
	case serverlog.ContextShift:
		t.handler.Shifted(p)
		if r := p.find(e, clock); r != nil {
			r.Shifted, r.Truncated = true, true
		}
	case serverlog.Cancel:
		p.failed(e, clock, Cancelled, ReasonCancelled)
	case serverlog.RequestError:
		outcome := Rejected
		if e.Reason == serverlog.ReasonServer || e.Reason == serverlog.ReasonContextFull {
			outcome = Failed
		}
		p.failed(e, clock, outcome, e.Reason)
	case serverlog.Release:
		if r := p.find(e, clock); r != nil {
			r.Held = e.Tokens
			r.Truncated = r.Truncated || e.Truncated
			r.Ended = clock
			// Older builds say only then how long it took, or what went wrong.
			r.Waits = e.Early && !r.HasTimings && r.Reason == ""
			if !r.Waits {
				p.finish(r, clock)
			}
		}
	case serverlog.Stop:
		p.end(clock)
	case serverlog.Spawn:
		t.spawn(e)
	case serverlog.ChildExit:
		for port, name := range t.Models {
			if child := t.Processes[port]; name == e.Text && child != nil {
				child.end(child.Last)
			}
		}
	}
	p.Last = max(p.Last, clock)
}

// spawn notes that a router starts a child, which has its model to itself. The
// child before it was kept until now, in case that lines of it came twice.
func (t *Tracker) spawn(e *serverlog.Event) {
	if t.Models[e.Port] == e.Text {
		return // read twice, or followed by another first line of the child
	}
	for port, name := range t.Models {
		if name == e.Text {
			t.drop(port)
		}
	}
	t.drop(e.Port)
	for port := range t.Models { // of children that never wrote a line
		if len(t.Models) >= maxProcesses && t.Processes[port] == nil {
			delete(t.Models, port)
		}
	}
	t.Models[e.Port] = strings.Clone(e.Text)
}

// drop forgets a process.
func (t *Tracker) drop(child int) {
	if p := t.Processes[child]; p != nil {
		p.end(p.Last)
	}
	delete(t.Processes, child)
	delete(t.Models, child)
}

// dropOldest forgets the child of which nothing was read for the longest time.
func (t *Tracker) dropOldest() {
	oldest := 0
	for child, p := range t.Processes {
		if child != 0 && (oldest == 0 || p.Wall.Since < t.Processes[oldest].Wall.Since) {
			oldest = child
		}
	}
	t.drop(oldest)
}

// process returns the process that wrote the line, which may be a new one.
func (t *Tracker) process(e *serverlog.Event, wall time.Time) *Process {
	p := t.Processes[e.Child]
	if p != nil && p.isOver(e) {
		p.end(p.Last)
		if e.Child == 0 {
			for child := range t.Processes { // they end with their router
				t.drop(child)
			}
			clear(t.Models)
		}
		p = nil
	}
	if p == nil {
		if len(t.Processes) >= maxProcesses {
			t.dropOldest()
		}
		p = newProcess(t.handler, e.Child, t.Models[e.Child])
		t.Processes[e.Child] = p
	}
	if e.Kind == serverlog.Start && p.Began < 0 {
		p.Began = e.Clock
	}
	if e.HasClock {
		p.Clocked = true
		p.Wall.Observe(wall, e.Clock)
	}
	return p
}

// isOver reports whether e belongs to another process than p: it says at another
// time what a process says only once, or it says something of a request before
// that got its slot. A clock that goes back proves nothing by itself: around a
// rotation lines come in another order.
func (p *Process) isOver(e *serverlog.Event) bool {
	switch e.Kind {
	case serverlog.Start:
		if p.Began < 0 {
			return p.Listens || p.MaxTask >= 0
		}
		return !e.HasClock || p.Began != e.Clock
	case serverlog.Loading: // some builds have no other first line
		return p.Listens && e.HasClock && e.Clock < p.ListensAt && e.Clock != p.Loads
	case serverlog.Listening:
		return p.Listens && e.HasClock && p.ListensAt != e.Clock
	case serverlog.Launch:
		if at, ok := p.Finished[e.Task]; ok && e.HasClock && at != e.Clock && at >= 0 {
			return true
		}
		if r := p.Open[e.Task]; r != nil && r.HasLaunch && e.HasClock && r.Launched != e.Clock {
			return true
		}
		return e.HasClock && e.Task < p.MaxTask && e.Clock+time.Minute < p.MaxClock
	case serverlog.Cancel, serverlog.RequestError:
		return false // a request can end before it gets a slot
	default:
		if e.Task < 0 || !e.HasClock {
			return false
		}
		if r := p.Open[e.Task]; r != nil {
			return r.HasLaunch && e.Clock < r.Launched
		}
		at, ok := p.Finished[e.Task]
		return ok && e.Clock < at
	}
}

// clock is the process's own, or where the log has none the time that went by
// since its first line.
func (p *Process) clock(e *serverlog.Event, wall time.Time) time.Duration {
	if e.HasClock {
		return e.Clock
	}
	if p.Unclocked.IsZero() {
		p.Unclocked = wall.Add(-p.Last)
		p.Wall.Observe(wall, p.Last)
	}
	return max(wall.Sub(p.Unclocked), 0)
}

func (p *Process) launch(e *serverlog.Event, clock time.Duration) {
	if _, ok := p.Finished[e.Task]; ok {
		return // read late or twice
	}
	for _, r := range p.Open {
		switch {
		case r.Slot != e.Slot || r.Task == e.Task || r.Launched > clock:
		case !e.HasClock || r.Waits || r.Replaced != 0 && r.Replaced+lateness < clock:
			p.lost(r)
		case r.Replaced == 0:
			r.Replaced = clock
		}
	}
	r := p.find(e, clock)
	if r == nil {
		return
	}
	r.Launched, r.HasLaunch = clock, true
	if e.Task > p.MaxTask {
		p.MaxTask, p.MaxClock = e.Task, clock
	}
}

// find returns the request of the event, which begins with whichever of its
// lines comes first, or nil if it has ended or the line does not say whose it is.
func (p *Process) find(e *serverlog.Event, clock time.Duration) *Request {
	if e.Task < 0 {
		return nil
	}
	if r := p.Open[e.Task]; r != nil {
		if e.Slot >= 0 {
			r.Slot = e.Slot
		}
		return r
	}
	if _, ok := p.Finished[e.Task]; ok {
		return nil
	}
	if len(p.Open) >= maxOpen {
		p.lost(slices.MinFunc(slices.Collect(maps.Values(p.Open)), func(a, b *Request) int { return cmp.Compare(a.Launched, b.Launched) }))
	}
	r := newRequest(p, e, clock)
	p.Open[e.Task] = r
	return r
}

func newRequest(p *Process, e *serverlog.Event, clock time.Duration) *Request {
	return &Request{
		Process: p, Slot: e.Slot, Task: e.Task, Launched: clock,
		Processed: Unknown, Cached: Unknown, Generated: Unknown, Prompt: Unknown, Held: Unknown,
	}
}

// add takes what a line says of the request.
func (r *Request) add(e *serverlog.Event, clock time.Duration, keepProgress bool) {
	switch e.Kind {
	case serverlog.NewPrompt:
		r.Prompt = e.Tokens
	case serverlog.PromptCached:
		if r.Cached == Unknown {
			r.Cached = e.Cached
		}
	case serverlog.PromptProgress, serverlog.GenerationProgress:
		if !keepProgress {
			return
		}
		if len(r.Progress) == maxProgress {
			for i := range maxProgress / 2 {
				r.Progress[i] = r.Progress[2*i+1]
			}
			r.Progress = r.Progress[:maxProgress/2]
		}
		r.Progress = append(r.Progress, Progress{
			Clock: clock, Generating: e.Kind == serverlog.GenerationProgress,
			Tokens: e.Tokens, Part: e.Progress, Speed: e.Speed,
		})
	case serverlog.PromptDone:
		r.PromptTime, r.Processed = e.Duration, e.Tokens
		r.HasTimings = r.Generated != Unknown
	case serverlog.GenerationDone:
		r.GenerationTime, r.Generated, r.Reported = e.Duration, e.Tokens, clock
		r.HasTimings = r.Processed != Unknown
	case serverlog.Draft:
		r.Drafted, r.Accepted = e.Drafted, e.Tokens
	}
}

// failed notes why the request ends. One that never had a slot ends with it.
func (p *Process) failed(e *serverlog.Event, clock time.Duration, o Outcome, reason string) {
	if e.Task < 0 && e.Slot >= 0 {
		return // an error of a slot that had no request
	}
	if e.Task >= 0 {
		if r := p.Open[e.Task]; r != nil {
			if r.Reason == "" { // an error is followed by a cancellation
				r.Outcome, r.Reason = o, reason
			}
			if r.Waits {
				p.finish(r, r.Ended)
			}
			return
		}
		if _, ok := p.Finished[e.Task]; ok {
			return
		}
	} else if e.HasClock {
		if slices.Contains(p.Refused, clock) {
			return // read twice
		}
		if len(p.Refused) == maxRefused {
			p.Refused = slices.Delete(p.Refused, 0, 1)
		}
		p.Refused = append(p.Refused, clock)
	}
	r := newRequest(p, e, clock)
	r.Outcome, r.Reason = o, reason
	p.finish(r, clock)
}

// lost ends a request whose slot has another one: its last lines are missing.
func (p *Process) lost(r *Request) {
	switch {
	case r.Waits:
		p.finish(r, r.Ended)
		return
	case r.HasTimings:
		p.finish(r, r.Reported)
		return
	case r.Reason == "":
		r.Outcome, r.Reason = Lost, ReasonLost
	}
	if r.Replaced != 0 {
		p.finish(r, r.Replaced)
	} else {
		p.finish(r, p.Last)
	}
}

// end ends all requests with their process.
func (p *Process) end(clock time.Duration) {
	for _, task := range slices.Sorted(maps.Keys(p.Open)) {
		r := p.Open[task]
		if r.Waits || r.Replaced != 0 {
			p.lost(r)
			continue
		}
		if !r.HasTimings && r.Reason == "" {
			r.Outcome, r.Reason = Failed, ReasonServerStopped
		}
		p.finish(r, clock)
	}
}

func (p *Process) finish(r *Request, clock time.Duration) {
	r.Ended = clock
	launched := r.Launched
	if !r.HasLaunch {
		launched = -1
	}
	r.settle()
	delete(p.Open, r.Task)
	if r.Task >= 0 {
		if len(p.Order) == maxFinished {
			delete(p.Finished, p.Order[0])
			p.Order = slices.Delete(p.Order, 0, 1)
		}
		p.Order = append(p.Order, r.Task)
		p.Finished[r.Task] = launched
	}
	p.handler.Request(r)
}
