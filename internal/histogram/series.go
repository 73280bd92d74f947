// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package histogram // import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// exemplarLife is how long an exemplar is sent. Prometheus, which sees only what
// was sent last before its scrape, has to find all those since the scrape
// before.
const exemplarLife = time.Minute

// Buckets are an Explicit or an Exponential.
type Buckets interface {
	Add(value float64) (exemplar int)
	Emit(to pmetric.Metric, start, now pcommon.Timestamp) Point
	json.Marshaler
	json.Unmarshaler
}

// Series is a histogram with exemplars.
type Series struct {
	Buckets
	exemplars map[int]exemplar // by the place that Add returns
}

// Exemplar is one request behind a series.
type Exemplar struct {
	At    time.Time
	Trace pcommon.TraceID
	Span  pcommon.SpanID
	// Attributes say which one it was.
	Attributes []Attribute
}

// Attribute is one of an exemplar.
type Attribute struct {
	Key   string
	Value int64
}

type exemplar struct {
	Exemplar
	value float64
}

// NewSeries returns an empty series with exponential buckets, at most size of them, or
// with the given bounds if size is 0.
func NewSeries(bounds []float64, size int32) *Series {
	if size > 0 {
		return &Series{Buckets: NewExponential(size)}
	}
	return &Series{Buckets: NewExplicit(bounds)}
}

// Record counts a value. e becomes its exemplar, unless it is nil.
func (s *Series) Record(value float64, e *Exemplar) {
	place := s.Add(value)
	if e == nil {
		return
	}
	if s.exemplars == nil {
		s.exemplars = map[int]exemplar{}
	}
	s.exemplars[place] = exemplar{*e, value}
}

// Emit appends a point and returns its attributes, to be filled.
func (s *Series) Emit(to pmetric.Metric, start, now pcommon.Timestamp) pcommon.Map {
	p := s.Buckets.Emit(to, start, now)
	for _, place := range slices.Sorted(maps.Keys(s.exemplars)) {
		e := s.exemplars[place]
		if now.AsTime().Sub(e.At) > exemplarLife {
			delete(s.exemplars, place)
			continue
		}
		x := p.Exemplars().AppendEmpty()
		x.SetTimestamp(pcommon.NewTimestampFromTime(e.At))
		x.SetDoubleValue(e.value)
		x.SetTraceID(e.Trace)
		x.SetSpanID(e.Span)
		for _, a := range e.Attributes {
			x.FilteredAttributes().PutInt(a.Key, a.Value)
		}
	}
	return p.Attributes()
}
