// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Limits bound what is kept. The oldest requests give way.
type Limits struct {
	// PerServer is how many requests of a server are kept, and Servers of how many
	// servers. The server that has been quiet for the longest gives way.
	PerServer, Servers int
	// Bytes is about how much memory all requests together take.
	Bytes int
}

// DefaultLimits are those of a page: a screen shows fewer.
func DefaultLimits() Limits { return Limits{PerServer: 1000, Servers: 100, Bytes: 32 << 20} }

// Sequence says how many requests had been added at a moment, those of the file
// included. It has a meaning only for one store.
type Sequence uint64

// Store keeps the last requests of each server. It is safe for concurrent use;
// readers do not wait for the disk.
type Store struct {
	limits Limits
	file   *file // nil without a directory

	mu       sync.RWMutex
	servers  map[string]*server
	ids      map[string]*entry
	unjoined map[joint]*entry
	slots    slots
	sequence Sequence
	bytes    int
}

// server holds the requests of one server, those that ended first at the front.
type server struct{ entries []*entry }

type entry struct {
	span
	sequence Sequence
	// shown is whether the request is among the last ones: a client's is not once
	// the server's is there.
	shown bool
}

// joint is where the spans of one request meet: by the server's own timings, or as
// the server's span is a child of the client's.
type joint struct {
	key    string // the timings, or the id of the client's span
	client bool
}

// joints are where a request meets its other span. A server's span that is a child of
// the client's needs no timings, which another request may have by chance.
func (e *entry) joints() (all []joint) {
	switch {
	case e.Client:
		all = append(all, joint{e.ID, true})
	case e.parent != "":
		return append(all, joint{e.parent, false})
	}
	if e.timings != "" {
		all = append(all, joint{e.timings, e.Client})
	}
	return all
}

// slots are those of requests through the proxy whose own span has not come yet.
type slots struct {
	waiting map[string]slot // by the id of the proxy's span
	order   []string
}

// add keeps the last ones, which is enough: the proxy's span is about as old.
func (s *slots) add(one slot) {
	const most = 1000
	if _, again := s.waiting[one.of]; !again {
		s.order = append(s.order, one.of)
	}
	s.waiting[one.of] = one
	for len(s.waiting) > most || len(s.order) > 2*most {
		delete(s.waiting, s.order[0])
		s.order = s.order[1:]
	}
}

// take puts what the log says on a request. Of one whose client left, only the log
// knows the tokens, and when it got its slot.
func (e *entry) take(s slot) {
	e.Slot, e.Task = s.id, s.task
	if e.Prompt == 0 {
		e.Prompt, e.Cached = s.prompt, s.cached
	}
	if e.Generated == 0 {
		e.Generated = s.generated
	}
	if e.Wait == nil {
		e.Wait = s.wait
	}
	if s.start >= e.Start && s.start <= e.End { // by the log, which is exact where others were in the slot before
		e.Began = &s.start
		if e.Wait == nil {
			wait := float64(s.start-e.Start) / 1000
			e.Wait = &wait
		}
	}
}

// New returns a store in memory. It keeps one request at least.
func New(l Limits) *Store {
	l.PerServer, l.Servers, l.Bytes = max(1, l.PerServer), max(1, l.Servers), max(1, l.Bytes)
	return &Store{
		limits: l, servers: map[string]*server{}, ids: map[string]*entry{}, unjoined: map[joint]*entry{},
		slots: slots{waiting: map[string]slot{}},
	}
}

// future is how far the clocks of other hosts may be ahead. What claims to end
// later would be the last request for ever.
const future = 24 * time.Hour

// Add takes in the requests among spans and returns how many were new. A span that
// comes again, as after a restart of what sends it, is the same request.
func (s *Store) Add(td ptrace.Traces) (added int) {
	spans, slots := read(td)
	if len(spans) == 0 && len(slots) == 0 {
		return 0
	}
	latest := time.Now().Add(future).UnixMilli()
	s.mu.Lock()
	var fresh []Request
	for _, r := range spans {
		if r.End > latest {
			continue
		}
		if e := s.insert(r); e != nil {
			fresh = append(fresh, e.Request)
		}
	}
	added = len(fresh)
	for _, one := range slots {
		if e := s.slot(one); e != nil {
			fresh = append(fresh, e.Request)
		}
	}
	s.mu.Unlock()
	if s.file != nil && len(fresh) > 0 {
		s.file.append(fresh, s)
	}
	return added
}

// slot puts what the log says on the request that the proxy saw, now or when that
// comes, and returns the request if it says something new. The caller holds mu.
func (s *Store) slot(one slot) *entry {
	e, ok := s.ids[one.of]
	if !ok {
		s.slots.add(one)
		return nil
	}
	if !e.Proxied || e.Slot == one.id && e.Task == one.task {
		return nil
	}
	e.take(one)
	s.sequence++ // whoever has the request is told of it once more
	e.sequence = s.sequence
	return e
}

// insert adds a request and returns it, or nil if it is there, or older than all
// that are kept of its server. The caller holds mu.
func (s *Store) insert(r span) *entry {
	if _, again := s.ids[r.ID]; again {
		return nil
	}
	e := &entry{span: r, shown: true}
	if one, ok := s.slots.waiting[r.ID]; ok {
		delete(s.slots.waiting, r.ID)
		if r.Proxied {
			e.take(one)
		}
	}
	elsewhere := s.join(e)
	if !s.place(e) {
		s.forget(e)
		return nil
	}
	if elsewhere == nil {
		return e
	}
	if _, kept := s.ids[elsewhere.ID]; kept { // e did not take its place
		s.drop(elsewhere)
		elsewhere.Server = e.Server
		s.place(elsewhere)
	}
	return e
}

// rejoin shows requests once that were joined before a restart. The caller holds mu.
func (s *Store) rejoin() {
	for _, e := range s.ids {
		if e.Joined == "" {
			continue
		}
		for _, of := range []*entry{e, s.ids[e.Joined]} {
			if of != nil && of.Client {
				of.shown = false
			}
		}
	}
}

// place puts a request where it belongs, unless it is older than all that are kept
// of its server.
func (s *Store) place(e *entry) bool {
	in, known := s.servers[e.Server]
	if !known {
		in = &server{}
	}
	at := in.at(e)
	if at == 0 && len(in.entries) >= s.limits.PerServer {
		return false
	}
	if !known {
		if len(s.servers) >= s.limits.Servers {
			s.dropServer()
		}
		s.servers[e.Server] = in
	}
	s.sequence++
	e.sequence = s.sequence
	in.entries = slices.Insert(in.entries, at, e)
	s.ids[e.ID] = e
	s.bytes += e.bytes()
	if len(in.entries) > s.limits.PerServer {
		s.drop(in.entries[0])
	}
	for s.bytes > s.limits.Bytes && len(s.ids) > 1 {
		s.drop(s.oldest())
	}
	return true
}

// apart is how far two clocks may be apart where spans of one request are joined.
const apart = 2000 // milliseconds

// join looks for the other span of the request: the server learns from the client
// how long the request waited, and the client which instance served it, which for a
// router or a proxy is not what it asked. If the client's span was there before, it is returned
// where it has to move to that instance. Hardly ever do two requests share their
// timings; where they do, the server's time lies within the client's.
func (s *Store) join(e *entry) (elsewhere *entry) {
	var other *entry
	joints := e.joints()
	for _, j := range joints {
		if other = s.unjoined[joint{j.key, !j.client}]; other != nil {
			break
		}
	}
	if other == nil {
		for _, j := range joints {
			s.unjoined[j] = e
		}
		return nil
	}
	client, own := e, other
	if other.Client {
		client, own = other, e
	}
	if own.Start < client.Start-apart || own.End > client.End+apart {
		return nil
	}
	s.forget(other)
	e.Joined = other.ID // the other one is out already
	client.shown = false
	if own.Wait == nil {
		own.Wait = client.Wait
	}
	switch {
	case client.Server == own.Server:
	case client == e:
		client.Server = own.Server
	default:
		return client
	}
	return nil
}

// forget drops what is remembered of a request besides its place.
func (s *Store) forget(e *entry) {
	for _, j := range e.joints() {
		if s.unjoined[j] == e {
			delete(s.unjoined, j)
		}
	}
}

// at returns where a request is, or belongs.
func (in *server) at(e *entry) int {
	i, _ := slices.BinarySearchFunc(in.entries, e, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.End, b.End), cmp.Compare(a.ID, b.ID))
	})
	return i
}

func (s *Store) drop(e *entry) {
	in := s.servers[e.Server]
	i := in.at(e)
	in.entries = slices.Delete(in.entries, i, i+1)
	if len(in.entries) == 0 {
		delete(s.servers, e.Server)
	}
	s.bytes -= e.bytes()
	delete(s.ids, e.ID)
	s.forget(e)
}

// oldest returns the oldest request of all servers.
func (s *Store) oldest() (found *entry) {
	for _, in := range s.servers {
		if e := in.entries[0]; found == nil || e.End < found.End {
			found = e
		}
	}
	return found
}

// dropServer drops the server that has been quiet for the longest.
func (s *Store) dropServer() {
	var quiet *server
	for _, in := range s.servers {
		if quiet == nil || in.entries[len(in.entries)-1].End < quiet.entries[len(quiet.entries)-1].End {
			quiet = in
		}
	}
	for n := len(quiet.entries); n > 0; n-- {
		s.drop(quiet.entries[0])
	}
}

// Since returns the requests of a server, or with "" of all, that were added after
// a moment, newest first, and the moment to go on from. Requests that are no longer
// kept are left out.
func (s *Store) Since(name string, after Sequence) ([]Request, Sequence) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if after >= s.sequence {
		return nil, s.sequence
	}
	return s.collect(name, func(e *entry) bool { return e.sequence > after }), s.sequence
}

// Last returns the n requests of a server, or with "" of all, that ended last,
// newest first. Of a request that both its client and the server tell of, it is
// the server's.
func (s *Store) Last(name string, n int) []Request {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name != "" {
		in := s.servers[name]
		if in == nil || n <= 0 {
			return nil
		}
		all := make([]Request, 0, min(n, len(in.entries)))
		for _, e := range slices.Backward(in.entries) {
			if len(all) == n {
				break
			}
			if e.shown {
				all = append(all, e.Request)
			}
		}
		return all
	}
	all := s.collect("", func(e *entry) bool { return e.shown })
	return all[:max(0, min(n, len(all)))]
}

// all returns everything that is kept.
func (s *Store) all() []Request {
	all, _ := s.Since("", 0)
	return all
}

func (s *Store) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.ids)
}

// collect returns requests, newest first. The caller holds mu.
func (s *Store) collect(name string, wanted func(*entry) bool) []Request {
	var all []Request
	for of, in := range s.servers {
		if name != "" && of != name {
			continue
		}
		for _, e := range slices.Backward(in.entries) {
			if wanted(e) {
				all = append(all, e.Request)
			}
		}
	}
	if name == "" {
		slices.SortFunc(all, func(a, b Request) int { return cmp.Or(cmp.Compare(b.End, a.End), cmp.Compare(b.ID, a.ID)) })
	}
	return all
}
