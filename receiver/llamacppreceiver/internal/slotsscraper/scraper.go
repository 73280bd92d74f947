package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper/scrapererror"
	"go.uber.org/multierr"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/livecount"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/stale"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

// Server is what the scraper needs of a watch.Server.
type Server interface {
	LookAtSlots(ctx context.Context, always bool, interval, patience time.Duration) []watch.SlotsView
}

// Scraper turns looks at a server's slots into metrics.
type Scraper struct {
	server    Server
	identity  *identity.Server
	cfg       Config
	log       *zap.Logger
	mb        *metadata.MetricsBuilder
	scope     pcommon.InstrumentationScope
	gap       time.Duration        // the longest time between two looks over which durations are estimated
	bySlot    bool                 // a metric with a series for each slot is enabled
	instances map[string]*instance // by model, "" for the server itself
	warned    bool
}

// instance is what is remembered of the server, or of one model of a router,
// from look to look.
type instance struct {
	stream    watch.Stream
	snapshot  *watch.Snapshot // the last one taken in; nil without /metrics
	decoded   livecount.Counter
	processed livecount.Counter
	requests  requests
	context   int64 // of all slots together, in tokens
	slots     int64
	buffer    []livecount.Request
	free      []llamaserver.Slot // all slots, when none holds a request
	shown     *shown             // nil where nothing is
}

// shown is what the slots held in the last scrape that knew it.
type shown struct {
	slots    []llamaserver.Slot
	resource pcommon.Resource
}

// without returns the busy slots of which next shows less: no request, or one of
// which less is known.
func (s *shown) without(next *shown) (ending []llamaserver.Slot) {
	for _, slot := range s.slots {
		if !slot.Busy {
			continue
		}
		i := slices.IndexFunc(next.slots, func(n llamaserver.Slot) bool { return n.Busy && n.ID == slot.ID })
		if i < 0 || lacks(next.slots[i].Decoded, slot.Decoded) || lacks(next.slots[i].Remaining, slot.Remaining) || lacks(next.slots[i].Tokens, slot.Tokens) ||
			lacks(next.slots[i].Processed, slot.Processed) || lacks(next.slots[i].Task, slot.Task) {
			ending = append(ending, slot)
		}
	}
	return ending
}

// gone returns the slots that next does not have: the server has started again
// with fewer.
func (s *shown) gone(next *shown) (gone []llamaserver.Slot) {
	for _, slot := range s.slots {
		if !slices.ContainsFunc(next.slots, func(n llamaserver.Slot) bool { return n.ID == slot.ID }) {
			gone = append(gone, slot)
		}
	}
	return gone
}

func lacks(now, before int64) bool { return now < 0 && before >= 0 }

// New returns a scraper of the server's slots. between is the time between two
// reads of /metrics by either scraper; each of them shows whether a slot is
// busy.
func New(cfg *Config, set receiver.Settings, server Server, identity *identity.Server, between time.Duration) *Scraper {
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	m := &cfg.Metrics
	return &Scraper{
		server: server, identity: identity, cfg: *cfg, log: set.Logger,
		mb:    metadata.NewMetricsBuilder(metadata.MetricsBuilderConfig{Metrics: cfg.Metrics.MetricsConfig}, set),
		scope: scope,
		gap:   2 * (between + cfg.ControllerConfig.CollectionInterval), // one of each may fail
		bySlot: m.LlamacppSlotTokensDecoded.Enabled || m.LlamacppSlotTokensRemaining.Enabled || m.LlamacppSlotContextUsage.Enabled ||
			m.LlamacppSlotTokensProcessed.Enabled || m.LlamacppSlotTask.Enabled || m.LlamacppSlotStatus.Enabled,
		instances: map[string]*instance{},
	}
}

// Scrape looks at the slots once. What could not be read is a partial error
// beside the metrics of the rest.
func (s *Scraper) Scrape(ctx context.Context) (pmetric.Metrics, error) {
	now := time.Now()
	interval := s.cfg.ControllerConfig.CollectionInterval
	views := s.server.LookAtSlots(ctx, s.cfg.Poll == PollAlways, interval, interval)

	out := pmetric.NewMetrics()
	s.dropUnloaded(now, views, out)
	var errs error
	failed := 0
	for _, v := range views {
		in := s.instances[v.Model]
		if v.Down {
			if in != nil {
				s.end(in, now, pmetric.NewMetrics(), out)
			}
			continue
		}
		if v.Err != nil {
			errs = multierr.Append(errs, v.Err)
			failed++
		}
		if in == nil {
			in = &instance{requests: newRequests()}
			s.instances[v.Model] = in
		}
		in.takeIn(now, v, s.gap)
		s.emit(now, in, v, out)
		s.warn(v)
	}
	if errs != nil {
		return out, scrapererror.NewPartialScrapeError(errs, failed)
	}
	return out, nil
}

// End ends the series of all instances. There must be no further scrape.
func (s *Scraper) End() pmetric.Metrics {
	out := pmetric.NewMetrics()
	for _, in := range s.instances {
		s.end(in, time.Now(), pmetric.NewMetrics(), out)
	}
	return out
}

// warn logs once that nothing will come, and what to do.
func (s *Scraper) warn(v watch.SlotsView) {
	if !v.NoMetrics || s.cfg.Poll == PollAlways || s.warned {
		return
	}
	s.warned = true
	s.log.Warn("not reading /slots: without /metrics nothing shows when that would keep the server awake; " +
		"start llama-server with --metrics, or set scrapers::slots::poll to always")
}

// dropUnloaded ends and forgets the models that a router has unloaded.
func (s *Scraper) dropUnloaded(now time.Time, views []watch.SlotsView, out pmetric.Metrics) {
	for model, in := range s.instances {
		if !slices.ContainsFunc(views, func(v watch.SlotsView) bool { return v.Model == model }) {
			s.end(in, now, pmetric.NewMetrics(), out)
			delete(s.instances, model)
			s.identity.Forget(model)
		}
	}
}

// takeIn brings the instance up to date.
func (in *instance) takeIn(now time.Time, v watch.SlotsView, gap time.Duration) {
	switch s := v.Snapshot; {
	case s == nil && in.snapshot != nil && v.NoMetrics:
		in.restart()
		in.stream.Restart(now)
	case s != nil && (in.snapshot == nil || in.snapshot.Process != s.Process):
		in.restart()
	}
	if p := v.Props; p != nil && p.Slots > 0 {
		in.slots = int64(p.Slots)
		in.context = in.slots * int64(max(p.Context, 0))
	}
	if s := v.Snapshot; s != nil && s != in.snapshot {
		in.snapshot = s
		total(&in.decoded, s, "tokens_predicted_total")
		total(&in.processed, s, "prompt_tokens_total")
		if s.Idle && v.Reading == nil {
			in.requests.update(s.Ended, nil, gap)
		}
	}
	r := v.Reading
	if r == nil {
		return
	}
	in.slots, in.context = int64(len(r.Slots)), 0
	for _, s := range r.Slots {
		in.context += int64(s.Context)
	}
	in.requests.update(r.Ended, r.Slots, gap)
	// /metrics counts the tokens of a request at its end, and those of its
	// prompt at the first token.
	in.buffer = in.buffer[:0]
	for _, s := range r.Slots {
		if s.Busy && s.Decoded >= 0 {
			in.buffer = append(in.buffer, livecount.Request{Slot: s.ID, Task: s.Task, Count: s.Decoded})
		}
	}
	in.decoded.Running(r.Began, in.buffer)
	in.buffer = in.buffer[:0]
	for _, s := range r.Slots {
		if s.Busy && s.Decoded == 0 && s.Processed >= 0 {
			in.buffer = append(in.buffer, livecount.Request{Slot: s.ID, Task: s.Task, Count: s.Processed})
		}
	}
	in.processed.Running(r.Began, in.buffer)
}

// restart begins anew, for another process of the server.
func (in *instance) restart() {
	in.snapshot = nil
	in.decoded.Reset()
	in.processed.Reset()
	in.requests = newRequests()
}

func total(c *livecount.Counter, s *watch.Snapshot, name string) {
	if v, ok := s.Value(name); ok {
		c.Total(livecount.Total{Value: v, Began: s.Began, Ended: s.Ended, Idle: s.Idle})
	}
}

// emit adds all metrics of one instance, and ends the series that are true no
// longer.
func (s *Scraper) emit(at time.Time, in *instance, v watch.SlotsView, out pmetric.Metrics) {
	now := pcommon.NewTimestampFromTime(at)
	start := pcommon.NewTimestampFromTime(in.stream.At(at, in.snapshot))
	s.mb.Reset(metadata.WithStartTime(start))
	if in.snapshot != nil || v.Reading != nil {
		s.mb.RecordLlamacppSlotsTokensDecodedDataPoint(now, in.decoded.Value())
		s.mb.RecordLlamacppSlotsTokensProcessedDataPoint(now, in.processed.Value())
	}
	if !in.requests.seen.IsZero() {
		s.mb.RecordLlamacppRequestsObservedDataPoint(now, in.requests.ended)
	}
	var next *shown
	resource := s.identity.Resource(v.Model, v.Props)
	switch {
	case v.Reading != nil:
		next = &shown{v.Reading.Slots, resource}
	case v.Snapshot != nil && v.Snapshot.Idle && in.slots > 0:
		next = &shown{in.allFree(), resource}
	}
	if next != nil {
		s.recordSlots(now, in, next.slots)
	}
	md := s.mb.Emit(metadata.WithResource(resource))
	s.addHistograms(now, start, in, resource, md)

	if next != nil || v.Err != nil { // else it is late, and what was shown may still hold
		if in.shown == nil || next == nil || in.shown.resource != next.resource {
			s.end(in, at, md, out)
		} else if s.bySlot { // the other series go on
			s.endSlots(in, in.shown.without(next), in.shown.gone(next), at, md, out)
		}
		in.shown = next
	}
	md.ResourceMetrics().MoveAndAppendTo(out.ResourceMetrics())
}

// end ends the series of the slots that were shown and that md lacks.
func (s *Scraper) end(in *instance, now time.Time, md, out pmetric.Metrics) {
	if in.shown == nil {
		return
	}
	s.recordSlots(pcommon.NewTimestampFromTime(now), in, in.shown.slots)
	stale.Mark(s.mb.Emit(metadata.WithResource(in.shown.resource)), md, now, out)
	in.shown = nil
}

// endSlots ends the series of requests and of slots that md lacks.
func (s *Scraper) endSlots(in *instance, ending, gone []llamaserver.Slot, now time.Time, md, out pmetric.Metrics) {
	if len(ending)+len(gone) == 0 {
		return
	}
	for _, slot := range ending {
		s.recordRequest(pcommon.NewTimestampFromTime(now), slot)
	}
	for _, slot := range gone {
		s.recordStatus(pcommon.NewTimestampFromTime(now), slot)
	}
	stale.Mark(s.mb.Emit(metadata.WithResource(in.shown.resource)), md, now, out)
}

// allFree returns the slots as they are when the server is idle: it is not asked for
// them then.
func (in *instance) allFree() []llamaserver.Slot {
	if int64(len(in.free)) != in.slots {
		in.free = make([]llamaserver.Slot, in.slots)
		for i := range in.free {
			in.free[i].ID = i
		}
	}
	return in.free
}

// state returns what a slot is doing.
func state(slot llamaserver.Slot) metadata.AttributeLlamacppSlotState {
	switch {
	case !slot.Busy:
		return metadata.AttributeLlamacppSlotStateIdle
	case slot.Decoded > 0:
		return metadata.AttributeLlamacppSlotStateGenerating
	default:
		return metadata.AttributeLlamacppSlotStatePrompt
	}
}

// recordSlots records what the slots hold; those that are not listed are idle.
func (s *Scraper) recordSlots(now pcommon.Timestamp, in *instance, slots []llamaserver.Slot) {
	var prompt, generating, tokens int64
	known := true
	for _, slot := range slots {
		s.recordStatus(now, slot)
		switch state(slot) {
		case metadata.AttributeLlamacppSlotStateIdle:
			continue
		case metadata.AttributeLlamacppSlotStateGenerating:
			generating++
		case metadata.AttributeLlamacppSlotStatePrompt:
			prompt++
		}
		known = known && slot.Tokens >= 0
		tokens += max(slot.Tokens, 0)
		s.recordRequest(now, slot)
	}
	s.mb.RecordLlamacppSlotsDataPoint(now, in.slots-prompt-generating, metadata.AttributeLlamacppSlotStateIdle)
	s.mb.RecordLlamacppSlotsDataPoint(now, prompt, metadata.AttributeLlamacppSlotStatePrompt)
	s.mb.RecordLlamacppSlotsDataPoint(now, generating, metadata.AttributeLlamacppSlotStateGenerating)
	if known {
		s.mb.RecordLlamacppContextUsageDataPoint(now, tokens)
		if in.context > 0 {
			s.mb.RecordLlamacppContextUtilizationDataPoint(now, float64(tokens)/float64(in.context))
		}
	}
}

func (s *Scraper) recordStatus(now pcommon.Timestamp, slot llamaserver.Slot) {
	current := state(slot)
	for of := metadata.AttributeLlamacppSlotStateIdle; of <= metadata.AttributeLlamacppSlotStateGenerating; of++ {
		var is int64
		if of == current {
			is = 1
		}
		s.mb.RecordLlamacppSlotStatusDataPoint(now, is, int64(slot.ID), of)
	}
}

// recordRequest records how far the request in a slot is.
func (s *Scraper) recordRequest(now pcommon.Timestamp, slot llamaserver.Slot) {
	id := int64(slot.ID)
	if slot.Task >= 0 {
		s.mb.RecordLlamacppSlotTaskDataPoint(now, slot.Task, id)
	}
	if slot.Processed >= 0 {
		s.mb.RecordLlamacppSlotTokensProcessedDataPoint(now, slot.Processed, id)
	}
	if slot.Decoded >= 0 {
		s.mb.RecordLlamacppSlotTokensDecodedDataPoint(now, slot.Decoded, id)
	}
	if slot.Remaining >= 0 {
		s.mb.RecordLlamacppSlotTokensRemainingDataPoint(now, slot.Remaining, id)
	}
	if slot.Tokens >= 0 {
		s.mb.RecordLlamacppSlotContextUsageDataPoint(now, slot.Tokens, id)
	}
}

// addHistograms adds what mdatagen cannot declare to the one resource in md.
func (s *Scraper) addHistograms(now, start pcommon.Timestamp, in *instance, resource pcommon.Resource, md pmetric.Metrics) {
	total, prompt := s.cfg.Metrics.RequestDuration.Enabled, s.cfg.Metrics.RequestPromptDuration.Enabled
	if in.requests.seen.IsZero() || !total && !prompt {
		return
	}
	metrics := undeclared.MetricsOf(md, resource, s.scope)
	if total {
		in.requests.total.emit(start, now, metrics)
	}
	if prompt {
		in.requests.prompt.emit(start, now, metrics)
	}
}
