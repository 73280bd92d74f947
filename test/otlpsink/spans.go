// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package otlpsink

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Span is one span.
type Span struct {
	TraceID, ID string
	// Parent is empty where there is none.
	Parent string
	// Name, Kind ("Server") and Status ("Unset") are as text.
	Name, Kind, Status string
	Start, End         time.Time
	Events             []SpanEvent
	// Arrived is when the sink got it.
	Arrived time.Time
	// Attributes and Resource are as text.
	Attributes, Resource map[string]string
}

// SpanEvent is an event of a span.
type SpanEvent struct {
	Name       string
	Time       time.Time
	Attributes map[string]string
}

// MatchSpan chooses spans.
type MatchSpan func(Span) bool

// Kind chooses by the kind, such as "Server".
func Kind(kind string) MatchSpan { return func(s Span) bool { return s.Kind == kind } }

// SpanWith chooses by an attribute of the span.
func SpanWith(key, value string) MatchSpan {
	return func(s Span) bool { v, ok := s.Attributes[key]; return ok && v == value }
}

// Spans are spans in the order in which they arrived.
type Spans []Span

// Where are those spans that match.
func (ss Spans) Where(match ...MatchSpan) Spans {
	var out Spans
	for _, s := range ss {
		if !slices.ContainsFunc(match, func(m MatchSpan) bool { return !m(s) }) {
			out = append(out, s)
		}
	}
	return out
}

// Children are the spans below one, by name.
func (ss Spans) Children(of Span) map[string]Span {
	out := map[string]Span{}
	for _, s := range ss {
		if s.TraceID == of.TraceID && s.Parent == of.ID {
			out[s.Name] = s
		}
	}
	return out
}

// Describe lists the spans.
func (ss Spans) Describe() string {
	var b strings.Builder
	for i, s := range ss {
		if i == 200 {
			fmt.Fprintf(&b, "and %d more\n", len(ss)-i)
			break
		}
		fmt.Fprintf(&b, "%s %s %s %q %s +%s %v\n", s.Resource["service.instance.id"], s.TraceID[:8], s.Kind, s.Name, clock(s.Start), s.End.Sub(s.Start), s.Attributes)
	}
	return b.String()
}

func readSpans(td ptrace.Traces, arrived time.Time) Spans {
	var out Spans
	for _, rs := range td.ResourceSpans().All() {
		resource := texts(rs.Resource().Attributes())
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				span := Span{
					TraceID: s.TraceID().String(), ID: s.SpanID().String(), Parent: s.ParentSpanID().String(),
					Name: s.Name(), Kind: s.Kind().String(), Status: s.Status().Code().String(),
					Start: s.StartTimestamp().AsTime(), End: s.EndTimestamp().AsTime(),
					Arrived: arrived, Attributes: texts(s.Attributes()), Resource: resource,
				}
				for _, e := range s.Events().All() {
					span.Events = append(span.Events, SpanEvent{e.Name(), e.Timestamp().AsTime(), texts(e.Attributes())})
				}
				out = append(out, span)
			}
		}
	}
	return out
}
