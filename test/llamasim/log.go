// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"io"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamalog"
)

// progressEvery is how often a long prompt or answer has a line in the log.
const progressEvery = int64(3 * time.Second)

// logLatency is how late a line comes at most while nobody asks the server.
const logLatency = 50 * time.Millisecond

// sharedWriter is one log of several processes: a router and its children.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

// engineLog is the log of an engine; nil where there is none. All methods need
// the engine's lock, and write what happens at its present.
type engineLog struct {
	*llamalog.Log
	url       string // where it listens, once that is known
	child     bool
	broken    bool // its model will not load
	loaded    bool // the line that it is was written
	listening bool
}

// newLog makes the log of an engine that is about to start. That of a router's
// child has the child's port in front of each line.
func (s *Server) newLog(o *Options, port int, url string, broken bool) *engineLog {
	if s.log == nil {
		return nil
	}
	l := &engineLog{Log: llamalog.New(s.log, port), url: url, child: port != 0, broken: broken}
	if o.Draft > 0 {
		l.Draft = modelPath(o)
	}
	l.Initializing(0, o.APIKey != "")
	l.Loading(0, modelPath(o))
	return l
}

func modelPath(o *Options) string { return "/models/" + o.ModelName + ".gguf" }

// started writes, once each, that the model is loaded and that the server
// listens, when that is so.
func (l *engineLog) started(e *engine, now int64) {
	if l == nil || l.broken || l.listening || now < int64(e.o.LoadTime) {
		return
	}
	at := time.Duration(max(e.t, int64(e.o.LoadTime)))
	if !l.loaded {
		l.loaded = true
		l.Slots(at, e.o.Slots, e.o.ContextPerSlot)
		l.Loaded(at)
	}
	if l.url != "" {
		l.listening = true
		l.Listening(at, l.url)
		if l.child {
			l.Monitored(at)
		}
	}
}

func (l *engineLog) sleep(e *engine) {
	if l != nil {
		l.Sleep(time.Duration(e.t))
	}
}

func (l *engineLog) wake(e *engine) {
	if l != nil {
		l.Wake(time.Duration(e.t))
		l.Loading(time.Duration(e.t), modelPath(e.o))
	}
}

func (l *engineLog) woken(e *engine) {
	if l != nil {
		l.Slots(time.Duration(e.t), e.o.Slots, e.o.ContextPerSlot)
	}
}

func (t *task) inLog() llamalog.Request { return llamalog.Request{Slot: t.slot, Task: t.id} }

// launch has to be called before the slot forgets what it held.
func (l *engineLog) launch(e *engine, t *task, common int, best bool) {
	if l != nil {
		s := &e.slots[t.slot]
		l.Launch(time.Duration(e.t), t.inLog(), llamalog.Slot{
			Prompt: t.nPrompt, Common: common, Held: s.length, Best: best, LastUsed: time.Duration(s.lastUsed),
		})
	}
}

// refuse is what happens to a prompt that does not fit into its slot.
func (l *engineLog) refuse(e *engine, t *task, err error) {
	if l != nil {
		at := time.Duration(e.t)
		l.Refuse(at, t.id, err.Error())
		l.Release(at, t.inLog(), e.slots[t.slot].length)
		l.Cancel(at, t.id)
	}
}

// progress writes a line about a long prompt or answer, where one is due.
func (l *engineLog) progress(e *engine, t *task) {
	since := e.t - t.loggedT
	if l == nil || since < progressEvery {
		return
	}
	if t.decoded == 0 {
		l.PromptProgress(time.Duration(e.t), t.inLog(), t.processed, float64(t.cached+t.processed)/float64(t.nPrompt), time.Duration(e.t-t.startT))
	} else {
		l.GenerationProgress(time.Duration(e.t), t.inLog(), t.decoded, time.Duration(e.t-t.firstT), t.decoded-t.loggedN, time.Duration(since))
	}
	t.loggedT, t.loggedN = e.t, t.decoded
}

// cancel is written at once, before the running step has ended.
func (l *engineLog) cancel(e *engine, t *task) {
	if l != nil {
		l.Cancel(time.Duration(e.now()), t.id)
	}
}

// release is the end of a request, after which its slot holds the sequence.
func (l *engineLog) release(e *engine, t *task, sequence int) {
	switch {
	case l == nil:
	case t.cancelled:
		l.Release(time.Duration(e.t), t.inLog(), sequence)
	default:
		l.Finish(time.Duration(e.t), t.inLog(), llamalog.Timings{
			PromptTokens: t.processed, Prompt: measured(t.firstT - t.startT),
			Tokens: t.decoded, Generation: measured(e.t - t.firstT),
			GraphsReused: int(e.c.decodes), Sequence: sequence, Truncated: t.truncated,
			Drafts: t.drafts.rounds, Drafted: t.drafts.drafted, Accepted: t.drafts.accepted,
		})
	}
}

// exception is the answer to a request that never became a task.
func (e *engine) exception(body string) {
	if e.log == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance()
	e.log.Exception(time.Duration(e.now()), body)
}

// unauthorized is a request that lacks the API key, of a router or an engine.
func (s *Server) unauthorized(e *engine, rt *router) {
	switch {
	case s.log == nil:
	case rt != nil:
		rt.mu.Lock()
		defer rt.mu.Unlock()
		rt.say((*llamalog.Log).Unauthorized)
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.advance()
		e.log.Unauthorized(time.Duration(e.now()))
	}
}

// stop writes the last lines of a process that ends in order.
func (e *engine) stop() {
	if e.log == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.killed {
		return
	}
	e.advance()
	if e.log.child {
		e.log.ExitCommand(time.Duration(e.now()))
	}
	e.log.Stop(time.Duration(e.now()))
}

// keepLogging looks often until the server is closed, so that the engines write
// what has happened.
func (s *Server) keepLogging() {
	ticker := time.NewTicker(logLatency)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
			s.Decoded()
		}
	}
}
