// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	conventions "go.opentelemetry.io/otel/semconv/v1.41.0" // the last with those of GenAI

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// instruments are the synchronous instruments of one run.
type instruments struct {
	operationDuration, timeToFirstChunk, timePerOutputChunk, tokenUsage                   metric.Float64Histogram
	requestDuration, timeToFirstToken, timeToFirstAnswer, timePerOutputToken, scheduleLag metric.Float64Histogram
	serverQueue, serverPrompt, serverPrediction                                           metric.Float64Histogram
	requests, goodput, tokens                                                             metric.Int64Counter
}

func (i *instruments) init(m metric.Meter, r *Run) error {
	var errs []error
	for _, h := range []struct {
		to *metric.Float64Histogram
		of distribution
	}{
		{&i.operationDuration, operationDuration},
		{&i.timeToFirstChunk, timeToFirstChunk},
		{&i.timePerOutputChunk, timePerOutputChunk},
		{&i.tokenUsage, tokenUsage},
		{&i.requestDuration, requestDuration},
		{&i.timeToFirstToken, timeToFirstToken},
		{&i.timeToFirstAnswer, timeToFirstAnswer},
		{&i.timePerOutputToken, timePerOutputToken},
		{&i.scheduleLag, scheduleLag},
		{&i.serverQueue, serverQueue},
		{&i.serverPrompt, serverPrompt},
		{&i.serverPrediction, serverPrediction},
	} {
		var err error
		*h.to, err = m.Float64Histogram(h.of.name, metric.WithUnit(h.of.unit), metric.WithDescription(h.of.description),
			metric.WithExplicitBucketBoundaries(h.of.bounds...))
		errs = append(errs, err)
	}
	for _, c := range []struct {
		to *metric.Int64Counter
		of instrument
	}{{&i.requests, requests}, {&i.goodput, goodput}, {&i.tokens, tokensTotal}} {
		var err error
		*c.to, err = m.Int64Counter(c.of.name, metric.WithUnit(c.of.unit), metric.WithDescription(c.of.description))
		errs = append(errs, err)
	}
	common := metric.WithAttributeSet(attribute.NewSet(r.settings.common()...))
	_, err := m.Int64ObservableUpDownCounter(requestsInFlight.name, metric.WithUnit(requestsInFlight.unit), metric.WithDescription(requestsInFlight.description),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(r.settings.InFlight()), common)
			return nil
		}))
	errs = append(errs, err)
	_, err = m.Float64ObservableGauge(rateTarget.name, metric.WithUnit(rateTarget.unit), metric.WithDescription(rateTarget.description),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			if rate, ok := r.settings.Rate(); ok {
				o.Observe(rate, common)
			}
			return nil
		}))
	return errors.Join(append(errs, err)...)
}

// record records the parts of a request that were reached, if it was sent. The
// context holds its span, so that exemplars refer to it.
func (i *instruments) record(ctx context.Context, s *set, o *completion.Result) {
	if o.Sent.IsZero() {
		return
	}
	i.scheduleLag.Record(ctx, o.Sent.Sub(o.Due).Seconds(), s.record...)
	i.operationDuration.Record(ctx, o.End.Sub(o.Sent).Seconds(), s.record...)
	i.requestDuration.Record(ctx, o.End.Sub(o.Due).Seconds(), s.record...)
	if !o.FirstChunk.IsZero() {
		i.timeToFirstChunk.Record(ctx, o.FirstChunk.Sub(o.Sent).Seconds(), s.record...)
	}
	if d, ok := o.TTFT(o.Due); ok {
		i.timeToFirstToken.Record(ctx, d.Seconds(), s.record...)
	}
	if !o.FirstAnswer.IsZero() {
		i.timeToFirstAnswer.Record(ctx, o.FirstAnswer.Sub(o.Due).Seconds(), s.record...)
	}
	for _, gap := range o.Gaps {
		i.timePerOutputChunk.Record(ctx, gap.Seconds(), s.record...)
	}
	if d, ok := o.TPOT(); ok {
		i.timePerOutputToken.Record(ctx, d.Seconds(), s.record...)
	}
	if n := o.InputTokens; n >= 0 {
		i.tokenUsage.Record(ctx, float64(n), s.recordInput...)
		i.tokens.Add(ctx, int64(n), s.addInput...)
	}
	if n := o.OutputTokens; n >= 0 {
		i.tokenUsage.Record(ctx, float64(n), s.recordOutput...)
		i.tokens.Add(ctx, int64(n), s.addOutput...)
	}
	if n := o.CachedTokens; n >= 0 {
		i.tokens.Add(ctx, int64(n), s.addCached...)
	}
	if t := o.Timings; t != nil {
		i.serverQueue.Record(ctx, queue(o).Seconds(), s.record...)
		i.serverPrompt.Record(ctx, t.Prompt.Seconds(), s.record...)
		i.serverPrediction.Record(ctx, t.Predicted.Seconds(), s.record...)
	}
}

// queue returns the part of a request's time that the server's timings do not
// cover.
func queue(o *completion.Result) time.Duration {
	return max(0, o.End.Sub(o.Sent)-o.Timings.Prompt-o.Timings.Predicted)
}

// set holds the attributes of requests with the same answer. They are prepared
// once, so that recording allocates nothing.
type set struct {
	attributes                          []attribute.KeyValue // of spans
	record, recordInput, recordOutput   []metric.RecordOption
	addInput, addOutput, addCached, slo []metric.AddOption
	outcome                             [completion.Dropped + 1][]metric.AddOption
}

// sets holds one set for each distinct answer.
type sets struct {
	settings Settings

	mu sync.Mutex
	of map[answer]*set
}

// answer is the part of a result that becomes attributes.
type answer struct{ model, errorType string }

// mostAnswers bounds the series that a server can create by answering with many
// model names. Beyond it, the model is left out.
const mostAnswers = 200

func (s *sets) get(o *completion.Result) *set {
	a := answer{o.Model, o.ErrorType}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.of[a]; ok {
		return known
	}
	if len(s.of) >= mostAnswers {
		a.model = ""
	}
	if s.of == nil {
		s.of = map[answer]*set{}
	}
	s.of[a] = s.settings.prepare(a)
	return s.of[a]
}

func (s *Settings) prepare(a answer) *set {
	base := s.common()
	if a.model != "" {
		base = append(base, conventions.GenAIResponseModel(a.model))
	}
	if a.errorType != "" {
		base = append(base, conventions.ErrorTypeKey.String(a.errorType))
	}
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(base[:len(base):len(base)], more...)...))
	}
	p := &set{
		attributes:   base,
		record:       []metric.RecordOption{with()},
		recordInput:  []metric.RecordOption{with(typeInput)},
		recordOutput: []metric.RecordOption{with(typeOutput)},
		addInput:     []metric.AddOption{with(typeInput)},
		addOutput:    []metric.AddOption{with(typeOutput)},
		addCached:    []metric.AddOption{with(typeCached)},
		slo:          []metric.AddOption{with(sloKey.String(s.Objective))},
	}
	for o := range p.outcome {
		p.outcome[o] = []metric.AddOption{with(outcomeKey.String(completion.Outcome(o).String()))}
	}
	return p
}

// common returns the attributes that all measurements of a run have.
func (s *Settings) common() []attribute.KeyValue {
	all := []attribute.KeyValue{
		conventions.GenAIOperationNameKey.String(operation(s.Endpoint)),
		conventions.GenAIProviderNameKey.String(s.Provider),
		conventions.ServerAddress(s.Address),
		conventions.ServerPort(int(s.Port)),
		profileKey.String(s.Profile),
	}
	if s.Model != "" {
		all = append(all, conventions.GenAIRequestModel(s.Model))
	}
	return all
}

// operation returns the conventions' operation name for an endpoint.
func operation(e completion.Endpoint) string {
	switch e {
	case completion.Completions, completion.Native:
		return "text_completion"
	case completion.Embeddings:
		return "embeddings"
	}
	return "chat"
}
