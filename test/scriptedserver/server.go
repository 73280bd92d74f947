// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package scriptedserver is an inference server that follows a script and records
// when it did what, so that tests can compare a client's measurements with the
// truth.
package scriptedserver

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Script defines how a request is answered.
type Script struct {
	// Status is the answer's status; 0 is 200.
	Status int
	// Header is the answer's header. The Content-Type is text/event-stream by default.
	Header http.Header
	// Delay is the time from the request to the header of the answer.
	Delay time.Duration
	// Events are sent one by one, each in a chunk of its own.
	Events []Event
	// End is how the answer ends after the last event.
	End End
}

// Event is a part of an answer.
type Event struct {
	// After is the time since the previous event, or since the header.
	After time.Duration
	// Bytes are sent as they are.
	Bytes string
}

// End is how an answer ends.
type End int

const (
	InOrder End = iota // as HTTP requires
	Cut                // the connection is closed without the last chunk, or without any answer if nothing was sent
	Reset              // the connection is reset
	Never              // nothing more comes until the client leaves
)

// Exchange is a request, with the times of the server's actions. The time of an
// event is taken before it is handed to the operating system.
type Exchange struct {
	Header  http.Header
	Body    []byte
	Arrived time.Time   // when the whole request had been read
	Sent    []time.Time // when each event was sent
}

// Server is a real HTTP server.
type Server struct {
	// URL is its base URL.
	URL string

	script func(n int, r *http.Request, body []byte) Script
	http   *http.Server
	down   chan struct{}
	going  sync.WaitGroup
	stall  sync.RWMutex // held for writing while nothing may be sent

	mu        sync.Mutex
	exchanges []*Exchange
}

// Start runs a server on a loopback port until the end of the test. script is called
// with each request and the number of requests before it, and returns how to answer.
func Start(tb testing.TB, script func(n int, r *http.Request, body []byte) Script) *Server {
	tb.Helper()
	s, err := Run("127.0.0.1:0", script)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Always answers each request with the same script.
func Always(s Script) func(int, *http.Request, []byte) Script {
	return func(int, *http.Request, []byte) Script { return s }
}

// Run runs a server until Close.
func Run(address string, script func(n int, r *http.Request, body []byte) Script) (*Server, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + ln.Addr().String(), script: script, down: make(chan struct{})}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve)}
	s.going.Go(func() { s.http.Serve(ln) })
	return s, nil
}

// Close stops the server and cuts all answers.
func (s *Server) Close() {
	select {
	case <-s.down:
		return
	default:
	}
	close(s.down)
	s.http.Close()
	s.going.Wait()
}

// Stall blocks for a time in which the server sends no events.
func (s *Server) Stall(d time.Duration) {
	s.stall.Lock()
	defer s.stall.Unlock()
	time.Sleep(d)
}

// Exchanges returns the exchanges so far, in the order of their requests. One that
// has not ended may still change.
func (s *Server) Exchanges() []Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Exchange, len(s.exchanges))
	for i, e := range s.exchanges {
		out[i] = *e
	}
	return out
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.going.Add(1)
	defer s.going.Done()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	x := &Exchange{Header: r.Header, Body: body, Arrived: time.Now()}
	s.mu.Lock()
	n := len(s.exchanges)
	s.exchanges = append(s.exchanges, x)
	s.mu.Unlock()
	s.answer(w, r, x, s.script(n, r, body))
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, x *Exchange, script Script) {
	for name, values := range script.Header {
		w.Header()[name] = values
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	due := x.Arrived.Add(script.Delay)
	if !s.wait(r, due) {
		return
	}
	control := http.NewResponseController(w)
	if script.End == InOrder || len(script.Events) > 0 {
		if script.Status != 0 {
			w.WriteHeader(script.Status)
		}
		if len(script.Events) > 0 && script.Events[0].After > 0 {
			control.Flush()
		}
	}
	for _, e := range script.Events {
		due = due.Add(e.After)
		if !s.wait(r, due) {
			return
		}
		s.stall.RLock()
		now := time.Now()
		io.WriteString(w, e.Bytes)
		control.Flush()
		s.stall.RUnlock()
		s.mu.Lock()
		x.Sent = append(x.Sent, now)
		s.mu.Unlock()
	}
	switch script.End {
	case InOrder:
	case Cut:
		panic(http.ErrAbortHandler)
	case Reset:
		if conn, _, err := control.Hijack(); err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	case Never:
		s.wait(r, time.Now().Add(time.Hour))
	}
}

// wait waits until the due time. It reports false if the client leaves or the server
// is closed before.
func (s *Server) wait(r *http.Request, due time.Time) bool {
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
	case <-s.down:
	}
	return false
}
