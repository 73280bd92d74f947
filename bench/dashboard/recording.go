// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// minute is how long a recording is; it is replayed again and again.
const minute = time.Minute

// batch is what a pipeline brought at once.
type batch struct {
	at time.Time // of its newest point
	md pmetric.Metrics
}

// recording is what a pipeline brought within a minute.
type recording struct {
	batches []batch
	points  int
	grow    []func() // adds to a counter what it grows by in a minute
}

// readRecording reads what the exporter file has written: the first minute after skip. With
// serversOnly, the GPUs' metrics are left out.
func readRecording(path string, skip time.Duration, serversOnly bool) (*recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &recording{}
	var from time.Time
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // the last line may be half
			break
		}
		if err != nil {
			return nil, err
		}
		md, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		if err != nil {
			return nil, err
		}
		if serversOnly {
			md.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
				name, _ := rm.Resource().Attributes().Get("service.name")
				return name.Str() != "llama-server"
			})
		}
		b := batch{md: md}
		each(md, func(_ func() string, p point) {
			if at := p.Timestamp().AsTime(); at.After(b.at) {
				b.at = at
			}
		})
		if b.at.IsZero() {
			continue
		}
		if from.IsZero() {
			from = b.at.Add(skip)
		}
		if b.at.Before(from) || !b.at.Before(from.Add(minute)) {
			continue
		}
		r.batches = append(r.batches, b)
	}
	if len(r.batches) < 30 || r.batches[len(r.batches)-1].at.Sub(r.batches[0].at) < minute*9/10 {
		return nil, fmt.Errorf("%s holds less than a minute", path)
	}
	r.prepare()
	return r, nil
}

// point is a point of any kind of metric.
type point interface {
	Timestamp() pcommon.Timestamp
	SetTimestamp(pcommon.Timestamp)
	StartTimestamp() pcommon.Timestamp
	SetStartTimestamp(pcommon.Timestamp)
	Attributes() pcommon.Map
}

// each calls f with each point, and what makes the key of its series if it is of a
// counter.
func each(md pmetric.Metrics, f func(counter func() string, p point)) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				key := func(p point) func() string {
					return func() string {
						return fmt.Sprint(rm.Resource().Attributes().AsRaw(), m.Name(), p.Attributes().AsRaw())
					}
				}
				switch m.Type() {
				case pmetric.MetricTypeGauge:
					for _, p := range m.Gauge().DataPoints().All() {
						f(nil, p)
					}
				case pmetric.MetricTypeSum:
					for _, p := range m.Sum().DataPoints().All() {
						if m.Sum().IsMonotonic() {
							f(key(p), p)
						} else {
							f(nil, p)
						}
					}
				case pmetric.MetricTypeHistogram:
					for _, p := range m.Histogram().DataPoints().All() {
						f(key(p), p)
					}
				case pmetric.MetricTypeExponentialHistogram:
					for _, p := range m.ExponentialHistogram().DataPoints().All() {
						f(key(p), p)
					}
				}
			}
		}
	}
}

// prepare finds by how much counters grow in a minute.
func (r *recording) prepare() {
	series := map[string][]point{}
	for _, b := range r.batches {
		each(b.md, func(counter func() string, p point) {
			r.points++
			if counter != nil {
				k := counter()
				series[k] = append(series[k], p)
			}
		})
	}
	for _, points := range series {
		first, last := points[0], points[len(points)-1]
		for _, p := range points {
			switch p := p.(type) {
			case pmetric.NumberDataPoint:
				by := value(last.(pmetric.NumberDataPoint)) - value(first.(pmetric.NumberDataPoint))
				r.grow = append(r.grow, func() {
					if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
						p.SetIntValue(p.IntValue() + int64(by))
					} else {
						p.SetDoubleValue(p.DoubleValue() + by)
					}
				})
			case pmetric.HistogramDataPoint:
				a, b := first.(pmetric.HistogramDataPoint), last.(pmetric.HistogramDataPoint)
				count, sum, by := b.Count()-a.Count(), b.Sum()-a.Sum(), difference(a.BucketCounts(), 0, b.BucketCounts(), 0)
				r.grow = append(r.grow, func() {
					p.SetCount(p.Count() + count)
					p.SetSum(p.Sum() + sum)
					for i, n := range by {
						p.BucketCounts().SetAt(int(i), p.BucketCounts().At(int(i))+n)
					}
				})
			case pmetric.ExponentialHistogramDataPoint:
				a, b := first.(pmetric.ExponentialHistogramDataPoint), last.(pmetric.ExponentialHistogramDataPoint)
				if a.Scale() != b.Scale() || p.Scale() != b.Scale() {
					continue // it begins anew each minute
				}
				count, sum, zero := b.Count()-a.Count(), b.Sum()-a.Sum(), b.ZeroCount()-a.ZeroCount()
				by := difference(a.Positive().BucketCounts(), a.Positive().Offset(), b.Positive().BucketCounts(), b.Positive().Offset())
				r.grow = append(r.grow, func() {
					p.SetCount(p.Count() + count)
					p.SetSum(p.Sum() + sum)
					p.SetZeroCount(p.ZeroCount() + zero)
					for i, n := range by {
						add(p.Positive(), i, n)
					}
				})
			}
		}
	}
}

func value(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

// difference is what buckets have more than others, by their index.
func difference(a pcommon.UInt64Slice, aOffset int32, b pcommon.UInt64Slice, bOffset int32) map[int32]uint64 {
	by := map[int32]uint64{}
	for i, n := range b.All() {
		by[bOffset+int32(i)] = n
	}
	for i, n := range a.All() {
		by[aOffset+int32(i)] -= n
	}
	for i, n := range by {
		if n == 0 {
			delete(by, i)
		}
	}
	return by
}

// add counts n more in the bucket with an index.
func add(b pmetric.ExponentialHistogramDataPointBuckets, index int32, n uint64) {
	counts := b.BucketCounts()
	at := int(index - b.Offset())
	switch {
	case counts.Len() == 0:
		b.SetOffset(index)
		at = 0
	case at < 0:
		counts.FromRaw(append(make([]uint64, -at), counts.AsRaw()...))
		b.SetOffset(index)
		at = 0
	}
	for counts.Len() <= at {
		counts.Append(0)
	}
	counts.SetAt(at, counts.At(at)+n)
}

// shift moves all points in time.
func (r *recording) shift(by time.Duration, starts bool) {
	move := func(t pcommon.Timestamp) pcommon.Timestamp { return pcommon.NewTimestampFromTime(t.AsTime().Add(by)) }
	for i := range r.batches {
		b := &r.batches[i]
		b.at = b.at.Add(by)
		each(b.md, func(_ func() string, p point) {
			p.SetTimestamp(move(p.Timestamp()))
			if starts && p.StartTimestamp() != 0 {
				p.SetStartTimestamp(move(p.StartTimestamp()))
			}
		})
	}
}

// next makes it the minute after.
func (r *recording) next() {
	r.shift(minute, false)
	for _, grow := range r.grow {
		grow()
	}
}

// rename gives the server another name.
func (b batch) rename(server string) {
	for _, rm := range b.md.ResourceMetrics().All() {
		if name, _ := rm.Resource().Attributes().Get("service.name"); name.Str() == "llama-server" {
			rm.Resource().Attributes().PutStr("service.instance.id", server)
		}
	}
}

// deferred sets how many requests wait, wherever a batch says it, and returns a
// report that says nothing else.
func (b batch) deferred(n float64) (pmetric.Metrics, bool) {
	only, found := pmetric.NewMetrics(), false
	for _, rm := range b.md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if !strings.HasSuffix(m.Name(), "requests.deferred") {
					continue
				}
				var points pmetric.NumberDataPointSlice
				if m.Type() == pmetric.MetricTypeSum {
					points = m.Sum().DataPoints()
				} else {
					points = m.Gauge().DataPoints()
				}
				for _, p := range points.All() {
					p.SetIntValue(int64(n))
				}
				found = true
				to := only.ResourceMetrics().AppendEmpty()
				rm.Resource().CopyTo(to.Resource())
				m.CopyTo(to.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty())
			}
		}
	}
	return only, found
}
