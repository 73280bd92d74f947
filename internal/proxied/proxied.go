// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxied lets the components of one process agree on requests that two
// of them saw: a proxy in front of a server, and what reads the server's log. The
// proxy knows the wait for a slot and the client's trace, the log knows the slot,
// and each request is to be counted and told once.
//
// The log has neither trace context nor the answer's id: a request is the same if
// both have the server's own measurements of it, as internal/timings writes them,
// or, of an answer without these, by its times and its tokens.
//
// Requests are remembered for a minute after their end. No text is.
package proxied // import "github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

const (
	// memory is how long a request is remembered after its end. Its last lines
	// can be as late as the first token of a prompt whose client has left.
	memory = time.Minute
	// maxOfServer and maxOfAll bound the requests that are remembered: the
	// oldest go first.
	maxOfServer = 4096
	maxOfAll    = 4 * maxOfServer
)

// Request is what the proxy knows of a request that has ended.
type Request struct {
	// Arrived and Ended are when the request came to the proxy and when its
	// answer was passed on.
	Arrived, Ended time.Time
	// Timings is timings.String of the answer's timings, empty if it had none.
	Timings string
	// InputTokens and OutputTokens are -1 if unknown.
	InputTokens, OutputTokens int
	// FirstToken is when the first token came; zero if none has, or if it is not
	// known.
	FirstToken time.Time
	// Completed says that the whole answer came.
	Completed bool
	// Counted says that the proxy's metrics have it.
	Counted bool
	// Trace and Span are those of its span of kind SERVER, zero if no traces
	// are made.
	Trace pcommon.TraceID
	Span  pcommon.SpanID
}

// Open is a request that a proxy has passed on and that has not ended. It is safe
// for concurrent use.
type Open struct {
	arrived time.Time
	server  *server // nil once it has ended
	place   *list.Element
	in      *registry
}

// Begin says that a request to a server has arrived at a proxy of this process.
func Begin(server serverresource.Key, arrived time.Time) *Open {
	return process.begin(server, arrived)
}

// Move says that the request turns out to be for another instance, such as a
// model of a router.
func (o *Open) Move(server serverresource.Key) {
	o.in.mu.Lock()
	defer o.in.mu.Unlock()
	if o.server == nil || o.server.key == server {
		return
	}
	o.leave()
	o.join(server)
}

// End says how the request ended. measured is false for one that never had a
// slot, as far as is known: no request of the log is it then. Only the first call
// counts.
func (o *Open) End(r Request, measured bool) {
	o.in.mu.Lock()
	defer o.in.mu.Unlock()
	s := o.server
	if s == nil {
		return
	}
	if measured {
		o.in.remember(s, r)
	}
	o.leave()
	o.server = nil
}

// process is the registry of this process.
var process = newRegistry()

// registry holds the requests of all servers.
type registry struct {
	mu      sync.Mutex
	servers map[serverresource.Key]*server // those with requests
	ended   *list.List                     // *entry of all servers, the oldest first
	armed   bool                           // a timer will sweep
}

func newRegistry() *registry {
	return &registry{servers: map[serverresource.Key]*server{}, ended: list.New()}
}

// server holds the requests to one server.
type server struct {
	key   serverresource.Key
	open  *list.List // *Open by arrival
	ended *list.List // *entry, the oldest first
	// Of ended: those with timings, whole answers without, and the others.
	timed      map[string][]*entry
	whole, cut *list.List
	// changed is closed when a request ends or moves; nil while nobody waits.
	changed chan struct{}
}

// entry is a request that has ended.
type entry struct {
	Request
	arrived, ended int64 // in nanoseconds, to be compared quickly
	server         *server
	at             time.Time // when it was remembered
	claimed        []*Reader
	// Its places in the lists: ended of the registry and of the server, and whole
	// or cut, where it is in one.
	inAll, inServer, inWhole, inCut *list.Element
}

func (g *registry) begin(key serverresource.Key, arrived time.Time) *Open {
	o := &Open{arrived: arrived, in: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	o.join(key)
	return o
}

// join adds the request to those that are open. The caller holds mu.
func (o *Open) join(key serverresource.Key) {
	s := o.in.servers[key]
	if s == nil {
		s = &server{
			key: key, open: list.New(), ended: list.New(),
			timed: map[string][]*entry{}, whole: list.New(), cut: list.New(),
		}
		o.in.servers[key] = s
	}
	o.server = s
	// Requests come almost in the order of their arrival.
	at := s.open.Back()
	for at != nil && at.Value.(*Open).arrived.After(o.arrived) {
		at = at.Prev()
	}
	if at == nil {
		o.place = s.open.PushFront(o)
	} else {
		o.place = s.open.InsertAfter(o, at)
	}
}

// leave takes the request from those that are open. The caller holds mu.
func (o *Open) leave() {
	s := o.server
	s.open.Remove(o.place)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	o.in.dropIfEmpty(s)
}

// remember keeps a request that has ended. The caller holds mu.
func (g *registry) remember(s *server, r Request) {
	now := time.Now()
	g.sweep(now)
	if s.ended.Len() == maxOfServer {
		g.forget(s.ended.Front().Value.(*entry))
	}
	if g.ended.Len() == maxOfAll {
		g.forget(g.ended.Front().Value.(*entry))
	}
	e := &entry{Request: r, arrived: r.Arrived.UnixNano(), ended: r.Ended.UnixNano(), server: s, at: now}
	e.inAll, e.inServer = g.ended.PushBack(e), s.ended.PushBack(e)
	if r.Timings != "" {
		s.timed[r.Timings] = append(s.timed[r.Timings], e)
	}
	switch {
	case !r.Completed:
		e.inCut = s.cut.PushBack(e)
	case r.Timings == "":
		e.inWhole = s.whole.PushBack(e)
	}
	g.arm(memory)
}

// arm makes sure that requests are forgotten when no others come.
func (g *registry) arm(after time.Duration) {
	if g.armed {
		return
	}
	g.armed = true
	time.AfterFunc(after, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.armed = false
		now := time.Now()
		g.sweep(now)
		if oldest := g.ended.Front(); oldest != nil {
			g.arm(memory - now.Sub(oldest.Value.(*entry).at))
		}
	})
}

// sweep forgets what is too old. The caller holds mu.
func (g *registry) sweep(now time.Time) {
	for oldest := g.ended.Front(); oldest != nil; oldest = g.ended.Front() {
		e := oldest.Value.(*entry)
		if now.Sub(e.at) < memory {
			return
		}
		g.forget(e)
	}
}

func (g *registry) forget(e *entry) {
	s := e.server
	g.ended.Remove(e.inAll)
	s.ended.Remove(e.inServer)
	if e.inCut != nil {
		s.cut.Remove(e.inCut)
	}
	if e.inWhole != nil {
		s.whole.Remove(e.inWhole)
	}
	if e.Timings != "" {
		rest := slices.DeleteFunc(s.timed[e.Timings], func(other *entry) bool { return other == e })
		if s.timed[e.Timings] = rest; len(rest) == 0 {
			delete(s.timed, e.Timings)
		}
	}
	g.dropIfEmpty(s)
}

func (g *registry) dropIfEmpty(s *server) {
	if s.open.Len() == 0 && s.ended.Len() == 0 && g.servers[s.key] == s {
		delete(g.servers, s.key)
	}
}
