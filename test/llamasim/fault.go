// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Fault is a way to misbehave. Refuse and HangConnect concern the whole
// server; the others also single paths.
type Fault struct {
	kind   faultKind
	d      time.Duration
	n      int
	target string
}

type faultKind int

const (
	noFault faultKind = iota
	refuse
	hangConnect
	hangBody
	drip
	closeEarly
	html
	huge
	garbage
	redirect
	delay
	status
)

var (
	// Refuse closes the port and every connection; the process lives on.
	Refuse = Fault{kind: refuse}
	// HangConnect leaves the port open and answers nothing.
	HangConnect = Fault{kind: hangConnect}
	// HangBody sends the header and half the body, then nothing.
	HangBody = Fault{kind: hangBody}
	// CloseEarly announces the whole body, sends half and closes.
	CloseEarly = Fault{kind: closeEarly}
	// HTML answers 200 with a login page, as a proxy in between would.
	HTML = Fault{kind: html}
	// Garbage turns numbers of /metrics into words and cuts JSON short.
	Garbage = Fault{kind: garbage}
)

// Drip sends one byte of the body every d.
func Drip(d time.Duration) Fault { return Fault{kind: drip, d: d} }

// Huge answers with n megabytes of valid metrics text.
func Huge(n int) Fault { return Fault{kind: huge, n: n} }

// Redirect answers 302 to the URL.
func Redirect(url string) Fault { return Fault{kind: redirect, target: url} }

// Delay answers rightly, but d later.
func Delay(d time.Duration) Fault { return Fault{kind: delay, d: d} }

// Status answers with an HTTP status and an error body.
func Status(code int) Fault { return Fault{kind: status, n: code} }

// SetFault makes path misbehave, or every path where it is empty. It replaces
// an earlier fault of the same path.
func (s *Server) SetFault(path string, f Fault) {
	if f.kind == refuse || f.kind == hangConnect {
		path = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.faults[path]
	s.faults[path] = f
	s.changeFaults()
	switch {
	case f.kind == refuse:
		s.unlisten()
	case was.kind == refuse:
		s.relisten()
	}
}

// ClearFault ends a fault. Requests that hang are cut off.
func (s *Server) ClearFault(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.faults[path]
	delete(s.faults, path)
	s.changeFaults()
	if was.kind == refuse {
		s.relisten()
	}
}

// changeFaults needs the lock.
func (s *Server) changeFaults() {
	close(s.unfault)
	s.unfault = make(chan struct{})
}

// relisten needs the lock. The port was the server's own a moment ago; that
// another program took it is worth a panic in a test.
func (s *Server) relisten() {
	if s.closed || s.http != nil || s.addr == "" {
		return
	}
	if err := s.listen(); err != nil {
		panic(err)
	}
}

// fault needs the lock.
func (s *Server) fault(path string) Fault {
	if f, ok := s.faults[path]; ok {
		return f
	}
	if f, ok := s.faults[strings.TrimPrefix(path, s.o.Prefix)]; ok {
		return f
	}
	return s.faults[""]
}

var sample = regexp.MustCompile(`(?m)^(llamacpp:\S+) .*$`)

// misbehave answers as the fault says; right gives the right answer.
func (s *Server) misbehave(x *exchange, f Fault, change <-chan struct{}, right func(*exchange)) {
	ctx := x.r.Context()
	switch f.kind {
	case noFault:
		right(x)
		return
	case delay:
		if !pause(ctx, change, f.d) {
			panic(http.ErrAbortHandler)
		}
		right(x)
		return
	case refuse, hangConnect:
		pause(ctx, change, 0)
		panic(http.ErrAbortHandler)
	case html:
		x.answer(http.StatusOK, "text/html", "<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form>User <input></form></body></html>\n")
		return
	case redirect:
		x.header().Set("Location", f.target)
		x.answer(http.StatusFound, "text/html", "")
		return
	case status:
		x.fail(f.n, "server_error", http.StatusText(f.n))
		return
	case huge:
		x.huge(f.n)
		return
	}

	rec := &recorder{header: x.header(), status: http.StatusOK}
	inner := *x
	inner.w = rec
	right(&inner)
	body := rec.body.Bytes()
	x.header().Set("Content-Length", strconv.Itoa(len(body)))
	switch f.kind {
	case garbage:
		if bytes.HasPrefix(body, []byte("# ")) {
			body = sample.ReplaceAll(body, []byte("$1 llama"))
		} else {
			body = body[:len(body)/2]
		}
		x.header().Set("Content-Length", strconv.Itoa(len(body)))
		x.w.WriteHeader(rec.status)
		x.w.Write(body) // an error means that the client left
	case drip:
		x.w.WriteHeader(rec.status)
		for i := range body {
			if _, err := x.w.Write(body[i : i+1]); err != nil || x.flush() != nil || !pause(ctx, change, f.d) {
				panic(http.ErrAbortHandler)
			}
		}
	default: // hangBody, closeEarly
		x.w.WriteHeader(rec.status)
		x.w.Write(body[:len(body)/2]) // an error means that the client left
		x.flush()
		if f.kind == hangBody {
			pause(ctx, change, 0)
		}
		panic(http.ErrAbortHandler)
	}
}

func (x *exchange) huge(megabytes int) {
	x.header().Set("Content-Type", "text/plain; version=0.0.4")
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20; i++ {
		fmt.Fprintf(&b, "# TYPE llamacpp:family_%[1]d_total counter\nllamacpp:family_%[1]d_total %[1]d\n", i)
	}
	for range megabytes {
		if _, err := x.w.Write(b.Bytes()); err != nil {
			return
		}
	}
}

// pause waits for d, or for ever where it is 0. It returns false when it was
// cut short.
func pause(ctx context.Context, change <-chan struct{}, d time.Duration) bool {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
		return true
	case <-change:
	case <-ctx.Done():
	}
	return false
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

var _ io.Writer = (*recorder)(nil)

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) Flush()                      {}
