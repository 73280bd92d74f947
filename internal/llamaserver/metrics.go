// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// MetricPrefix stands before the name of every family of llama-server's own.
const MetricPrefix = "llamacpp:"

// Metrics is one answer of /metrics.
type Metrics struct {
	// Process is an opaque token that is constant in the life of a server
	// process and differs after a restart; "" in builds that send none. It comes
	// from the header Process-Start-Time-Unix, which is not a time.
	Process string
	// Families are all families by name, known or not.
	Families map[string]*dto.MetricFamily
}

// Value returns the value of the sample without labels in the family
// MetricPrefix + name. It returns false if there is none, or if it is NaN, as an
// average over nothing is.
func (m *Metrics) Value(name string) (float64, bool) {
	var buffer [64]byte // with it, looking up allocates nothing
	f := m.Families[string(append(append(buffer[:0], MetricPrefix...), name...))]
	if f == nil {
		return 0, false
	}
	for _, s := range f.GetMetric() {
		if len(s.GetLabel()) > 0 {
			continue
		}
		var v float64
		switch {
		case s.Counter != nil:
			v = s.Counter.GetValue()
		case s.Gauge != nil:
			v = s.Gauge.GetValue()
		case s.Untyped != nil:
			v = s.Untyped.GetValue()
		default:
			return 0, false
		}
		return v, v == v
	}
	return 0, false
}

// RoundingStep returns the distance between two neighbouring whole numbers of v's
// size as /metrics prints them. From a million on it prints six digits, so they
// are 10 apart up to ten million, and so on. Smaller numbers are exact: 0. Not
// every build rounds.
func RoundingStep(v float64) float64 {
	step := 0.0
	for s := 10.0; v >= 1e5*s && !math.IsInf(s, 1); s *= 10 {
		step = s
	}
	return step
}

var (
	errNoFamilies = errors.New("no family of llama-server in it: is endpoint its address?")
	errNotText    = errors.New("not in Prometheus' text format: is endpoint llama-server's address?")
)

// ParseMetrics reads a body of /metrics in Prometheus' text format.
func ParseMetrics(body []byte) (*Metrics, error) {
	if b := bytes.TrimLeft(body, " \t\r\n"); len(b) > 0 && (b[0] == '<' || b[0] == '{') {
		return nil, errNotText
	}
	// C++ prints 0/0, an average over no decode, as "-nan", which strconv does
	// not take.
	if bytes.Contains(body, []byte(" -nan")) {
		body = bytes.ReplaceAll(body, []byte(" -nan"), []byte(" NaN"))
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errNotText, err)
	}
	for name := range families {
		if strings.HasPrefix(name, MetricPrefix) {
			return &Metrics{Families: families}, nil
		}
	}
	return nil, errNoFamilies
}
