// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package otlpsink

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// Point is one data point.
type Point struct {
	Metric      string
	Unit        string
	Description string
	// Counter reports whether the point is of a monotonic cumulative sum, or of a
	// cumulative histogram.
	Counter bool
	// Start is zero where the point has none.
	Start, Time time.Time
	// Arrived is when the sink got it.
	Arrived time.Time
	// Value is the value, of a histogram the number of what it counted, and NaN
	// of a point that only ends its series.
	Value float64
	// Distribution is what a histogram says besides.
	Distribution *Distribution
	// Attributes and Resource are as text.
	Attributes, Resource map[string]string
}

// Series identifies the point's series. Of the resource it takes only the
// instance: a backend that keeps no more than that must get along too.
func (p Point) Series() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.Resource["service.instance.id"], p.Metric)
	for _, k := range slices.Sorted(maps.Keys(p.Attributes)) {
		fmt.Fprintf(&b, " %s=%s", k, p.Attributes[k])
	}
	return b.String()
}

// Match chooses points.
type Match func(Point) bool

// Metric chooses by the metric's name.
func Metric(name string) Match { return func(p Point) bool { return p.Metric == name } }

// With chooses by an attribute of the point.
func With(key, value string) Match {
	return func(p Point) bool { v, ok := p.Attributes[key]; return ok && v == value }
}

// Of chooses by the resource's service.instance.id.
func Of(instance string) Match {
	return func(p Point) bool { return p.Resource["service.instance.id"] == instance }
}

// After chooses what was measured after a time.
func After(t time.Time) Match { return func(p Point) bool { return p.Time.After(t) } }

// Recorded chooses points that have a value, and do not only end their series.
func Recorded(p Point) bool { return !math.IsNaN(p.Value) }

// Points are points in the order in which they arrived.
type Points []Point

// Where are those points that match.
func (ps Points) Where(match ...Match) Points {
	var out Points
next:
	for _, p := range ps {
		for _, m := range match {
			if !m(p) {
				continue next
			}
		}
		out = append(out, p)
	}
	return out
}

// Last is the value of the last point.
func (ps Points) Last() (value float64, ok bool) {
	if len(ps) == 0 {
		return 0, false
	}
	return ps[len(ps)-1].Value, true
}

// LastIs reports whether there is a last point and it has this value.
func (ps Points) LastIs(value float64) bool {
	v, ok := ps.Last()
	return ok && v == value
}

// Max is the greatest value, 0 where there is no point.
func (ps Points) Max() float64 {
	var m float64
	for _, p := range ps {
		if p.Value > m {
			m = p.Value
		}
	}
	return m
}

// Starts are the start times that follow one another, each once.
func (ps Points) Starts() []time.Time {
	var out []time.Time
	for _, p := range ps {
		if len(out) == 0 || !out[len(out)-1].Equal(p.Start) {
			out = append(out, p.Start)
		}
	}
	return out
}

// Total is what counters have counted, over all restarts: the last value of
// each series with each of its start times.
func (ps Points) Total() float64 {
	type life struct {
		series string
		start  time.Time
	}
	last := map[life]float64{}
	for _, p := range ps {
		last[life{p.Series(), p.Start}] = p.Value
	}
	var sum float64
	for _, v := range last {
		sum += v
	}
	return sum
}

// Faults lists where counters do not behave as counters: where one goes back
// without a new start time; where a start time goes back, lies after its point or
// before the last point of what counted earlier; where a series has two points
// for one time.
func (ps Points) Faults() []string {
	var faults []string
	for series, points := range ps.series() {
		for i, p := range points {
			if !p.Counter {
				continue
			}
			say := func(format string, args ...any) {
				faults = append(faults, fmt.Sprintf("%s: at %s, start %s: ", series, clock(p.Time), clock(p.Start))+fmt.Sprintf(format, args...))
			}
			if p.Start.IsZero() {
				say("no start time")
			}
			if p.Start.After(p.Time) {
				say("start after the point itself")
			}
			if i == 0 {
				continue
			}
			before := points[i-1]
			switch {
			case !p.Time.After(before.Time):
				say("not later than the point before, at %s", clock(before.Time))
			case p.Start.Before(before.Start):
				say("start went back from %s", clock(before.Start))
			case p.Start.Equal(before.Start) && p.Value < before.Value:
				say("went back from %v to %v", before.Value, p.Value)
			case p.Start.After(before.Start) && p.Start.Before(before.Time):
				say("started again at a time of the series before, which has a point at %s", clock(before.Time))
			}
		}
	}
	slices.Sort(faults)
	return faults
}

// Describe lists all series, each with its changes of value or start time.
func (ps Points) Describe() string {
	const changes = 60
	all := ps.series()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		points := all[name]
		fmt.Fprintf(&b, "%s (%d points until %s)", name, len(points), clock(points[len(points)-1].Time))
		written := 0
		for i, p := range points {
			if i > 0 && p.Value == points[i-1].Value && p.Start.Equal(points[i-1].Start) {
				continue
			}
			if i == 0 || !p.Start.Equal(points[i-1].Start) {
				fmt.Fprintf(&b, " [start %s]", clock(p.Start))
			}
			if written++; written > changes || p.Metric == "llamacpp.server.response.duration" {
				b.WriteString(" …")
				break
			}
			fmt.Fprintf(&b, " %s: %v", clock(p.Time), p.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (ps Points) series() map[string]Points {
	out := map[string]Points{}
	for _, p := range ps {
		out[p.Series()] = append(out[p.Series()], p)
	}
	return out
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format("05.000")
}

// PointsOf are the points of metrics that have not been sent to a sink.
func PointsOf(md pmetric.Metrics) Points { return read(md, time.Time{}) }

func read(md pmetric.Metrics, arrived time.Time) Points {
	var out Points
	for rm, m := range points.Metrics(md) {
		resource := texts(rm.Resource().Attributes())
		for _, p := range readMetric(m) {
			p.Metric, p.Unit, p.Description = m.Name(), m.Unit(), m.Description()
			p.Resource, p.Arrived = resource, arrived
			out = append(out, p)
		}
	}
	// One request can hold several points of a series.
	slices.SortStableFunc(out, func(a, b Point) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	return out
}

func readMetric(m pmetric.Metric) Points {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return readNumbers(m.Gauge().DataPoints(), false)
	case pmetric.MetricTypeSum:
		s := m.Sum()
		return readNumbers(s.DataPoints(), s.IsMonotonic() && s.AggregationTemporality() == pmetric.AggregationTemporalityCumulative)
	case pmetric.MetricTypeHistogram:
		var out Points
		for _, d := range m.Histogram().DataPoints().All() {
			out = append(out, Point{
				Counter: m.Histogram().AggregationTemporality() == pmetric.AggregationTemporalityCumulative,
				Start:   d.StartTimestamp().AsTime(), Time: d.Timestamp().AsTime(),
				Value: float64(d.Count()), Attributes: texts(d.Attributes()), Distribution: readHistogram(d),
			})
		}
		return out
	case pmetric.MetricTypeExponentialHistogram:
		var out Points
		for _, d := range m.ExponentialHistogram().DataPoints().All() {
			out = append(out, Point{
				Counter: m.ExponentialHistogram().AggregationTemporality() == pmetric.AggregationTemporalityCumulative,
				Start:   d.StartTimestamp().AsTime(), Time: d.Timestamp().AsTime(),
				Value: float64(d.Count()), Attributes: texts(d.Attributes()), Distribution: readExponential(d),
			})
		}
		return out
	}
	return nil
}

func readNumbers(points pmetric.NumberDataPointSlice, counter bool) Points {
	var out Points
	for _, d := range points.All() {
		p := Point{Counter: counter, Time: d.Timestamp().AsTime(), Value: d.DoubleValue(), Attributes: texts(d.Attributes())}
		if d.ValueType() == pmetric.NumberDataPointValueTypeInt {
			p.Value = float64(d.IntValue())
		}
		if d.Flags().NoRecordedValue() {
			p.Value = math.NaN()
		}
		if d.StartTimestamp() != 0 {
			p.Start = d.StartTimestamp().AsTime()
		}
		out = append(out, p)
	}
	return out
}
