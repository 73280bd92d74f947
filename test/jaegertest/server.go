// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package jaegertest runs a real Jaeger for tests: it builds the version that
// tools/jaeger pins, starts and ends the process, and asks it for traces.
package jaegertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pinned"
)

// Programs is Jaeger in one program, which keeps traces in memory.
var Programs = pinned.Programs{
	Name: "Jaeger", Folder: "jaeger",
	Module: "github.com/jaegertracing/jaeger", Packages: []string{"cmd/all-in-one"},
	Cure: "go run ./test/cmd/install-jaeger",
}

// Server is a Jaeger under test.
type Server struct {
	tb testing.TB
	// GRPC is the host and port that take OTLP over gRPC, and HTTP those that take it
	// over HTTP.
	GRPC, HTTP string
	query      string
}

// Start runs a Jaeger until the end of the test. What it monitors it asks the
// Prometheus at a URL, which has span metrics.
func Start(tb testing.TB, prometheus string) *Server {
	tb.Helper()
	folder, err := Programs.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", freeport.For(tb)) }
	s := &Server{tb: tb, GRPC: address(), HTTP: address(), query: address()}
	admin := address()
	var log child.Output
	command := exec.Command(filepath.Join(folder, "all-in-one"),
		"--collector.otlp.grpc.host-port="+s.GRPC, "--collector.otlp.http.host-port="+s.HTTP, "--query.http-server.host-port="+s.query,
		"--query.grpc-server.host-port="+address(), "--admin.http.host-port="+admin, "--collector.http-server.host-port="+address(),
		"--collector.grpc-server.host-port="+address(), "--log-level=warn", "--prometheus.server-url="+prometheus,
		"--prometheus.query.duration-unit=s", "--prometheus.query.normalize-calls", "--prometheus.query.normalize-duration")
	command.Env = append(os.Environ(), "METRICS_STORAGE_TYPE=prometheus")
	process, err := child.Start(command, &log)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		process.Kill() // asked to end, it takes ten seconds
		if tb.Failed() {
			tb.Logf("Jaeger's log:\n%s", log.String())
		}
	})
	Programs.AwaitReady(tb, process, &log, "http://"+admin+"/")
	return s
}

// Trace is a trace as Jaeger's API has it.
type Trace struct {
	TraceID   string
	Spans     []Span
	Processes map[string]Process
}

// Span is a span of a trace. Attributes and the like are its tags.
type Span struct {
	SpanID        string
	OperationName string
	References    []struct{ RefType, TraceID, SpanID string }
	// StartTime and Duration are in microseconds.
	StartTime, Duration int64
	Tags                Tags
	Logs                []struct {
		Timestamp int64
		Fields    Tags
	}
	ProcessID string
}

// Parent is the id of the span's parent, empty where it has none.
func (s Span) Parent() string {
	for _, r := range s.References {
		if r.RefType == "CHILD_OF" {
			return r.SpanID
		}
	}
	return ""
}

// Process is what made spans: its tags are the resource's attributes.
type Process struct {
	ServiceName string
	Tags        Tags
}

// Tags are attributes.
type Tags []struct {
	Key, Type string
	Value     any
}

// Get returns a tag as text, empty where there is none.
func (t Tags) Get(key string) string {
	for _, tag := range t {
		if tag.Key == key {
			return fmt.Sprint(tag.Value)
		}
	}
	return ""
}

// Trace fetches one trace.
func (s *Server) Trace(id string) Trace {
	s.tb.Helper()
	var traces []Trace
	s.get("/api/traces/"+url.PathEscape(id), nil, &traces)
	if len(traces) != 1 {
		s.tb.Fatalf("trace %s: %d of them", id, len(traces))
	}
	return traces[0]
}

// Find searches for traces of a service by tags of one span.
func (s *Server) Find(service string, tags map[string]string) []Trace {
	s.tb.Helper()
	text, err := json.Marshal(tags)
	if err != nil {
		s.tb.Fatal(err)
	}
	var traces []Trace
	s.get("/api/traces", url.Values{"service": {service}, "tags": {string(text)}, "lookback": {"1h"}, "limit": {"1000"}}, &traces)
	return traces
}

// Services are the names of the services that have sent spans.
func (s *Server) Services() []string {
	s.tb.Helper()
	var names []string
	s.get("/api/services", nil, &names)
	return names
}

// Monitored is what Jaeger's Monitor tab draws of the server spans of a service,
// such as calls, as the greatest value of each operation.
func (s *Server) Monitored(what, service string) map[string]float64 {
	s.tb.Helper()
	query := url.Values{"groupByOperation": {"true"}, "lookback": {"300000"}, "ratePer": {"60000"}, "spanKind": {"server"}, "quantile": {"0.95"}}
	r, err := http.Get("http://" + s.query + "/api/metrics/" + what + "?service=" + service + "&" + query.Encode())
	if err != nil {
		s.tb.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Metrics []struct {
			Labels       []struct{ Name, Value string }
			MetricPoints []struct {
				GaugeValue struct{ DoubleValue any }
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || r.StatusCode != http.StatusOK {
		s.tb.Fatalf("%s: status %d: %v", what, r.StatusCode, err)
	}
	greatest := map[string]float64{}
	for _, m := range answer.Metrics {
		for _, l := range m.Labels {
			if l.Name != "operation" {
				continue
			}
			for _, p := range m.MetricPoints {
				if v, ok := p.GaugeValue.DoubleValue.(float64); ok { // "NaN" is text
					greatest[l.Value] = max(greatest[l.Value], v)
				}
			}
		}
	}
	return greatest
}

func (s *Server) get(path string, query url.Values, data any) {
	s.tb.Helper()
	r, err := http.Get("http://" + s.query + path + "?" + query.Encode())
	if err != nil {
		s.tb.Fatal(err)
	}
	defer r.Body.Close()
	answer := struct {
		Data   any
		Errors []struct{ Msg string }
	}{Data: data}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		s.tb.Fatalf("%s: %v", path, err)
	}
	if len(answer.Errors) > 0 {
		s.tb.Fatalf("%s: %v", path, answer.Errors)
	}
}
