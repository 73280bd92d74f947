// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math"
	"strconv"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

// digits is how many significant digits of a number are sent: more than a chart can
// show.
const digits = 6

// number is written with a few digits, and null where it is not finite.
type number float64

// none is a number that is not there.
var (
	none64 = math.NaN()
	none   = number(none64)
)

func appendNumber(b []byte, v float64) []byte {
	if !finite(v) {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, v, 'g', digits, 64)
}

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) { return appendNumber(nil, float64(n)), nil }

// numbers are an array of such numbers.
type numbers []float64

// MarshalJSON implements json.Marshaler.
func (n numbers) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 2+8*len(n)), '[')
	for i, v := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendNumber(b, v)
	}
	return append(b, ']'), nil
}

// exact is written with all its digits.
type exact float64

// MarshalJSON implements json.Marshaler.
func (n exact) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(n), 'g', -1, 64), nil
}

// snapshotJSON is a window of everything.
type snapshotJSON struct {
	Version     string               `json:"version"`
	Seq         uint64               `json:"seq"`
	Now         int64                `json:"now"`
	Server      string               `json:"server"`
	GPUs        []string             `json:"gpus"`
	Step        int64                `json:"step"`
	Start       int64                `json:"start"`
	Points      int                  `json:"points"`
	Servers     []serverJSON         `json:"servers"`
	Facts       map[string]any       `json:"facts"`
	Sources     map[string]bool      `json:"sources"`
	Tiles       map[string]tileJSON  `json:"tiles"`
	Panels      map[string]panelJSON `json:"panels"`
	Rules       []ruleJSON           `json:"rules"`
	Annotations []annotationJSON     `json:"annotations"`
	Requests    []recent.Request     `json:"requests"`
	Running     []runningJSON        `json:"running"`
	// Partial says that further panels, lines of tiles and annotations are to come.
	Partial bool `json:"partial,omitempty"`
}

// frameJSON is what a tick or new data brings. What is nil has not changed since the frame
// before.
type frameJSON struct {
	Seq         uint64                 `json:"seq"`
	Now         int64                  `json:"now"`
	Bucket      int64                  `json:"bucket"`
	Facts       map[string]any         `json:"facts"`
	Sources     map[string]bool        `json:"sources,omitempty"`
	Tiles       map[string]tileJSON    `json:"tiles"`
	Servers     []serverJSON           `json:"servers"`
	Panels      map[string][]pointJSON `json:"panels,omitempty"`
	Rules       *[]ruleJSON            `json:"rules,omitempty"`
	Annotations *[]annotationJSON      `json:"annotations,omitempty"`
	Requests    []recent.Request       `json:"requests"`
	Running     []runningJSON          `json:"running"`
}

type panelJSON struct {
	Series []seriesJSON `json:"series"`
}

type seriesJSON struct {
	Key    string            `json:"key"`
	Name   string            `json:"name"`
	Query  int               `json:"query"`
	Labels map[string]string `json:"labels"`
	Values numbers           `json:"values"`
	Low    numbers           `json:"low,omitempty"`
	High   numbers           `json:"high,omitempty"`
}

// pointJSON is the value of a series in the bucket of a frame, null to take back
// one that was provisional. Name, query and labels are there if the series was not
// in the frame before that had its panel.
type pointJSON struct {
	Key    string            `json:"key"`
	Name   *string           `json:"name,omitempty"`
	Query  *int              `json:"query,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  number            `json:"value"`
	Low    *number           `json:"low,omitempty"`
	High   *number           `json:"high,omitempty"`
}

type tileJSON struct {
	Value  number  `json:"value"`
	Second number  `json:"second"`
	Spark  numbers `json:"spark,omitempty"`
}

type serverJSON struct {
	ID     string             `json:"id"`
	Values map[string]any     `json:"values"`
	Sparks map[string]numbers `json:"sparks,omitempty"`
}

func (s *series) json() seriesJSON {
	j := seriesJSON{Key: s.key, Name: s.name, Query: s.query, Labels: s.labels, Values: s.mean}
	for i := range s.low {
		if !finite(s.mean[i]) {
			continue
		}
		if s.low[i] != s.mean[i] || s.high[i] != s.mean[i] {
			j.Low, j.High = s.low, s.high
			break
		}
	}
	return j
}

// point returns the value of a bucket, if there is one.
func (s *series) point(bucket int, known bool) (pointJSON, bool) {
	v := s.mean[bucket]
	if !finite(v) {
		return pointJSON{}, false
	}
	p := pointJSON{Key: s.key, Value: number(v)}
	if len(s.low) > bucket && (s.low[bucket] != v || s.high[bucket] != v) {
		p.Low, p.High = new(number(s.low[bucket])), new(number(s.high[bucket]))
	}
	if !known {
		p.Name, p.Query, p.Labels = new(s.name), new(s.query), s.labels
	}
	return p, true
}

// document is encoded once and served many times.
type document struct {
	zipped []byte
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func newDocument(v any) (document, error) {
	plain, err := encode(v)
	if err != nil {
		return document{}, err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return document{}, err
	}
	if _, err := z.Write(plain); err != nil {
		return document{}, err
	}
	if err := z.Close(); err != nil {
		return document{}, err
	}
	return document{b.Bytes()}, nil
}
