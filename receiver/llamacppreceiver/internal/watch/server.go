// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package watch is one llama-server as all scrapers of a receiver see it. It
// decides what to ask and when, so that watching changes nothing:
//
//   - at most one read of an endpoint is under way, and reads take turns on one
//     connection, since each holds one of the server's few HTTP threads;
//   - /slots, which wakes a sleeping server and keeps it awake, is asked only
//     while /metrics shows activity;
//   - in router mode only models that are loaded are asked.
//
// Slow is not down: a read may take longer than the scrape that started it; the
// next one finds it still under way, and in the meantime /health decides.
//
// It also tells one process of a server from the next, so that no counter
// continues from one into the other, and it logs each change of the server's
// condition once, not at every scrape.
package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// State is the condition of a server, or of one model of a router.
type State int

const (
	Unreachable  State = iota // nothing answers
	Error                     // something answers, but not as llama-server does
	Unauthorized              // the API key is missing or wrong
	Loading                   // the model is being loaded
	Sleeping                  // idle, with the model unloaded
	OK
)

func (s State) String() string {
	return [...]string{"unreachable", "error", "unauthorized", "loading", "sleeping", "ok"}[s]
}

const (
	// propsAge is how often /props is asked of a server in use: what it says
	// changes with a restart, which is noticed otherwise.
	propsAge = time.Minute
	// idlePropsAge is how often it is asked of one that may fall asleep.
	idlePropsAge = 5 * time.Second
)

// Server is one llama-server, or router, behind one base URL.
type Server struct {
	client  *llamaserver.Client
	log     *zap.Logger
	timeout time.Duration
	life    context.Context
	end     context.CancelFunc
	wg      sync.WaitGroup
	line    chan struct{} // holds a token while the connection is in use

	health call[struct{}]
	models call[[]llamaserver.Model]

	looking sync.Mutex // held by a look

	mu       sync.Mutex
	looked   time.Time // when the last look began
	known    bool      // a look has come to a result
	state    State
	router   bool
	self     *target
	children map[string]*target
	listed   time.Time                     // when the router's models were last listed
	failing  map[string]llamaserver.Reason // what has been logged, by endpoint
}

// New returns a Server that asks through client and gives up on a read after
// timeout.
func New(client *llamaserver.Client, timeout time.Duration, log *zap.Logger) *Server {
	s := &Server{
		client: client, log: log.With(zap.String("endpoint", client.Address())), timeout: timeout,
		line:     make(chan struct{}, 1),
		children: map[string]*target{},
		failing:  map[string]llamaserver.Reason{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.health = call[struct{}]{server: s, fetch: func(ctx context.Context, r *reading[struct{}]) error {
		err := client.Health(ctx)
		r.ended = time.Now()
		return err
	}}
	s.models = call[[]llamaserver.Model]{server: s, fetch: func(ctx context.Context, r *reading[[]llamaserver.Model]) (err error) {
		r.value, err = client.Models(ctx)
		r.ended = time.Now()
		return err
	}}
	s.self = newTarget(s, "", time.Time{})
	return s
}

// End ends all reads that are under way, and with them the looks that wait for
// one.
func (s *Server) End() { s.end() }

// Wait waits for the reads that End has ended. There must be no further look.
func (s *Server) Wait() {
	s.wg.Wait()
	s.client.CloseIdle()
}

// LastProps is what was last known of the server itself; nil before the first
// look that found them.
func (s *Server) LastProps() *llamaserver.Props { return s.self.lastProps() }

// View is what one look found out about the server, or about one model of a
// router.
type View struct {
	Model string // "" for the server itself
	State State
	Props *llamaserver.Props // last known; nil before the first
	// Snapshot is the answer of /metrics; nil where none came in time.
	Snapshot  *Snapshot
	Responses []Response
	// Err is what could not be read although the server is there.
	Err error
}

// Response is how long the server took for one endpoint, or has taken so far.
type Response struct {
	Path     string
	Duration time.Duration
}

// Observation is the result of one look.
type Observation struct {
	Server View
	// Models are the router's; nil when the server is none.
	Models []llamaserver.Model
	// Children are the router's models that run, or are starting.
	Children []View
}

// Look asks the server how it is. It returns within patience, also when the
// server does not answer: what is still under way then, the next look may find
// done. After End it is false, and the observation worth nothing.
func (s *Server) Look(ctx context.Context, patience time.Duration) (Observation, bool) {
	s.looking.Lock()
	defer s.looking.Unlock()
	o := s.look(ctx, patience)
	return o, s.life.Err() == nil
}

func (s *Server) look(ctx context.Context, patience time.Duration) Observation {
	now := time.Now()
	deadline := now.Add(patience)
	s.mu.Lock()
	s.looked = now
	router := s.router
	s.mu.Unlock()

	var o Observation
	if !router {
		o.Server = s.lookAtServer(ctx, now, deadline)
		router = s.isRouter()
	}
	if router {
		o = s.lookAtRouter(ctx, now, deadline)
	}
	s.settle(o.Server)
	return o
}

func (s *Server) isRouter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.router
}

func (s *Server) setRouter(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.router = is
}

func (s *Server) lastState() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Server) lookAtServer(ctx context.Context, now, deadline time.Time) View {
	t := s.self
	v := View{Props: t.lastProps()}
	if p := v.Props; p != nil && p.MetricsWake() && !t.active() {
		t.readProps(ctx, deadline, &v)
		if v.Props.Sleeping {
			v.State = Sleeping
			t.settle(v.State)
			return v
		}
	}

	r, answered := judge(ctx, s, &t.metrics, "/metrics", now, deadline, &v)
	if answered && llamaserver.ReasonOf(r.err) == llamaserver.NeedsModel {
		s.setRouter(true)
		return v
	}
	if answered && r.err == nil {
		v.Snapshot = r.value
	}
	if v.State == OK && t.propsDue(now) {
		t.readProps(ctx, deadline, &v)
		if v.Props != nil && v.Props.Router {
			s.setRouter(true)
		}
	}
	if v.State == OK && v.Props != nil && v.Props.Sleeping {
		v.State = Sleeping
	}
	t.settle(v.State)
	return v
}

func (s *Server) lookAtRouter(ctx context.Context, now, deadline time.Time) Observation {
	var o Observation
	v := &o.Server
	v.Props = s.self.lastProps()
	r, answered := judge(ctx, s, &s.models, "/models", now, deadline, v)
	if v.State == OK && s.self.propsDue(now) {
		s.self.readProps(ctx, deadline, v)
		if v.Props != nil && !v.Props.Router { // another server took its place
			s.setRouter(false)
			return o
		}
	}
	s.self.settle(v.State)
	if !answered || r.err != nil {
		return o
	}
	o.Models = r.value
	for _, t := range s.adopt(r.value, now) {
		if v, ok := t.look(ctx, now, deadline); ok {
			o.Children = append(o.Children, v)
		}
	}
	return o
}

// adopt makes the children agree with the router's list and returns those that
// run or are starting.
func (s *Server) adopt(models []llamaserver.Model, now time.Time) []*target {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ts []*target
	for _, m := range models {
		var state State
		switch m.State {
		case llamaserver.ModelLoaded:
			state = OK
		case llamaserver.ModelLoading:
			state = Loading
		case llamaserver.ModelSleeping:
			state = Sleeping
		default:
			continue
		}
		t := s.children[m.ID]
		if t == nil {
			t = newTarget(s, m.ID, s.listed)
			s.children[m.ID] = t
		}
		t.settle(state)
		ts = append(ts, t)
	}
	for id, t := range s.children {
		if !slices.Contains(ts, t) {
			delete(s.children, id)
			for _, path := range []string{"/metrics", "/props", "/slots"} {
				delete(s.failing, t.endpoint(path))
			}
		}
	}
	s.listed = now
	return ts
}

// judge asks for the server's main answer, writes into the view what it says of
// the server's state, and tells whether it came. Where it is late or an error,
// /health has the last word.
func judge[T any](ctx context.Context, s *Server, c *call[T], path string, now, deadline time.Time, v *View) (r *reading[T], answered bool) {
	r, answered = c.ask(ctx, now.Add(deadline.Sub(now)/2))
	if !answered {
		s.askHealth(ctx, deadline, nil, v)
		answered = r.wait(ctx, deadline)
	}
	sure := true
	switch {
	case answered && r.err == nil:
		v.State, v.Err = OK, nil
	case answered:
		sure = s.askHealth(ctx, deadline, r.err, v)
	}
	v.Responses = append(v.Responses, Response{path, r.took()})
	if answered && sure && v.State == OK {
		s.note(path, v.Err)
	}
	return r, answered
}

// askHealth writes the server's state into the view when its main answer was
// err, or is late (nil), with the error that says most. It is false when /health
// is late as well.
func (s *Server) askHealth(ctx context.Context, deadline time.Time, err error, v *View) (sure bool) {
	v.Err = err
	switch llamaserver.ReasonOf(err) {
	case llamaserver.Loading:
		v.State, v.Err = Loading, nil
		return true
	case llamaserver.Unauthorized: // /health is open to all
		v.State = Unauthorized
		return true
	case llamaserver.NeedsModel:
		v.State, v.Err = OK, nil
		return true
	}
	h, answered := s.health.ask(ctx, deadline)
	v.Responses = append(slices.DeleteFunc(v.Responses, ofHealth), Response{"/health", h.took()})
	if !answered { // one stall is noise: nothing is known to have changed
		v.State = s.lastState()
		return false
	}
	v.State = stateOf(h.err)
	switch v.State {
	case OK:
	case Loading:
		v.Err = nil
	case Error:
		if err == nil { // else it says more of what answers there
			v.Err = h.err
		}
	default:
		v.Err = h.err
	}
	return true
}

func ofHealth(r Response) bool { return r.Path == "/health" }

func stateOf(err error) State {
	if err == nil {
		return OK
	}
	switch llamaserver.ReasonOf(err) {
	case llamaserver.NoAnswer, llamaserver.Late:
		return Unreachable
	case llamaserver.Unauthorized:
		return Unauthorized
	case llamaserver.Loading:
		return Loading
	}
	return Error
}

// settle remembers the outcome of a look and logs it when it is news.
func (s *Server) settle(v View) {
	s.mu.Lock()
	first, before := !s.known, s.state
	if first && v.State == Unreachable && v.Err == nil {
		s.mu.Unlock()
		return // everything is late, and nothing is known yet
	}
	s.known, s.state = true, v.State
	s.mu.Unlock()
	if !first && before == v.State || s.life.Err() != nil {
		return
	}
	fields := []zap.Field{zap.String("state", v.State.String())}
	if !first {
		fields = append(fields, zap.String("before", before.String()))
	}
	if p := v.Props; p != nil && v.State == OK {
		fields = append(fields, zap.String("build", p.Build), zap.Bool("router", p.Router))
	}
	switch v.State {
	case OK, Sleeping, Loading:
		s.log.Info("llama-server is "+v.State.String(), fields...)
	default:
		s.log.Warn("llama-server is "+v.State.String(), append(fields, zap.Error(v.Err))...)
	}
}

// note logs that an endpoint of a server that is otherwise there begins to fail,
// fails in another way, or works again.
func (s *Server) note(endpoint string, err error) {
	if s.life.Err() != nil {
		return
	}
	reason := llamaserver.ReasonOf(err)
	s.mu.Lock()
	before := s.failing[endpoint]
	s.failing[endpoint] = reason
	s.mu.Unlock()
	switch {
	case reason == before:
	case err != nil:
		s.log.Warn("cannot read "+endpoint, zap.Error(err))
	default:
		s.log.Info("can read " + endpoint + " again")
	}
}
