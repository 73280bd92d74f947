// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package energy measures how much energy GPUs use during a run. It reads metrics
// that a collector with the receiver llamacpp collects, either as the collector
// serves them to Prometheus or from Prometheus itself.
package energy // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// The names that the receiver's metrics hw.energy, a counter of joules, and hw.power
// have in Prometheus.
const (
	energyMetric = "hw_energy_joules_total"
	powerMetric  = "hw_power_watts"
)

// queryPath ends the address of Prometheus' query API.
const queryPath = "/api/v1/query"

// maxBody limits the size of an answer.
const maxBody = 64 << 20

// Source is where the metrics are read.
type Source struct {
	http   *http.Client
	url    *url.URL
	server netfailure.Server
	// query is what Prometheus is asked for; "" for the metrics above.
	query string
	api   bool
}

// NewSource returns a source that reads the page of metrics at an address or, if
// that ends in /api/v1/query, asks Prometheus. With ?query= the address says which
// counters of joules to ask for.
func NewSource(address string, c *http.Client) (*Source, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q: want the address of a page of metrics, such as http://localhost:9464/metrics, or of Prometheus, such as http://localhost:9090%s", address, queryPath)
	}
	s := &Source{http: c, url: u, api: strings.HasSuffix(u.Path, queryPath)}
	s.server.Base, s.server.Name = *u, "the collector"
	if s.api {
		s.server.Name = "Prometheus"
		s.query = u.Query().Get("query")
		u.RawQuery = ""
	}
	return s, nil
}

// Close closes connections that are kept.
func (s *Source) Close() { s.http.CloseIdleConnections() }

// reading is one look at the GPUs: by GPU, joules counted so far or watts.
type reading struct {
	values map[string]float64
	power  bool
}

// metric names what is read: power, or energy.
func (s *Source) metric(power bool) string {
	switch {
	case s.query != "":
		return s.query
	case power:
		return powerMetric
	}
	return energyMetric
}

// address is the address without a password.
func (s *Source) address() string { return s.url.Redacted() }

// read prefers the energy counters, which miss nothing between two readings, unless
// only some of the GPUs have one.
func (s *Source) read(ctx context.Context) (reading, error) {
	values, err := s.values(ctx)
	if err != nil {
		return reading{}, err
	}
	energy, power := values[energyMetric], values[powerMetric]
	switch {
	case len(power) > len(energy):
		return reading{power, true}, nil
	case len(energy) > 0:
		return reading{energy, false}, nil
	case s.query != "":
		return reading{}, fmt.Errorf("%s: no series for %s", s.address(), s.query)
	}
	return reading{}, fmt.Errorf("%s has neither %s nor %s: want those of a collector whose receiver llamacpp has a gpu scraper", s.address(), energyMetric, powerMetric)
}

// values returns values by metric and GPU.
func (s *Source) values(ctx context.Context) (map[string]map[string]float64, error) {
	if !s.api {
		body, err := s.get(ctx, *s.url)
		if err != nil {
			return nil, err
		}
		values, err := parsePage(body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.address(), err)
		}
		return values, nil
	}
	query, as := s.query, energyMetric
	if query == "" {
		query, as = fmt.Sprintf(`{__name__=~"%s|%s",hw_type="gpu"}`, energyMetric, powerMetric), ""
	}
	u := *s.url
	u.RawQuery = url.Values{"query": {query}}.Encode()
	body, err := s.get(ctx, u)
	if err != nil {
		return nil, err
	}
	values, err := parseAnswer(body, as)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.address(), err)
	}
	return values, nil
}

func (s *Source) get(ctx context.Context, u url.URL) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r, err := s.http.Do(q)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", s.address(), s.server.Explain(err))
	}
	defer r.Body.Close()
	s.server.Answered()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", s.address(), s.server.Explain(err))
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: is this a page of metrics?", s.address(), r.Status)
	}
	return body, nil
}

// parsePage parses the text format of Prometheus.
func parsePage(body []byte) (map[string]map[string]float64, error) {
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("no page of metrics: %w", err)
	}
	all := map[string]map[string]float64{}
	for _, name := range []string{energyMetric, powerMetric} {
		values := map[string]float64{}
		for _, m := range families[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["hw_type"] == "gpu" {
				values[gpu(labels)] = value(m)
			}
		}
		all[name] = values
	}
	return all, nil
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return m.Untyped.GetValue()
}

// gpu identifies a GPU: its own id is not enough, as vendors may repeat it on
// another host.
func gpu(labels map[string]string) string {
	return labels["job"] + " " + labels["instance"] + " " + labels["hw_id"]
}

// parseAnswer parses an answer of Prometheus' query API. The values are those of
// the given metric, or of the one that each names.
func parseAnswer(body []byte, metric string) (map[string]map[string]float64, error) {
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("no answer of Prometheus' query API: %w", err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("query: %s", answer.Error)
	}
	if answer.Data.ResultType != "vector" {
		return nil, fmt.Errorf("query: the result is a %s: want an instant vector", answer.Data.ResultType)
	}
	var vector []struct {
		Metric map[string]string
		Value  [2]any
	}
	if err := json.Unmarshal(answer.Data.Result, &vector); err != nil {
		return nil, fmt.Errorf("no answer of Prometheus' query API: %w", err)
	}
	all := map[string]map[string]float64{}
	for _, series := range vector {
		text, _ := series.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("value %q is no number", text)
		}
		name := metric
		if name == "" {
			name = series.Metric["__name__"]
		}
		if all[name] == nil {
			all[name] = map[string]float64{}
		}
		all[name][gpu(series.Metric)] += v
	}
	return all, nil
}
