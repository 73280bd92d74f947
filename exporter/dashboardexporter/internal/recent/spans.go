// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"

import (
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

// span is a request, and what joins it with the other span of the same request.
type span struct {
	Request
	timings string
	parent  string // the id of the client's span
}

// slot is what the server's log says of a request that came through the proxy.
type slot struct {
	of                        string // the id of the proxy's span
	id, task                  int64
	start                     int64
	prompt, cached, generated int64 // 0 if it is not known
	wait                      *float64
}

func readSlot(s ptrace.Span) (one slot, ok bool) {
	a := attributes{s.Attributes()}
	one = slot{of: s.ParentSpanID().String(), id: a.number(-1, "llamacpp.slot.id"), task: a.number(-1, "llamacpp.task.id"), start: milliseconds(s.StartTimestamp())}
	one.prompt, one.cached, one.generated = a.tokens()
	if wait, ok := a.seconds("llamacpp.request.queue.duration"); ok {
		one.wait = &wait
	}
	return one, one.id >= 0
}

// starts are when the parts of a request began, 0 if that is not known.
type starts struct{ prompt, generation pcommon.Timestamp }

// read returns the requests among spans, and what the log says of others.
//
// The connector llamacpplog makes a SERVER span of each request, with the parts
// prompt and generation as children, and the load generator a CLIENT span. The
// receiver llamaproxy makes a SERVER span, too: then that of the log is its child
// and is called slot. Others that follow the conventions for GenAI are read as far
// as they go: those of tools and agents are no requests to a model.
func read(td ptrace.Traces) (all []span, slots []slot) {
	parts := map[pcommon.SpanID]starts{} // by the parent
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				if s.Kind() != ptrace.SpanKindInternal || s.ParentSpanID().IsEmpty() {
					continue
				}
				of := parts[s.ParentSpanID()]
				switch s.Name() {
				case "prompt":
					of.prompt = s.StartTimestamp()
				case "generation":
					of.generation = s.StartTimestamp()
				case "slot":
					if one, ok := readSlot(s); ok {
						slots = append(slots, one)
					}
					continue
				default:
					continue
				}
				parts[s.ParentSpanID()] = of
			}
		}
	}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			proxied := strings.HasSuffix(ss.Scope().Name(), "/llamaproxyreceiver")
			for _, s := range ss.Spans().All() {
				r, ok := readSpan(rs.Resource().Attributes(), s, parts[s.SpanID()].generation)
				if !ok {
					continue
				}
				if proxied && !r.Client {
					r.proxied(s, parts[s.SpanID()].prompt)
				}
				all = append(all, r)
			}
		}
	}
	return all, slots
}

// proxied reads what the proxy knows besides. prompt is when the server began with
// the prompt, 0 if that is not known.
func (r *span) proxied(s ptrace.Span, prompt pcommon.Timestamp) {
	a := attributes{s.Attributes()}
	r.Proxied = true
	r.ClientName = cut(a.text("llamacpp.client.name"), maxName)
	wait, ok := a.seconds("llamacpp.request.queue.duration")
	if !ok {
		return
	}
	r.Wait = &wait
	if prompt < s.StartTimestamp() || prompt > s.EndTimestamp() {
		prompt = min(s.StartTimestamp()+pcommon.Timestamp(wait*1e9), s.EndTimestamp())
	}
	began := milliseconds(prompt)
	r.Began = &began
}

// readSpan reads one span. generation is when its child of that name began, 0 if
// it has none.
func readSpan(resource pcommon.Map, s ptrace.Span, generation pcommon.Timestamp) (r span, ok bool) {
	a := attributes{s.Attributes()}
	if s.Kind() != ptrace.SpanKindServer && s.Kind() != ptrace.SpanKindClient || !a.ofRequest() ||
		s.SpanID().IsEmpty() || s.StartTimestamp() == 0 || s.EndTimestamp() < s.StartTimestamp() {
		return r, false
	}
	r.Client = s.Kind() == ptrace.SpanKindClient
	r.ID = s.SpanID().String()
	r.Trace = s.TraceID().String()
	r.Server = cut(serverOf(attributes{resource}, a, r.Client), maxName)
	r.Model = cut(a.text("gen_ai.response.model", "gen_ai.request.model"), maxName)
	r.Slot, r.Task = a.number(-1, "llamacpp.slot.id"), a.number(-1, "llamacpp.task.id")
	r.Start, r.End = milliseconds(s.StartTimestamp()), milliseconds(s.EndTimestamp())
	r.Duration = seconds(s.StartTimestamp(), s.EndTimestamp())
	r.Outcome, r.Error = outcomeOf(a, s.Status())
	r.Prompt, r.Cached, r.Generated = a.tokens()
	if n := a.number(-1, "llamacpp.draft.tokens"); n >= 0 {
		accepted := a.number(0, "llamacpp.draft.tokens.accepted")
		r.Drafted, r.Accepted = &n, &accepted
	}
	if v, ok := a.seconds("loadgen.server.queue.duration"); ok {
		r.Wait = &v
	}
	r.timings = a.text(timings.Attribute)
	if parent := s.ParentSpanID(); !r.Client && !parent.IsEmpty() {
		r.parent = parent.String()
	}
	r.first(s, a, generation)
	return r, true
}

// first says when the first token came, by the most exact of what there is.
func (r *span) first(s ptrace.Span, a attributes, generation pcommon.Timestamp) {
	ttft, ok := a.seconds("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token", "gen_ai.latency.time_to_first_token")
	at := generation
	for _, e := range s.Events().All() {
		// The first chunk, which the load generator notes as well, may be without text.
		if e.Name() == "loadgen.first_token" {
			at, ok = e.Timestamp(), false
			break
		}
	}
	if at < s.StartTimestamp() || at > s.EndTimestamp() {
		at = 0
	}
	switch {
	case at != 0 && !ok:
		ttft = seconds(s.StartTimestamp(), at)
	case at == 0 && ok && ttft <= r.Duration:
		at = s.StartTimestamp() + pcommon.Timestamp(ttft*1e9)
	case !ok:
		return
	}
	r.TTFT = &ttft
	if at != 0 {
		first := milliseconds(at)
		r.First = &first
	}
}

// serverOf returns the server of a request. For its own span that is the resource;
// a client's names the server among its attributes.
func serverOf(resource, a attributes, client bool) string {
	address := func(from attributes) string {
		host := from.text("server.address")
		if port := from.number(0, "server.port"); port > 0 && host != "" {
			return net.JoinHostPort(host, strconv.FormatInt(port, 10))
		}
		return host
	}
	candidates := []string{resource.text("service.instance.id"), address(resource), address(a), resource.text("service.name")}
	if client {
		candidates = []string{address(a), resource.text("service.name"), resource.text("service.instance.id")}
	}
	for _, c := range candidates {
		if c != "" {
			return c
		}
	}
	return unknown
}

// outcomeOf returns how a request ended, and why.
func outcomeOf(a attributes, status ptrace.Status) (outcome, reason string) {
	reason = a.text("error.type")
	if reason == "" && status.Code() == ptrace.StatusCodeError {
		reason = status.Message()
	}
	reason = cut(reason, maxError)
	switch outcome = a.text("llamacpp.request.outcome"); outcome {
	case completed, cancelled, rejected, failed, unknown:
		return outcome, reason
	}
	code := a.number(0, "http.response.status_code")
	if n, err := strconv.ParseInt(reason, 10, 64); err == nil {
		code = n // the conventions have the status as the type of the error
	}
	switch {
	case a.text("loadgen.outcome") == cancelled || reason == cancelled:
		return cancelled, reason
	case code >= 400 && code < 500:
		return rejected, reason
	case reason != "" || status.Code() == ptrace.StatusCodeError || code >= 500:
		return failed, reason
	}
	return completed, ""
}

// attributes reads attributes whatever their type is.
type attributes struct{ pcommon.Map }

// ofRequest reports whether they are those of a request to a model.
func (a attributes) ofRequest() bool {
	switch a.text("gen_ai.operation.name") {
	case "chat", "text_completion", "generate_content", "embeddings":
		return true
	case "": // some servers do not name it
		return a.text("gen_ai.request.model", "gen_ai.response.model", "llamacpp.request.outcome") != ""
	}
	return false
}

// text returns the first attribute that is there, or "".
func (a attributes) text(keys ...string) string {
	for _, k := range keys {
		if v, ok := a.Get(k); ok {
			if s := v.AsString(); s != "" {
				return s
			}
		}
	}
	return ""
}

// number returns the first attribute that is a whole number from 0, or fallback.
func (a attributes) number(fallback int64, keys ...string) int64 {
	for _, k := range keys {
		if f, ok := a.float(k); ok && f >= 0 && f < 1<<53 {
			return int64(f)
		}
	}
	return fallback
}

// tokens returns those of the prompt, those of it that were cached, and those of the
// answer; 0 if it is not known.
func (a attributes) tokens() (prompt, cached, generated int64) {
	return a.number(0, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"), a.number(0, "gen_ai.usage.cache_read.input_tokens"),
		a.number(0, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
}

// seconds returns the first attribute that is a number of seconds from 0.
func (a attributes) seconds(keys ...string) (float64, bool) {
	const most = 1e7 // months: anything longer is no duration of a request
	for _, k := range keys {
		if f, ok := a.float(k); ok && f >= 0 && f <= most {
			return f, true
		}
	}
	return 0, false
}

func (a attributes) float(key string) (float64, bool) {
	v, ok := a.Get(key)
	if !ok {
		return 0, false
	}
	switch v.Type() {
	case pcommon.ValueTypeInt:
		return float64(v.Int()), true
	case pcommon.ValueTypeDouble:
		return v.Double(), true
	case pcommon.ValueTypeStr:
		f, err := strconv.ParseFloat(v.Str(), 64)
		return f, err == nil
	}
	return 0, false
}

func milliseconds(t pcommon.Timestamp) int64 { return int64(t / 1e6) }

func seconds(from, to pcommon.Timestamp) float64 { return float64(to-from) / 1e9 }
