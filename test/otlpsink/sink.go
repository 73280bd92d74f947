// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package otlpsink is an OTLP/HTTP backend for tests: it keeps every metric
// point and every span that arrives and answers questions about them.
package otlpsink

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// Sink is a backend on a port of its own.
type Sink struct {
	tb      testing.TB
	address string
	server  *httptest.Server // nil while it is down

	mu     sync.Mutex
	delay  time.Duration
	points Points
	spans  Spans
	bodies [][]byte
	broken []string
}

// Start runs a sink until the end of the test. A failed test shows what has
// arrived.
func Start(tb testing.TB) *Sink {
	tb.Helper()
	s := &Sink{tb: tb, address: "127.0.0.1:0"}
	s.Up()
	tb.Cleanup(func() {
		s.Down()
		for _, b := range s.broken {
			tb.Error(b)
		}
		if tb.Failed() {
			tb.Logf("metrics that arrived:\n%s", s.Points().Describe())
			if spans := s.Spans(); len(spans) > 0 {
				tb.Logf("spans that arrived:\n%s", spans.Describe())
			}
		}
	})
	return s
}

// URL is what an OTLP/HTTP exporter takes as its endpoint.
func (s *Sink) URL() string { return "http://" + s.address }

// Down is an outage: connections are refused. What has arrived stays.
func (s *Sink) Down() {
	if s.server != nil {
		s.server.CloseClientConnections()
		s.server.Close()
		s.server = nil
	}
}

// Up ends the outage, at the same address.
func (s *Sink) Up() {
	s.tb.Helper()
	listener, err := new(net.ListenConfig).Listen(s.tb.Context(), "tcp", s.address)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	_ = s.server.Listener.Close()
	s.server.Listener = listener
	s.server.Start()
}

// SetDelay makes every answer come late by a time.
func (s *Sink) SetDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

func (s *Sink) serve(w http.ResponseWriter, r *http.Request) {
	answer, err := s.take(r)
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	time.Sleep(delay)
	if err != nil {
		s.mu.Lock()
		s.broken = append(s.broken, fmt.Sprintf("%s %s: %v", r.Method, r.URL, err))
		s.mu.Unlock()
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(answer)
}

func (s *Sink) take(r *http.Request) ([]byte, error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	switch r.URL.Path {
	case "/v1/metrics":
		request := pmetricotlp.NewExportRequest()
		if err := request.UnmarshalProto(b); err != nil {
			return nil, err
		}
		s.keep(b, read(request.Metrics(), time.Now()), nil)
		return pmetricotlp.NewExportResponse().MarshalProto()
	case "/v1/traces":
		request := ptraceotlp.NewExportRequest()
		if err := request.UnmarshalProto(b); err != nil {
			return nil, err
		}
		s.keep(b, nil, readSpans(request.Traces(), time.Now()))
		return ptraceotlp.NewExportResponse().MarshalProto()
	default:
		return nil, errors.New("neither the path of OTLP metrics nor of traces")
	}
}

func (s *Sink) keep(body []byte, points Points, spans Spans) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bodies = append(s.bodies, body)
	s.points = append(s.points, points...)
	s.spans = append(s.spans, spans...)
}

// Points are all points so far that match, in the order in which they arrived.
func (s *Sink) Points(match ...Match) Points {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.points.Where(match...)
}

// Spans are all spans so far that match, in the order in which they arrived.
func (s *Sink) Spans(match ...MatchSpan) Spans {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spans.Where(match...)
}

// Holds reports whether the text stands anywhere in what has arrived: in a name,
// a description, an attribute.
func (s *Sink) Holds(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.bodies, func(b []byte) bool { return bytes.Contains(b, []byte(text)) })
}

// Eventually waits until the condition holds, and ends the test if it does not
// within the time.
func Eventually(tb testing.TB, within time.Duration, holds func() bool, what string, args ...any) {
	tb.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %s: %s", within, fmt.Sprintf(what, args...))
		}
	}
}

func texts(m pcommon.Map) map[string]string {
	out := make(map[string]string, m.Len())
	for k, v := range m.All() {
		out[k] = v.AsString()
	}
	return out
}
