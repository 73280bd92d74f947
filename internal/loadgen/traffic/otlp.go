// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"errors"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

var errNotJSON = errors.New("not JSON: is the line cut off? Remove it, if the file was being written; want JSON without compression")

// otlp reads lines of OTLP's JSON. Those of logs and metrics are skipped.
type otlp struct {
	window Window
	spans  []span
	slots  map[string]int32
	// logged are what the server's log knows of requests that came through a proxy, by
	// the id of the proxy's span.
	logged map[uint64]span
}

// span is the span of a request. Lengths that it lacks are -1.
type span struct {
	id                    uint64
	start                 int64 // nanoseconds of Unix time
	input, cached, output int32
	slot                  int32 // of all servers; -1 if it is unknown
	client                bool  // was recorded by the client, not by the server
}

func newOTLP(w Window) *otlp {
	return &otlp{window: w, slots: map[string]int32{}, logged: map[uint64]span{}}
}

func (p *otlp) line(b []byte) error {
	if !gjson.ValidBytes(b) {
		return errNotJSON
	}
	each(gjson.GetBytes(b, "resourceSpans"), func(rs gjson.Result) {
		instance := ""
		each(rs.Get("resource.attributes"), func(a gjson.Result) {
			if a.Get("key").Str == instanceID {
				instance = a.Get("value.stringValue").Str
			}
		})
		each(rs.Get("scopeSpans"), func(ss gjson.Result) {
			each(ss.Get("spans"), func(v gjson.Result) { p.span(v, instance) })
		})
	})
	return nil
}

func each(array gjson.Result, do func(gjson.Result)) {
	if array.IsArray() {
		array.ForEach(func(_, v gjson.Result) bool { do(v); return true })
	}
}

// Kinds of span in OTLP's JSON.
const (
	kindInternal = 1
	kindServer   = 2
	kindClient   = 3
)

// slotName is the name of the log's span below that of a proxy.
const slotName = "slot"

// span keeps a span if it is one of a request: of kind SERVER or CLIENT, and with
// the name of a GenAI operation.
func (p *otlp) span(v gjson.Result, instance string) {
	var (
		s          = span{input: -1, output: -1, slot: -1}
		kind       int64
		parent     uint64
		name       string
		attributes gjson.Result
	)
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "spanId":
			s.id, _ = strconv.ParseUint(v.Str, 16, 64) // 0 is none
		case "parentSpanId":
			parent, _ = strconv.ParseUint(v.Str, 16, 64)
		case "name":
			name = v.Str
		case "kind":
			kind = v.Int()
		case "startTimeUnixNano":
			s.start = v.Int()
		case "attributes":
			attributes = v
		}
		return true
	})
	if kind == kindInternal && name == slotName && parent != 0 && s.read(attributes, p.slots, instance) {
		p.logged[parent] = s
		return
	}
	s.client = kind == kindClient
	if (s.client || kind == kindServer) && s.start > 0 && s.read(attributes, p.slots, instance) {
		p.spans = append(p.spans, s)
	}
}

// Attributes of the semantic conventions, and the one of connector llamacpplog that
// names the server's slot.
const (
	instanceID  = "service.instance.id"
	operation   = "gen_ai.operation.name"
	usageInput  = "gen_ai.usage.input_tokens"
	usageOutput = "gen_ai.usage.output_tokens"
	usageCached = "gen_ai.usage.cache_read.input_tokens"
	slotID      = "llamacpp.slot.id"
)

// read reads the attributes of a span, and reports whether it is that of a request.
func (s *span) read(attributes gjson.Result, slots map[string]int32, instance string) (request bool) {
	each(attributes, func(a gjson.Result) {
		switch a.Get("key").Str {
		case operation:
			switch a.Get("value.stringValue").Str {
			case "chat", "text_completion", "generate_content":
				request = true
			}
		case usageInput:
			s.input = tokens(a.Get("value.intValue"))
		case usageOutput:
			s.output = tokens(a.Get("value.intValue"))
		case usageCached:
			s.cached = max(0, tokens(a.Get("value.intValue")))
		case slotID:
			key := instance + " " + a.Get("value.intValue").String()
			if _, ok := slots[key]; !ok {
				slots[key] = int32(len(slots))
			}
			s.slot = slots[key]
		}
	})
	return request
}

func (p *otlp) end() (*Recording, error) {
	spans := p.spans
	p.spans = nil
	for i := range spans {
		if logged, ok := p.logged[spans[i].id]; ok {
			spans[i].take(logged)
		}
	}
	// Where server and clients recorded the same requests, the server knows more.
	if slices.ContainsFunc(spans, func(s span) bool { return !s.client }) {
		spans = slices.DeleteFunc(spans, func(s span) bool { return s.client })
	}
	// A span that was made again after a restart has the same id.
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.id, b.id) })
	spans = slices.CompactFunc(spans, func(a, b span) bool { return a.id == b.id && a.id != 0 })
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })

	l := linker{rec: &Recording{Format: OTLP}, slots: make([]content, len(p.slots))}
	for i := range l.slots {
		l.slots[i].last = -1
	}
	for _, s := range spans {
		due := time.Duration(s.start - spans[0].start)
		if !p.window.has(due) {
			continue
		}
		if s.input < 1 || s.output < 0 {
			l.rec.LeftOut++
			if s.slot >= 0 {
				l.slots[s.slot].newer = true
			}
			continue
		}
		l.add(Request{
			Due: due - p.window.From, Input: s.input, Cached: min(s.cached, s.input), Output: max(1, s.output),
		}, s.slot)
	}
	return l.rec, nil
}

// take takes from the log's span what the proxy's lacks.
func (s *span) take(logged span) {
	s.slot = logged.slot
	if s.input < 0 || s.output < 0 { // its client left
		s.input, s.cached, s.output = logged.input, logged.cached, logged.output
	}
}

// linker finds out whose prompt the cached tokens of a request came from.
// llama-server keeps in each slot the prompt and answer of its last request, and in
// memory those of earlier ones. So they came from the last request in the same
// slot, if that had as many tokens, else from the last anywhere that had.
type linker struct {
	rec   *Recording
	slots []content
	// tall are the requests that no later one is as long as: from the longest to the
	// last.
	tall []int32
}

// content is what a slot holds.
type content struct {
	last int32 // request; -1 is none
	// newer reports whether the slot has had another request since, whose lengths are
	// unknown. Whatever it had in common with the next, it had from last at best.
	newer bool
}

func (l *linker) add(q Request, slot int32) {
	n := int32(len(l.rec.Requests))
	from := int32(-1)
	if q.Cached > 0 {
		from = l.from(q.Cached, slot)
	}
	l.rec.add(q, from, q.Cached)
	if slot >= 0 {
		l.slots[slot] = content{last: n}
	}
	for len(l.tall) > 0 && l.whole(l.tall[len(l.tall)-1]) <= q.whole() {
		l.tall = l.tall[:len(l.tall)-1]
	}
	l.tall = append(l.tall, n)
}

func (l *linker) whole(n int32) int32 { return l.rec.Requests[n].whole() }

func (l *linker) from(cached, slot int32) int32 {
	if slot >= 0 {
		if s := l.slots[slot]; s.last >= 0 && (s.newer || l.whole(s.last) >= cached) {
			return s.last
		}
	}
	if i := sort.Search(len(l.tall), func(i int) bool { return l.whole(l.tall[i]) < cached }); i > 0 {
		return l.tall[i-1]
	}
	if len(l.tall) > 0 {
		return l.tall[0] // the longest, though not long enough
	}
	return -1
}
