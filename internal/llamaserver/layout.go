// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"bytes"
	"strconv"
	"strings"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
)

// metricsParser reads the bodies of one server's /metrics. They differ in
// nothing but their values: once one has been parsed, the next ones are compared
// with its text, and only their values are read.
type metricsParser struct{ last atomic.Pointer[layout] }

func (p *metricsParser) parse(body []byte) (*Metrics, error) {
	l := p.last.Load()
	if m := l.read(body); m != nil {
		return m, nil
	}
	if common := lastLearned.Load(); common != l {
		if m := common.read(body); m != nil {
			p.last.Store(common)
			return m, nil
		}
	}
	m, err := ParseMetrics(body)
	if err == nil {
		l = learn(body, m.Families)
		p.last.Store(l)
		lastLearned.Store(l)
	}
	return m, err
}

// lastLearned is the layout that was learned last, from any server: servers of
// one build share it.
var lastLearned atomic.Pointer[layout]

// layout is the text of a body without its values. No body has the layout nil.
type layout struct {
	text     []string // before each value, and after the last one
	families []*dto.MetricFamily
	samples  []sampleOf // by value
}

// sampleOf says which sample of which family a value is.
type sampleOf struct{ family, index int }

// learn returns the layout of a body; nil where it holds more than plain
// numbers.
func learn(body []byte, families map[string]*dto.MetricFamily) *layout {
	l := &layout{}
	at := map[string]int{}
	var used []int // samples of each family so far
	text, start := string(body), 0
	for pos := 0; pos < len(text); {
		line := text[pos:]
		if i := strings.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		begin := pos
		pos += len(line) + 1
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexAny(line, "{ ")
		space := max(end, strings.LastIndexByte(line, '}')+1)
		if end < 0 || space == len(line) || line[space] != ' ' || strings.IndexByte(line[space+1:], ' ') >= 0 {
			return nil // a timestamp, or spaces that llama-server does not print
		}
		name := line[:end]
		f := families[name]
		if f == nil || f.GetType() == dto.MetricType_HISTOGRAM || f.GetType() == dto.MetricType_SUMMARY {
			return nil
		}
		i, ok := at[name]
		if !ok {
			i = len(l.families)
			at[name] = i
			l.families = append(l.families, f)
			used = append(used, 0)
		}
		if used[i] == len(f.GetMetric()) {
			return nil
		}
		l.samples = append(l.samples, sampleOf{i, used[i]})
		used[i]++
		l.text = append(l.text, text[start:begin+space+1])
		start = begin + len(line)
	}
	if len(l.families) != len(families) {
		return nil
	}
	for i, f := range l.families {
		if used[i] != len(f.GetMetric()) {
			return nil
		}
	}
	l.text = append(l.text, text[start:])
	return l
}

// read returns what a body of this layout says; nil if it is of another one.
func (l *layout) read(body []byte) *Metrics {
	if l == nil {
		return nil
	}
	type sample struct {
		metric  dto.Metric
		counter dto.Counter
		gauge   dto.Gauge
		untyped dto.Untyped
		value   float64
	}
	type family struct {
		family dto.MetricFamily
		one    [1]*dto.Metric
	}
	samples := make([]sample, len(l.samples))
	for i := range samples {
		if len(body) < len(l.text[i]) || string(body[:len(l.text[i])]) != l.text[i] {
			return nil
		}
		body = body[len(l.text[i]):]
		end := bytes.IndexByte(body, '\n')
		if end < 0 {
			end = len(body)
		}
		v, err := strconv.ParseFloat(string(body[:end]), 64)
		if err != nil || bytes.ContainsAny(body[:end], "pP_") { // Go's own notations
			return nil
		}
		samples[i].value = v
		body = body[end:]
	}
	if string(body) != l.text[len(l.samples)] {
		return nil
	}
	families := make([]family, len(l.families))
	all := make(map[string]*dto.MetricFamily, len(l.families))
	for i, was := range l.families {
		f := &families[i].family
		f.Name, f.Help, f.Type, f.Unit = was.Name, was.Help, was.Type, was.Unit
		f.Metric = families[i].one[:]
		if n := len(was.Metric); n > 1 {
			f.Metric = make([]*dto.Metric, n)
		}
		all[was.GetName()] = f
	}
	for i, of := range l.samples {
		s := &samples[i]
		was := l.families[of.family].Metric[of.index]
		s.metric.Label = was.Label
		switch {
		case was.Counter != nil:
			s.counter.Value = &s.value
			s.metric.Counter = &s.counter
		case was.Gauge != nil:
			s.gauge.Value = &s.value
			s.metric.Gauge = &s.gauge
		default:
			s.untyped.Value = &s.value
			s.metric.Untyped = &s.untyped
		}
		families[of.family].family.Metric[of.index] = &s.metric
	}
	return &Metrics{Families: all}
}
