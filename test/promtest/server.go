// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

const stopTimeout = 20 * time.Second

// Server is a Prometheus under test. Its process can be ended and started again
// on the same port and data.
type Server struct {
	tb      testing.TB
	url     string
	program string
	args    []string
	process *child.Process // nil while there is none
	log     child.Output
}

// Start runs a Prometheus with a configuration until the end of the test. It
// takes OTLP and remote write. Further arguments come last.
func Start(tb testing.TB, config string, args ...string) *Server {
	tb.Helper()
	folder, err := Programs.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freeport.For(tb))
	s := &Server{
		tb: tb, url: "http://" + address, program: filepath.Join(folder, "prometheus"),
		args: append([]string{
			"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
			"--web.enable-otlp-receiver", "--web.enable-remote-write-receiver", "--log.level=warn",
		}, args...),
	}
	s.Start()
	tb.Cleanup(func() {
		if s.process != nil {
			s.Stop()
		}
		if tb.Failed() {
			tb.Logf("Prometheus' log:\n%s", s.log.String())
		}
	})
	return s
}

// Start starts the process again after Stop, and waits until it is ready.
func (s *Server) Start() {
	s.tb.Helper()
	var err error
	if s.process, err = child.Start(exec.Command(s.program, s.args...), &s.log); err != nil {
		s.tb.Fatal(err)
	}
	Programs.AwaitReady(s.tb, s.process, &s.log, s.url+"/-/ready")
}

// Stop ends the process as SIGTERM does.
func (s *Server) Stop() {
	s.tb.Helper()
	if err := s.process.Terminate(stopTimeout); err != nil {
		s.tb.Error(err)
	}
	s.process = nil
}

// URL is the base URL.
func (s *Server) URL() string { return s.url }

// Query evaluates an expression that has an instant vector, now. What does not
// parse or is of another type ends the test.
func (s *Server) Query(expression string) model.Vector {
	s.tb.Helper()
	var v model.Vector
	s.ask(expression, "vector", &v)
	return v
}

// Samples evaluates an expression that has a range vector, such as
// up[10m]: the samples as they are stored.
func (s *Server) Samples(expression string) model.Matrix {
	s.tb.Helper()
	var m model.Matrix
	s.ask(expression, "matrix", &m)
	return m
}

func (s *Server) ask(expression, kind string, result any) {
	s.tb.Helper()
	var data struct {
		Type   string `json:"resultType"`
		Result json.RawMessage
	}
	s.get("query", url.Values{"query": {expression}}, &data)
	if data.Type != kind {
		s.tb.Fatalf("%s: want a %s, got a %s", expression, kind, data.Type)
	}
	if err := json.Unmarshal(data.Result, result); err != nil {
		s.tb.Fatalf("%s: %v", expression, err)
	}
}

// Series are the labels of all series of the last hour that a selector matches,
// ended ones included.
func (s *Server) Series(selector string) []model.LabelSet {
	s.tb.Helper()
	var all []model.LabelSet
	s.get("series", lastHour(url.Values{"match[]": {selector}}), &all)
	return all
}

// Exemplars are those of the last hour of the series in an expression.
func (s *Server) Exemplars(expression string) []Exemplars {
	s.tb.Helper()
	var all []Exemplars
	s.get("query_exemplars", lastHour(url.Values{"query": {expression}}), &all)
	return all
}

// Exemplars are those of one series.
type Exemplars struct {
	SeriesLabels model.LabelSet
	Exemplars    []struct {
		Labels model.LabelSet
		Value  model.SampleValue
	}
}

// Metadata is the type, unit and description of each metric, as far as known.
func (s *Server) Metadata() map[string][]struct{ Type, Unit, Help string } {
	s.tb.Helper()
	var all map[string][]struct{ Type, Unit, Help string }
	s.get("metadata", nil, &all)
	return all
}

func lastHour(v url.Values) url.Values {
	v.Set("start", time.Now().Add(-time.Hour).Format(time.RFC3339))
	v.Set("end", time.Now().Add(time.Minute).Format(time.RFC3339))
	return v
}

func (s *Server) get(path string, query url.Values, data any) {
	s.tb.Helper()
	r, err := http.Get(s.url + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		s.tb.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Error string
		Data  json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		s.tb.Fatalf("%s: %v", query, err)
	}
	if answer.Error != "" {
		s.tb.Fatalf("%s: %s", query, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		s.tb.Fatalf("%s: %v", query, err)
	}
}

// Value is the value of an expression that has one series, and 0 where it has
// none.
func (s *Server) Value(expression string) float64 {
	s.tb.Helper()
	switch v := s.Query(expression); len(v) {
	case 0:
		return 0
	case 1:
		return float64(v[0].Value)
	default:
		s.tb.Fatalf("%s: %d series: %v", expression, len(v), v)
		return 0
	}
}

// CheckConfig has promtool check a configuration file.
func CheckConfig(tb testing.TB, file string) {
	tb.Helper()
	folder, err := Programs.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	out, err := exec.CommandContext(tb.Context(), filepath.Join(folder, "promtool"), "check", "config", file).CombinedOutput()
	if err != nil {
		tb.Errorf("promtool check config %s: %v\n%s", file, err, out)
	}
}
