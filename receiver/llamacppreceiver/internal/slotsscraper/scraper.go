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
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/livecount"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

// Server is what the scraper needs of a watch.Server.
type Server interface {
	LookAtSlots(ctx context.Context, always bool, interval, patience time.Duration) []watch.SlotsView
}

// Resource makes the resource of the server ("") or of one of its models.
// props is nil when nothing is known of it yet.
type Resource func(model string, props *llamaserver.Props) pcommon.Resource

// Scraper turns looks at a server's slots into metrics.
type Scraper struct {
	server   Server
	resource Resource
	cfg      Config
	log      *zap.Logger
	mb       *metadata.MetricsBuilder
	scope    pcommon.InstrumentationScope
	gap      time.Duration       // the longest time between two looks that tells what was in between
	trackers map[string]*tracker // by model
	warned   bool
}

// tracker is what is remembered of one server, or model, from look to look.
type tracker struct {
	stream    watch.Stream
	snapshot  *watch.Snapshot // the last one taken in; nil without /metrics
	decoded   livecount.Counter
	processed livecount.Counter
	requests  requests
	context   int64 // of all slots together, in tokens
	slots     int64
	buffer    []livecount.Request
}

// New returns a scraper of the server's slots. between is the time between two
// reads of /metrics, by whomever, which tell when no slot is busy.
func New(cfg *Config, set receiver.Settings, server Server, resource Resource, between time.Duration) *Scraper {
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	return &Scraper{
		server: server, resource: resource, cfg: *cfg, log: set.Logger,
		mb:       metadata.NewMetricsBuilder(metadata.MetricsBuilderConfig{Metrics: cfg.Metrics.MetricsConfig}, set),
		scope:    scope,
		gap:      2 * (between + cfg.ControllerConfig.CollectionInterval), // one of each may fail
		trackers: map[string]*tracker{},
	}
}

// Scrape looks at the slots once. What could not be read is a partial error
// beside the metrics of the rest.
func (s *Scraper) Scrape(ctx context.Context) (pmetric.Metrics, error) {
	now := time.Now()
	interval := s.cfg.ControllerConfig.CollectionInterval
	views := s.server.LookAtSlots(ctx, s.cfg.Poll == PollAlways, interval, interval)

	out := pmetric.NewMetrics()
	var errs error
	failed := 0
	for _, v := range views {
		if v.Err != nil {
			errs = multierr.Append(errs, v.Err)
			failed++
		}
		t := s.trackers[v.Model]
		if t == nil {
			t = &tracker{requests: newRequests()}
			s.trackers[v.Model] = t
		}
		t.takeIn(now, v, s.gap)
		s.emit(now, t, v, out)
		s.warn(v)
	}
	s.drop(views)
	if errs != nil {
		return out, scrapererror.NewPartialScrapeError(errs, failed)
	}
	return out, nil
}

// warn says once that nothing will come, and what to do.
func (s *Scraper) warn(v watch.SlotsView) {
	if !v.NoMetrics || s.cfg.Poll == PollAlways || s.warned {
		return
	}
	s.warned = true
	s.log.Warn("not reading /slots: without /metrics it cannot be told when that does not keep the server awake; " +
		"start llama-server with --metrics, or set scrapers::slots::poll to always")
}

// drop forgets the models that a router has unloaded. A server that is only
// down for a moment is not forgotten.
func (s *Scraper) drop(views []watch.SlotsView) {
	if len(views) == 0 {
		return
	}
	for model := range s.trackers {
		if !slices.ContainsFunc(views, func(v watch.SlotsView) bool { return v.Model == model }) {
			delete(s.trackers, model)
		}
	}
}

// takeIn brings the tracker up to date.
func (t *tracker) takeIn(now time.Time, v watch.SlotsView, gap time.Duration) {
	switch s := v.Snapshot; {
	case s == nil && t.snapshot != nil && v.NoMetrics:
		t.restart()
		t.stream.Restart(now)
	case s != nil && (t.snapshot == nil || t.snapshot.Process != s.Process):
		t.restart()
	}
	if p := v.Props; p != nil && p.Slots > 0 {
		t.slots = int64(p.Slots)
		t.context = t.slots * int64(max(p.Context, 0))
	}
	if s := v.Snapshot; s != nil && s != t.snapshot {
		t.snapshot = s
		total(&t.decoded, s, "tokens_predicted_total")
		total(&t.processed, s, "prompt_tokens_total")
		if s.Idle && v.Reading == nil {
			t.requests.update(s.Ended, nil, gap)
		}
	}
	r := v.Reading
	if r == nil {
		return
	}
	t.slots, t.context = int64(len(r.Slots)), 0
	for _, s := range r.Slots {
		t.context += int64(s.Context)
	}
	t.requests.update(r.Ended, r.Slots, gap)
	// The total takes a request's tokens in at its end, and its prompt at the
	// first token.
	t.buffer = t.buffer[:0]
	for _, s := range r.Slots {
		if s.Busy && s.Decoded >= 0 {
			t.buffer = append(t.buffer, livecount.Request{Slot: s.ID, Task: s.Task, Count: s.Decoded})
		}
	}
	t.decoded.Running(r.Began, t.buffer)
	t.buffer = t.buffer[:0]
	for _, s := range r.Slots {
		if s.Busy && s.Decoded == 0 && s.Processed >= 0 {
			t.buffer = append(t.buffer, livecount.Request{Slot: s.ID, Task: s.Task, Count: s.Processed})
		}
	}
	t.processed.Running(r.Began, t.buffer)
}

// restart begins anew, for another process of the server.
func (t *tracker) restart() {
	t.snapshot = nil
	t.decoded.Reset()
	t.processed.Reset()
	t.requests = newRequests()
}

func total(c *livecount.Counter, s *watch.Snapshot, name string) {
	if v, ok := s.Value(name); ok {
		c.Total(livecount.Total{Value: v, Began: s.Began, Ended: s.Ended, Idle: s.Idle})
	}
}

func (s *Scraper) emit(at time.Time, t *tracker, v watch.SlotsView, out pmetric.Metrics) {
	now := pcommon.NewTimestampFromTime(at)
	start := pcommon.NewTimestampFromTime(t.stream.At(at, t.snapshot))
	s.mb.Reset(metadata.WithStartTime(start))
	if t.snapshot != nil || v.Reading != nil {
		s.mb.RecordLlamacppSlotsTokensDecodedDataPoint(now, t.decoded.Value())
		s.mb.RecordLlamacppSlotsTokensProcessedDataPoint(now, t.processed.Value())
	}
	if !t.requests.seen.IsZero() {
		s.mb.RecordLlamacppRequestsObservedDataPoint(now, t.requests.ended)
	}
	switch {
	case v.Reading != nil:
		s.recordSlots(now, t, v.Reading.Slots)
	case v.Snapshot != nil && v.Snapshot.Idle && t.slots > 0:
		s.recordSlots(now, t, nil)
	}
	resource := s.resource(v.Model, v.Props)
	md := s.mb.Emit(metadata.WithResource(resource))
	s.addHistograms(now, start, t, resource, md)
	md.ResourceMetrics().MoveAndAppendTo(out.ResourceMetrics())
}

// recordSlots records what the slots hold; those that are not listed are idle.
func (s *Scraper) recordSlots(now pcommon.Timestamp, t *tracker, slots []llamaserver.Slot) {
	var prompt, generating, tokens int64
	told := true
	for _, slot := range slots {
		if !slot.Busy {
			continue
		}
		if slot.Decoded > 0 {
			generating++
		} else {
			prompt++
		}
		told = told && slot.Tokens >= 0
		tokens += max(slot.Tokens, 0)
		s.recordSlot(now, slot)
	}
	s.mb.RecordLlamacppSlotsDataPoint(now, t.slots-prompt-generating, metadata.AttributeLlamacppSlotStateIdle)
	s.mb.RecordLlamacppSlotsDataPoint(now, prompt, metadata.AttributeLlamacppSlotStatePrompt)
	s.mb.RecordLlamacppSlotsDataPoint(now, generating, metadata.AttributeLlamacppSlotStateGenerating)
	if told {
		s.mb.RecordLlamacppContextUsageDataPoint(now, tokens)
		if t.context > 0 {
			s.mb.RecordLlamacppContextUtilizationDataPoint(now, float64(tokens)/float64(t.context))
		}
	}
}

func (s *Scraper) recordSlot(now pcommon.Timestamp, slot llamaserver.Slot) {
	id := int64(slot.ID)
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
func (s *Scraper) addHistograms(now, start pcommon.Timestamp, t *tracker, resource pcommon.Resource, md pmetric.Metrics) {
	total, prompt := s.cfg.Metrics.RequestDuration.Enabled, s.cfg.Metrics.RequestPromptDuration.Enabled
	if t.requests.seen.IsZero() || !total && !prompt {
		return
	}
	metrics := undeclared.MetricsOf(md, resource, s.scope)
	if total {
		t.requests.total.emit(start, now, metrics)
	}
	if prompt {
		t.requests.prompt.emit(start, now, metrics)
	}
}
