// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"
)

const (
	// maxPending is how many requests may wait for their spans to be sent.
	maxPending = 8192
	// batchTime is how long a request waits for others, to be sent with them.
	batchTime = 200 * time.Millisecond
	// retryFor is how long spans are sent again that were refused.
	retryFor, retryAfter = 5 * time.Second, 250 * time.Millisecond
)

// tracesOutput makes a span of each completion, with its parts.
type tracesOutput struct {
	set  receiver.Settings
	next consumer.Traces

	hub     *hub
	pending chan *measured
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func newTracesOutput(set receiver.Settings, next consumer.Traces) *tracesOutput {
	return &tracesOutput{set: set, next: next, pending: make(chan *measured, maxPending)}
}

func (o *tracesOutput) start(h *hub) {
	o.hub = h
	h.traces.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.done.Go(func() {
		for m := range o.pending {
			o.send(ctx, o.batch(m))
		}
	})
}

func (o *tracesOutput) stop(context.Context) {
	close(o.pending)
	late := time.AfterFunc(lastSend, o.cancel)
	o.done.Wait()
	late.Stop()
	o.cancel()
}

func (o *tracesOutput) ended(m *measured) {
	if !m.Completion || !m.sampled {
		return
	}
	select {
	case o.pending <- m:
	default:
		o.hub.dropped.Add(int64(spansOf(m)))
	}
}

// batch collects what ends soon after a first request.
func (o *tracesOutput) batch(first *measured) []*measured {
	all := []*measured{first}
	full := time.NewTimer(batchTime)
	defer full.Stop()
	for len(all) < cap(o.pending)/8 {
		select {
		case m, ok := <-o.pending:
			if !ok {
				return all
			}
			all = append(all, m)
		case <-full.C:
			return all
		}
	}
	return all
}

// send hands the spans of a batch on, again if they are refused.
func (o *tracesOutput) send(ctx context.Context, batch []*measured) {
	began := time.Now()
	for {
		td := o.spans(batch)
		err := o.next.ConsumeTraces(ctx, td)
		if err == nil {
			return
		}
		if consumererror.IsPermanent(err) || ctx.Err() != nil || time.Since(began) > retryFor {
			n := 0
			for _, m := range batch {
				n += spansOf(m)
			}
			o.hub.dropped.Add(int64(n))
			o.set.Logger.Warn("spans are lost: they were refused", zap.Int("spans", n), zap.Error(err))
			return
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
		}
	}
}

// spans makes the spans of a batch.
func (o *tracesOutput) spans(batch []*measured) ptrace.Traces {
	td := ptrace.NewTraces()
	byInstance := map[string]ptrace.SpanSlice{}
	for _, m := range batch {
		to, ok := byInstance[m.instance]
		if !ok {
			rs := td.ResourceSpans().AppendEmpty()
			o.hub.resourceOf(m.instance, o.hub.cfg.ResourceAttributes).MoveTo(rs.Resource())
			ss := rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName(metadata.ScopeName)
			ss.Scope().SetVersion(o.set.BuildInfo.Version)
			to = ss.Spans()
			byInstance[m.instance] = to
		}
		m.spans(to)
	}
	return td
}

// part is a child of a request's span.
type part struct {
	name        string
	from, until time.Time
	tokens      int // -1 where there are none
}

// parts are what a request's time was spent on, as far as that is known.
func (m *measured) parts() []part {
	first, ok := m.FirstToken()
	if !ok {
		return nil
	}
	r := &m.Result
	last := r.LastToken
	if last.IsZero() { // it was not streamed
		last = r.End
	}
	generation := part{"generation", first, last, r.OutputTokens}
	waited, ok := m.Waited()
	if !ok {
		return []part{generation}
	}
	began := m.Arrived.Add(waited)
	return []part{{"queue", m.Arrived, began, -1}, {"prompt", began, first, r.Timings.PromptTokens}, generation}
}

// spansOf returns the number of spans of a request.
func spansOf(m *measured) int { return 1 + len(m.parts()) }

// spans appends the spans of a request.
func (m *measured) spans(to ptrace.SpanSlice) {
	s := to.AppendEmpty()
	s.SetTraceID(m.trace)
	s.SetSpanID(m.span)
	s.SetFlags(spanFlags(trace.FlagsSampled, false))
	if m.parent.IsValid() {
		s.SetParentSpanID(pcommon.SpanID(m.parent.SpanID()))
		s.TraceState().FromRaw(m.parent.TraceState().String())
		s.SetFlags(spanFlags(m.parent.TraceFlags(), true))
	}
	s.SetKind(ptrace.SpanKindServer)
	s.SetName(strings.TrimSuffix(operation(m.Endpoint)+" "+m.model, " "))
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(m.Arrived))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(m.Result.End))
	m.describe(s.Attributes())
	if m.Outcome == proxy.Failed {
		s.Status().SetCode(ptrace.StatusCodeError)
		s.Status().SetMessage(m.ErrorType)
	}
	for i, p := range m.parts() {
		child := to.AppendEmpty()
		child.SetTraceID(m.trace)
		id := m.span // the same when it is sent again
		id[len(id)-1] ^= byte(i + 1)
		child.SetSpanID(id)
		child.SetParentSpanID(m.span)
		child.SetKind(ptrace.SpanKindInternal)
		child.SetName(p.name)
		child.SetStartTimestamp(pcommon.NewTimestampFromTime(p.from))
		child.SetEndTimestamp(pcommon.NewTimestampFromTime(p.until))
		if p.tokens >= 0 {
			child.Attributes().PutInt("llamacpp.tokens", int64(p.tokens))
		}
	}
}

// spanFlags are OTLP's: those of the trace, and whether the parent is in another process.
func spanFlags(f trace.TraceFlags, remote bool) uint32 {
	const hasRemote, isRemote = 0x100, 0x200
	flags := uint32(f) | hasRemote
	if remote {
		flags |= isRemote
	}
	return flags
}

// describe adds the attributes of a request's span.
func (m *measured) describe(a pcommon.Map) {
	r := &m.Result
	text := func(key, value string) {
		if value != "" {
			a.PutStr(key, value)
		}
	}
	number := func(key string, n int) {
		if n >= 0 {
			a.PutInt(key, int64(n))
		}
	}
	text(string(conventions.GenAIOperationNameKey), operation(m.Endpoint))
	text(string(conventions.GenAIProviderNameKey), provider)
	text(string(conventions.GenAIRequestModelKey), m.model)
	text(string(conventions.GenAIResponseModelKey), r.Model)
	text(string(conventions.GenAIResponseIDKey), r.ID)
	text(string(conventions.HTTPRequestMethodKey), m.Method)
	text(string(conventions.HTTPRouteKey), m.Route)
	text(string(conventions.ErrorTypeKey), m.ErrorType)
	text("llamacpp.request.outcome", m.Outcome.String())
	text(attributeClient, m.client)
	if m.Status > 0 {
		number(string(conventions.HTTPResponseStatusCodeKey), m.Status)
	}
	if r.FinishReason != "" {
		a.PutEmptySlice(string(conventions.GenAIResponseFinishReasonsKey)).AppendEmpty().SetStr(r.FinishReason)
	}
	number(string(conventions.GenAIUsageInputTokensKey), r.InputTokens)
	number(string(conventions.GenAIUsageCacheReadInputTokensKey), r.CachedTokens)
	number(string(conventions.GenAIUsageOutputTokensKey), r.OutputTokens)
	number(string(conventions.GenAIUsageReasoningOutputTokensKey), r.ReasoningTokens)
	a.PutBool(string(conventions.GenAIRequestStreamKey), m.Streamed)
	if first, ok := m.FirstToken(); ok {
		a.PutDouble(string(conventions.GenAIResponseTimeToFirstChunkKey), first.Sub(m.Arrived).Seconds())
	}
	if d, ok := m.Waited(); ok {
		a.PutDouble(queueDuration.name, d.Seconds())
	}
	if m.LongestGap > 0 {
		a.PutDouble(stallDuration.name, m.LongestGap.Seconds())
	}
	if t := r.Timings; t != nil {
		text(timings.Attribute, timings.String(t.PromptTokens, t.Prompt, t.PredictedTokens, t.Predicted))
		if t.DraftTokens > 0 {
			number("llamacpp.draft.tokens", t.DraftTokens)
			number("llamacpp.draft.tokens.accepted", t.DraftAccepted)
		}
	}
}
