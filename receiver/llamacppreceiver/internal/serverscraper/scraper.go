package serverscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper/scrapererror"
	"go.uber.org/multierr"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/stale"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

// Server is what the scraper needs of a watch.Server.
type Server interface {
	Look(ctx context.Context, patience time.Duration) (o watch.Observation, ok bool)
}

// Scraper turns looks at the server into metrics.
type Scraper struct {
	server         Server
	identity       *identity.Server
	interval       time.Duration
	forwardUnknown bool
	mb             *metadata.MetricsBuilder
	scope          pcommon.InstrumentationScope
	instances      map[string]*instance // by model, "" for the server itself
}

// instance is what is remembered of the server, or of one model of a router,
// from scrape to scrape.
type instance struct {
	stream   watch.Stream
	rejected heldCounter // speculative tokens
	shown    report      // the last one that was not late
}

// report is what a scrape says of one instance.
type report struct {
	view     watch.View
	models   []llamaserver.Model // a router's
	resource pcommon.Resource
}

// New returns a scraper of the server. forwardUnknown passes on the families
// that are not in the catalogue.
func New(cfg *Config, set receiver.Settings, server Server, identity *identity.Server, forwardUnknown bool) *Scraper {
	scope := pcommon.NewInstrumentationScope()
	scope.SetName(metadata.ScopeName)
	scope.SetVersion(set.BuildInfo.Version)
	return &Scraper{
		server: server, identity: identity,
		interval:       cfg.ControllerConfig.CollectionInterval,
		forwardUnknown: forwardUnknown,
		mb:             metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, set),
		scope:          scope,
		instances:      map[string]*instance{},
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
	s.dropUnloaded(now, o, out)
	var errs error
	failed := 0
	for _, v := range append([]watch.View{o.Server}, o.Children...) {
		if v.Err != nil {
			errs = multierr.Append(errs, v.Err)
			failed++
		}
		r := report{view: v, resource: s.identity.Resource(v.Model, v.Props)}
		if v.Model == "" {
			r.models = o.Models
		}
		s.emit(now, r, out)
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

// dropUnloaded ends and forgets the models that the router does not list as
// loaded any more, and all of them when it cannot be asked.
func (s *Scraper) dropUnloaded(now time.Time, o watch.Observation, out pmetric.Metrics) {
	v := o.Server
	if late := v.State == watch.OK && v.Err == nil && v.Props != nil && v.Props.Router && o.Models == nil; late {
		return
	}
	for model, in := range s.instances {
		if model != v.Model && !slices.ContainsFunc(o.Children, func(c watch.View) bool { return c.Model == model }) {
			s.end(in, now, pmetric.NewMetrics(), out)
			delete(s.instances, model)
			s.identity.Forget(model)
		}
	}
}

// emit adds all metrics of one instance, and ends the series that are true no
// longer.
func (s *Scraper) emit(now time.Time, r report, out pmetric.Metrics) {
	in := s.instances[r.view.Model]
	if in == nil {
		in = &instance{shown: r}
		s.instances[r.view.Model] = in
	}
	start := in.stream.At(now, r.view.Snapshot)
	md := s.record(in, now, start, r)
	if !r.late() {
		if in.shown.mayHoldMoreThan(r) {
			s.end(in, now, md, out)
		}
		in.shown = r
	}
	md.ResourceMetrics().MoveAndAppendTo(out.ResourceMetrics())
}

// end ends the series that were shown of an instance and that md lacks.
func (s *Scraper) end(in *instance, now time.Time, md, out pmetric.Metrics) {
	copied := *in // what is recorded again must not count again
	stale.Mark(s.record(&copied, now, now, in.shown), md, now, out)
}

// late reports whether the server is there, but its answer is not: what was
// shown before may still hold.
func (r *report) late() bool {
	return r.view.State == watch.OK && r.view.Err == nil && r.view.Snapshot == nil && r.models == nil
}

// mayHoldMoreThan reports whether r may have a series that next lacks.
func (r *report) mayHoldMoreThan(next report) bool {
	was, is := r.view.Snapshot, next.view.Snapshot
	return r.view.State != next.view.State || r.resource != next.resource ||
		was != nil && (is == nil || was.Process != is.Process)
}

// record returns all metrics of one instance, and so of one resource.
func (s *Scraper) record(in *instance, at, began time.Time, r report) pmetric.Metrics {
	now, start := pcommon.NewTimestampFromTime(at), pcommon.NewTimestampFromTime(began)
	s.mb.Reset(metadata.WithStartTime(start))
	v := r.view
	s.recordState(now, v.State)
	s.recordModels(now, r.models)
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
		s.recordFamilies(now, v.Snapshot, in)
	}
	md := s.mb.Emit(metadata.WithResource(r.resource))
	if v.Snapshot != nil && s.forwardUnknown {
		s.forward(now, start, v.Snapshot, r.resource, md)
	}
	return md
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
