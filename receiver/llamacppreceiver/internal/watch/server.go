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
// Slow is not down: a read may take longer than the scrape that started it. The
// next scrape finds it still under way, and in the meantime /health decides.
//
// The package also tells one process of a server from the next, so that no
// counter continues from one into the other, and it logs each change of the
// server's state once, not at every scrape.
//
// A refresh asks and brings the instances up to date: the server or, for a
// router, the router and each of its models. What scrapers are shown is read
// from the instances.
package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// Server is one llama-server, or router, behind one base URL.
type Server struct {
	conn   *connection
	news   *news
	health call[struct{}]
	list   call[[]llamaserver.Model] // of a router

	refreshing sync.Mutex // held by a refresh

	mu        sync.Mutex
	refreshed time.Time // when the last refresh began
	looked    bool      // one has ended
	router    bool
	self      *instance
	models    []llamaserver.Model // as last listed; nil when the last refresh got no list
	listed    time.Time
	loaded    []*instance // the router's models that run or are starting, in the list's order
}

// New returns a Server that asks through client and gives up on a read after
// timeout.
func New(client *llamaserver.Client, timeout time.Duration, log *zap.Logger) *Server {
	conn := newConnection(client, timeout)
	news := newNews(conn.life, log.With(zap.String("endpoint", client.Address())))
	return &Server{
		conn: conn, news: news,
		health: call[struct{}]{conn: conn, fetch: func(ctx context.Context) (struct{}, error) { return struct{}{}, client.Health(ctx) }},
		list:   call[[]llamaserver.Model]{conn: conn, fetch: client.Models},
		self:   newInstance(conn, news, "", time.Time{}),
	}
}

// End ends all reads that are under way, and with them the looks that wait for
// one.
func (s *Server) End() { s.conn.end() }

// Wait waits for the reads that End has ended. There must be no further look.
func (s *Server) Wait() { s.conn.close() }

// LastProps is what was last known of the server itself; nil before the first
// look that found them. looked is false before the end of the first look, found
// or not.
func (s *Server) LastProps() (props *llamaserver.Props, looked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self.lastProps(), s.looked
}

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

// responded notes how long an answer took, in place of what was noted before.
func (v *View) responded(path string, took time.Duration) {
	for i := range v.Responses {
		if v.Responses[i].Path == path {
			v.Responses[i].Duration = took
			return
		}
	}
	v.Responses = append(v.Responses, Response{path, took})
}

// Observation is the result of one look.
type Observation struct {
	Server View
	// Models are the router's; nil when the server is none, or has not listed
	// them in time.
	Models []llamaserver.Model
	// Children are the router's models that run, or are starting.
	Children []View
}

// Look asks the server how it is. It returns within patience, even if the server
// does not answer; what is still under way then, a later look finds done. After
// End it returns false, and the observation means nothing.
func (s *Server) Look(ctx context.Context, patience time.Duration) (Observation, bool) {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	s.refresh(ctx, within(ctx, patience))

	s.mu.Lock()
	defer s.mu.Unlock()
	o := Observation{Server: s.self.lastView(), Models: s.models}
	if s.models != nil {
		for _, in := range s.loaded {
			o.Children = append(o.Children, in.lastView())
		}
	}
	return o, s.conn.life.Err() == nil
}

// within returns the end of a look that may take as long as patience.
func within(ctx context.Context, patience time.Duration) time.Time {
	until := time.Now().Add(patience)
	if deadline, ok := ctx.Deadline(); ok {
		return earlier(deadline, until)
	}
	return until
}

// refresh brings the instances up to date, as far as the server answers in time.
func (s *Server) refresh(ctx context.Context, until time.Time) {
	s.mu.Lock()
	s.refreshed = time.Now()
	s.models = nil
	router := s.router
	s.mu.Unlock()

	var v View
	if !router {
		v, router = s.refreshServer(ctx, until)
	}
	if router {
		v, router = s.refreshRouter(ctx, until)
	}
	s.self.show(v)
	s.news.state(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.router, s.looked = router, true
	if !router {
		s.loaded = nil
	}
}

// refreshServer asks a server that was no router so far, and reports whether it
// is one.
func (s *Server) refreshServer(ctx context.Context, until time.Time) (v View, router bool) {
	in := s.self
	v = in.begin()
	if p := v.Props; p != nil && p.MetricsWake() && !in.active() {
		in.readProps(ctx, until, &v)
		if v.Props.Sleeping && llamaserver.ReasonOf(v.Err) != llamaserver.NoAnswer {
			v.State = Sleeping
			return v, false
		}
	}
	r, answered := judge(ctx, until, s, &in.metrics, "/metrics", &v)
	if answered && llamaserver.ReasonOf(r.err) == llamaserver.NeedsModel {
		return v, true
	}
	if answered && r.err == nil {
		v.Snapshot = in.last()
	}
	if v.State != OK {
		return v, false
	}
	if in.propsDue() {
		in.readProps(ctx, until, &v)
	}
	if v.Props != nil && v.Props.Sleeping {
		v.State = Sleeping
	}
	return v, v.Props != nil && v.Props.Router
}
