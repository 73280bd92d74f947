// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"time"

	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

// maxPending bounds the spans that wait while what comes next refuses them.
const maxPending = 30_000

// tracesConnector makes a trace of each request.
type tracesConnector struct {
	*follower
	set     connector.Settings
	next    consumer.Traces
	pending spans // refused; they go with the next ones of their source
}

// spans are spans by the key of their source. A source with spans that are not
// handed on yet is in unsent, and is not stored.
type spans map[string]ptrace.Traces

func (all spans) count() (n int) {
	for _, td := range all {
		n += td.SpanCount()
	}
	return n
}

func newTracesConnector(cfg *Config, set connector.Settings, next consumer.Traces) (*tracesConnector, error) {
	f, err := newFollower(cfg, set, "traces", nil)
	if err != nil {
		return nil, err
	}
	return &tracesConnector{follower: f, set: set, next: next, pending: spans{}}, nil
}

// ConsumeLogs implements consumer.Logs. It returns when the spans of these logs
// were handed on: a slow exporter holds up the source of the logs that it is slow
// for, and no other one. An error says that the spans could not be handed on yet:
// they go with the next ones of the source, whether these are the same logs again
// or others.
func (c *tracesConnector) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.expire(now)
	batch := spans{}
	c.read(ld, now, func(s *source) {
		td, waited := c.pending[s.key]
		if !waited {
			if len(s.ended) == 0 {
				return
			}
			td = ptrace.NewTraces()
		}
		byInstance := map[*instance]ptrace.SpanSlice{}
		known := c.measured(ctx, s)
		for _, r := range s.ended {
			i := s.instance(r.Process)
			found, measured := known[r]
			measured = measured && traced(found)
			if measured && r.Slot < 0 {
				continue // the proxy's span says that it had no slot
			}
			to, ok := byInstance[i]
			if !ok {
				to = c.spansOf(s, i, td)
				byInstance[i] = to
			}
			if measured {
				c.slot(s, i, r, found, to)
			} else {
				c.trace(s, i, r, to)
			}
		}
		if td.ResourceSpans().Len() == 0 {
			return
		}
		if !waited {
			c.unsent[s.key]++
		}
		delete(c.pending, s.key)
		batch[s.key] = td
	})
	if err := c.send(ctx, batch); err != nil {
		if n := c.pending.count(); n > maxPending {
			c.log.Error("spans are lost: they have been refused for too long", zap.Int("spans", n), zap.Error(err))
			c.settle(c.pending)
			clear(c.pending)
		}
		return err
	}
	c.store(ctx)
	return nil
}

// Shutdown implements component.Component. What is still refused then is not
// stored as done: its logs may be read again.
func (c *tracesConnector) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	batch := c.pending
	c.pending = spans{}
	if err := c.send(ctx, batch); err != nil {
		c.log.Error("the exporter refuses spans at shutdown: they are lost unless their logs are read again", zap.Int("spans", c.pending.count()), zap.Error(err))
	}
	c.mu.Unlock()
	return c.follower.Shutdown(ctx)
}

// send hands spans on. They become pending if they are refused, unless for good.
// The caller holds mu, which send releases meanwhile: what comes next may be slow.
func (c *tracesConnector) send(ctx context.Context, batch spans) error {
	if len(batch) == 0 {
		return nil
	}
	// Copies: a consumer that refuses spans may have changed them, or made them
	// read-only.
	sent := ptrace.NewTraces()
	for _, td := range batch {
		for _, rs := range td.ResourceSpans().All() {
			rs.CopyTo(sent.ResourceSpans().AppendEmpty())
		}
	}
	c.mu.Unlock()
	err := c.next.ConsumeTraces(ctx, sent)
	c.mu.Lock()
	if err != nil && !consumererror.IsPermanent(err) {
		for key, td := range batch {
			if waiting, ok := c.pending[key]; ok {
				td.ResourceSpans().MoveAndAppendTo(waiting.ResourceSpans())
				c.unsent[key]--
			} else {
				c.pending[key] = td
			}
		}
		return err
	}
	if err != nil {
		c.log.Error("spans are lost: they were refused for good", zap.Int("spans", batch.count()), zap.Error(err))
	}
	c.settle(batch)
	return nil
}

// settle notes that spans wait no longer.
func (c *tracesConnector) settle(batch spans) {
	for key := range batch {
		if c.unsent[key]--; c.unsent[key] == 0 {
			delete(c.unsent, key)
		}
	}
}

// spansOf returns where the spans of an instance go.
func (c *tracesConnector) spansOf(s *source, i *instance, td ptrace.Traces) ptrace.SpanSlice {
	rs := td.ResourceSpans().AppendEmpty()
	c.resourceOf(s, i).CopyTo(rs.Resource())
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName(metadata.ScopeName)
	ss.Scope().SetVersion(c.set.BuildInfo.Version)
	return ss.Spans()
}

// spanIDs are those of one request's spans.
type spanIDs struct {
	trace                       pcommon.TraceID
	request, prompt, generation pcommon.SpanID
}

// newSpanIDs derives them from what tells a request from all others, so that
// metrics and traces agree on them, and a span that is made again after a
// restart replaces the first one. The name of the server would not be enough: by
// default it is the same on all hosts.
func newSpanIDs(s *source, r *requests.Request) spanIDs {
	b := append(make([]byte, 0, 256), s.key...)
	for _, n := range []int64{int64(r.Process.Child), int64(r.Process.Began), int64(r.Task), int64(r.Launched), int64(r.Ended)} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !r.Process.Clocked {
		b = binary.BigEndian.AppendUint64(b, uint64(r.Process.Wall.At(r.Launched).UnixNano()))
	}
	sum := sha512.Sum512(b)
	var ids spanIDs
	copy(ids.trace[:], sum[0:16])
	copy(ids.request[:], sum[16:24])
	copy(ids.prompt[:], sum[24:32])
	copy(ids.generation[:], sum[32:40])
	return ids
}

// traced reports whether a proxy makes a trace of a request.
func traced(p proxied.Request) bool { return !p.Trace.IsEmpty() && !p.Span.IsEmpty() }

// slot adds the span of a request to the trace of the proxy, whose span is the
// request's own, with prompt and generation below it.
func (c *tracesConnector) slot(s *source, i *instance, r *requests.Request, parent proxied.Request, to ptrace.SpanSlice) {
	span := to.AppendEmpty()
	span.SetTraceID(parent.Trace)
	span.SetSpanID(newSpanIDs(s, r).request)
	span.SetParentSpanID(parent.Span)
	span.SetKind(ptrace.SpanKindInternal)
	c.fill(s, i, r, span)
	if d, ok := waited(r, parent); ok {
		span.Attributes().PutDouble(queueDuration.name, d.Seconds())
	}
	span.SetName("slot")
	addProgress(r, span, span)
}

// trace adds the spans of a request.
func (c *tracesConnector) trace(s *source, i *instance, r *requests.Request, to ptrace.SpanSlice) {
	ids := newSpanIDs(s, r)
	request := to.AppendEmpty()
	request.SetTraceID(ids.trace)
	request.SetSpanID(ids.request)
	request.SetKind(ptrace.SpanKindServer)
	c.fill(s, i, r, request)

	prompt, generation := request, request
	if first, ok := r.FirstToken(); ok {
		child := func(id pcommon.SpanID, name string, from, until time.Duration) ptrace.Span {
			span := to.AppendEmpty()
			span.SetTraceID(ids.trace)
			span.SetSpanID(id)
			span.SetParentSpanID(ids.request)
			span.SetKind(ptrace.SpanKindInternal)
			span.SetName(name)
			span.SetStartTimestamp(at(r, from))
			span.SetEndTimestamp(at(r, until))
			return span
		}
		prompt = child(ids.prompt, "prompt", first-r.PromptTime, first)
		prompt.Attributes().PutInt("llamacpp.tokens", int64(r.Processed))
		if v, ok := r.PromptSpeed(); ok {
			prompt.Attributes().PutDouble("llamacpp.tokens_per_second", v)
		}
		generation = child(ids.generation, "generation", first, r.Reported)
		generation.Attributes().PutInt("llamacpp.tokens", int64(r.Generated))
		if v, ok := r.GenerationSpeed(); ok {
			generation.Attributes().PutDouble("llamacpp.tokens_per_second", v)
		}
	}
	addProgress(r, prompt, generation)
}

// at returns when the clock of the request's process showed clock.
func at(r *requests.Request, clock time.Duration) pcommon.Timestamp {
	return pcommon.NewTimestampFromTime(r.Process.Wall.At(clock))
}

// fill says on a span what the log says of the request.
func (c *tracesConnector) fill(s *source, i *instance, r *requests.Request, request ptrace.Span) {
	request.SetName(c.cfg.Operation)
	request.SetStartTimestamp(at(r, r.Launched))
	request.SetEndTimestamp(at(r, r.Ended))
	a := request.Attributes()
	a.PutStr(string(conventions.GenAIOperationNameKey), c.cfg.Operation)
	a.PutStr(string(conventions.GenAIProviderNameKey), provider)
	if name := c.modelName(s, i); name != "" {
		request.SetName(c.cfg.Operation + " " + name)
		a.PutStr(string(conventions.GenAIRequestModelKey), name)
	}
	a.PutStr("llamacpp.request.outcome", r.Outcome.String())
	if r.Task >= 0 {
		a.PutInt(attributeTask, int64(r.Task))
	}
	if r.Slot >= 0 {
		a.PutInt(attributeSlot, int64(r.Slot))
	}
	if r.Reason != "" {
		a.PutStr(string(conventions.ErrorTypeKey), r.Reason)
	}
	if r.Outcome == requests.Failed {
		request.Status().SetCode(ptrace.StatusCodeError)
		request.Status().SetMessage(r.Reason)
	}
	if n, ok := r.InputTokens(); ok {
		a.PutInt(string(conventions.GenAIUsageInputTokensKey), int64(n))
	}
	if r.Cached >= 0 {
		a.PutInt(string(conventions.GenAIUsageCacheReadInputTokensKey), int64(r.Cached))
	}
	if r.Generated >= 0 {
		a.PutInt(string(conventions.GenAIUsageOutputTokensKey), int64(r.Generated))
	}
	if r.Drafted > 0 {
		a.PutInt("llamacpp.draft.tokens", int64(r.Drafted))
		a.PutInt("llamacpp.draft.tokens.accepted", int64(r.Accepted))
	}
	if r.Truncated {
		a.PutBool("llamacpp.request.truncated", true)
	}
	if r.HasTimings {
		a.PutStr(timings.Attribute, timings.String(r.Processed, r.PromptTime, r.Generated, r.GenerationTime))
	}
	if _, ok := r.FirstToken(); ok {
		a.PutDouble(string(conventions.GenAIResponseTimeToFirstChunkKey), r.PromptTime.Seconds())
	}
}

// addProgress adds events about how far prompt and answer were.
func addProgress(r *requests.Request, prompt, generation ptrace.Span) {
	for _, p := range r.Progress {
		span, name := prompt, "prompt progress"
		if p.Generating {
			span, name = generation, "generation progress"
		}
		event := span.Events().AppendEmpty()
		event.SetName(name)
		event.SetTimestamp(at(r, p.Clock))
		event.Attributes().PutInt("llamacpp.tokens", int64(p.Tokens))
		if p.Part > 0 {
			event.Attributes().PutDouble("llamacpp.progress", p.Part)
		}
		if p.Speed > 0 {
			event.Attributes().PutDouble("llamacpp.tokens_per_second", p.Speed)
		}
	}
}
