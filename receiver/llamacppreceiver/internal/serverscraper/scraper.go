package serverscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper/scrapererror"
	"go.uber.org/multierr"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

// Server is what the scraper needs of a watch.Server.
type Server interface {
	Look(ctx context.Context, patience time.Duration) (o watch.Observation, ok bool)
}

// Resource makes the resource of the server ("") or of one of its models.
// props is nil when nothing is known of it yet.
type Resource func(model string, props *llamaserver.Props) pcommon.Resource

// Scraper turns looks at the server into metrics.
type Scraper struct {
	server         Server
	resource       Resource
	interval       time.Duration
	forwardUnknown bool
	mb             *metadata.MetricsBuilder
	scope          pcommon.InstrumentationScope
	series         map[string]*series // by model
}

// series is what is remembered of one server, or model, from scrape to scrape.
type series struct {
	stream   watch.Stream
	rejected heldCounter // speculative tokens
}

// New returns a scraper of the server. forwardUnknown passes on the families
// that are not in the catalogue.
func New(cfg *Config, set receiver.Settings, server Server, resource Resource, forwardUnknown bool) *Scraper {
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	return &Scraper{
		server: server, resource: resource,
		interval:       cfg.ControllerConfig.CollectionInterval,
		forwardUnknown: forwardUnknown,
		mb:             metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, set),
		scope:          scope,
		series:         map[string]*series{},
	}
}

// Scrape looks at the server once. What could not be read is a partial error
// beside the metrics of the rest.
func (s *Scraper) Scrape(ctx context.Context) (pmetric.Metrics, error) {
	now := time.Now()
	o, ok := s.server.Look(ctx, s.interval)
	out := pmetric.NewMetrics()
	if !ok {
		return out, nil // shutting down
	}
	var errs error
	failed := 0
	s.recordModels(pcommon.NewTimestampFromTime(now), o.Models)
	for _, v := range append([]watch.View{o.Server}, o.Children...) {
		if v.Err != nil {
			errs = multierr.Append(errs, v.Err)
			failed++
		}
		s.emit(now, v, out)
	}
	for model := range s.series {
		if !present(o, model) {
			delete(s.series, model)
		}
	}
	if errs != nil {
		return out, scrapererror.NewPartialScrapeError(errs, failed)
	}
	return out, nil
}

func present(o watch.Observation, model string) bool {
	if model == o.Server.Model {
		return true
	}
	for _, v := range o.Children {
		if v.Model == model {
			return true
		}
	}
	return false
}

// emit adds all metrics of one view, and so of one resource.
func (s *Scraper) emit(at time.Time, v watch.View, out pmetric.Metrics) {
	of := s.series[v.Model]
	if of == nil {
		of = &series{}
		s.series[v.Model] = of
	}
	now := pcommon.NewTimestampFromTime(at)
	start := pcommon.NewTimestampFromTime(of.stream.At(at, v.Snapshot))
	s.mb.Reset(metadata.WithStartTime(start))

	s.recordState(now, v.State)
	for _, r := range v.Responses {
		s.mb.RecordLlamacppServerResponseDurationDataPoint(now, r.Duration.Seconds(), r.Path)
	}
	if p := v.Props; p != nil && (v.State == watch.OK || v.State == watch.Sleeping) {
		if p.Slots > 0 {
			s.mb.RecordLlamacppSlotsLimitDataPoint(now, int64(p.Slots))
		}
		if p.Context > 0 {
			s.mb.RecordLlamacppContextLimitDataPoint(now, int64(p.Context))
		}
	}
	if v.Snapshot != nil {
		s.recordFamilies(now, v, of)
	}
	md := s.mb.Emit(metadata.WithResource(s.resource(v.Model, v.Props)))
	if v.Snapshot != nil && s.forwardUnknown {
		s.forward(now, start, v, md)
	}
	md.ResourceMetrics().MoveAndAppendTo(out.ResourceMetrics())
}

var states = [...]struct {
	state     watch.State
	attribute metadata.AttributeLlamacppServerState
}{
	{watch.OK, metadata.AttributeLlamacppServerStateOk},
	{watch.Loading, metadata.AttributeLlamacppServerStateLoading},
	{watch.Sleeping, metadata.AttributeLlamacppServerStateSleeping},
	{watch.Unauthorized, metadata.AttributeLlamacppServerStateUnauthorized},
	{watch.Error, metadata.AttributeLlamacppServerStateError},
	{watch.Unreachable, metadata.AttributeLlamacppServerStateUnreachable},
}

func (s *Scraper) recordState(now pcommon.Timestamp, state watch.State) {
	for _, st := range states {
		one := int64(0)
		if st.state == state {
			one = 1
		}
		s.mb.RecordLlamacppServerStatusDataPoint(now, one, st.attribute)
	}
}

var modelStates = [...]struct {
	state     llamaserver.ModelState
	attribute metadata.AttributeLlamacppModelState
}{
	{llamaserver.ModelUnloaded, metadata.AttributeLlamacppModelStateUnloaded},
	{llamaserver.ModelLoading, metadata.AttributeLlamacppModelStateLoading},
	{llamaserver.ModelLoaded, metadata.AttributeLlamacppModelStateLoaded},
	{llamaserver.ModelSleeping, metadata.AttributeLlamacppModelStateSleeping},
	{llamaserver.ModelFailed, metadata.AttributeLlamacppModelStateFailed},
}

// recordModels counts a router's models by state.
func (s *Scraper) recordModels(now pcommon.Timestamp, models []llamaserver.Model) {
	if models == nil {
		return
	}
	counts := map[llamaserver.ModelState]int64{}
	for _, m := range models {
		counts[m.State]++
	}
	for _, st := range modelStates {
		s.mb.RecordLlamacppModelsDataPoint(now, counts[st.state], st.attribute)
	}
}
