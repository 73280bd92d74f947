package serverscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper"

import (
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/serverscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
)

type record func(mb *metadata.MetricsBuilder, now pcommon.Timestamp, v float64)

// families maps each known family of /metrics, by its name without
// llamaserver.MetricPrefix, to what records it; nil leaves it out.
var families = map[string]record{
	"prompt_tokens_total": func(mb *metadata.MetricsBuilder, now pcommon.Timestamp, v float64) {
		mb.RecordLlamacppTokensPromptDataPoint(now, int64(v), metadata.AttributeLlamacppTokensSourceComputed)
	},
	"prompt_tokens_cached_total": func(mb *metadata.MetricsBuilder, now pcommon.Timestamp, v float64) {
		mb.RecordLlamacppTokensPromptDataPoint(now, int64(v), metadata.AttributeLlamacppTokensSourceCached)
	},
	"prompt_seconds_total":           (*metadata.MetricsBuilder).RecordLlamacppPromptTimeDataPoint,
	"tokens_predicted_total":         whole((*metadata.MetricsBuilder).RecordLlamacppTokensPredictedDataPoint),
	"tokens_predicted_seconds_total": (*metadata.MetricsBuilder).RecordLlamacppPredictionTimeDataPoint,
	"n_decode_total":                 whole((*metadata.MetricsBuilder).RecordLlamacppDecodeCallsDataPoint),
	"n_tokens_max":                   whole((*metadata.MetricsBuilder).RecordLlamacppSequenceTokensMaxDataPoint),
	"n_busy_slots_per_decode":        (*metadata.MetricsBuilder).RecordLlamacppDecodeBusySlotsDataPoint,
	"requests_processing":            whole((*metadata.MetricsBuilder).RecordLlamacppRequestsProcessingDataPoint),
	"requests_deferred":              whole((*metadata.MetricsBuilder).RecordLlamacppRequestsDeferredDataPoint),
	"spec_decode_num_drafts_total":   whole((*metadata.MetricsBuilder).RecordLlamacppSpeculativeDraftsDataPoint),
	"spec_decode_num_accepted_tokens_total": func(mb *metadata.MetricsBuilder, now pcommon.Timestamp, v float64) {
		mb.RecordLlamacppSpeculativeTokensDataPoint(now, int64(v), metadata.AttributeLlamacppSpeculativeOutcomeAccepted)
	},
	// Less the accepted ones, these are the rejected.
	"spec_decode_num_draft_tokens_total": nil,
	// Speeds since the last read: whoever reads them resets them for everybody
	// else.
	"prompt_tokens_seconds":    nil,
	"predicted_tokens_seconds": nil,
}

func whole(r func(*metadata.MetricsBuilder, pcommon.Timestamp, int64)) record {
	return func(mb *metadata.MetricsBuilder, now pcommon.Timestamp, v float64) { r(mb, now, int64(v)) }
}

func (s *Scraper) recordFamilies(now pcommon.Timestamp, snapshot *watch.Snapshot, in *instance) {
	for name, record := range families {
		if record == nil {
			continue
		}
		if x, ok := snapshot.Value(name); ok && !math.IsInf(x, 0) {
			record(s.mb, now, x)
		}
	}
	drafted, ok1 := snapshot.Value("spec_decode_num_draft_tokens_total")
	accepted, ok2 := snapshot.Value("spec_decode_num_accepted_tokens_total")
	if ok1 && ok2 {
		in.rejected.raise(snapshot.Process, int64(drafted-accepted))
		s.mb.RecordLlamacppSpeculativeTokensDataPoint(now, in.rejected.value, metadata.AttributeLlamacppSpeculativeOutcomeRejected)
	}
}

// heldCounter keeps a difference of two counters from going back in the life of
// a process. Rounding would let it go back: from 10^6 on they are printed with
// six digits.
type heldCounter struct {
	process int
	value   int64
}

func (c *heldCounter) raise(process int, value int64) {
	if c.process != process {
		*c = heldCounter{process: process}
	}
	c.value = max(c.value, value)
}

// forward adds the families that are not in the catalogue to the one resource
// in md, under their own name with dots, labels as attributes.
func (s *Scraper) forward(now, start pcommon.Timestamp, snapshot *watch.Snapshot, resource pcommon.Resource, md pmetric.Metrics) {
	var metrics pmetric.MetricSlice
	found := false
	for name, f := range snapshot.Families {
		if own, ok := strings.CutPrefix(name, llamaserver.MetricPrefix); ok {
			if _, known := families[own]; known {
				continue
			}
		}
		if !found {
			found = true
			metrics = undeclared.MetricsOf(md, resource, s.scope)
		}
		forwardFamily(f, now, start, metrics.AppendEmpty())
	}
	if found {
		metrics.RemoveIf(hasNoPoint)
	}
}

// hasNoPoint reports whether a metric is empty because no value was a number.
func hasNoPoint(m pmetric.Metric) bool {
	return m.Type() == pmetric.MetricTypeGauge && m.Gauge().DataPoints().Len() == 0 ||
		m.Type() == pmetric.MetricTypeSum && m.Sum().DataPoints().Len() == 0
}

// forwardedName is llamacpp.<name with dots>, without the _total that
// Prometheus' naming adds to counters.
func forwardedName(f *dto.MetricFamily) string {
	name := strings.TrimPrefix(f.GetName(), llamaserver.MetricPrefix)
	if f.GetType() == dto.MetricType_COUNTER {
		name = strings.TrimSuffix(name, "_total")
	}
	return "llamacpp." + strings.NewReplacer("_", ".", ":", ".").Replace(name)
}

func forwardFamily(f *dto.MetricFamily, now, start pcommon.Timestamp, m pmetric.Metric) {
	m.SetName(forwardedName(f))
	m.SetDescription(f.GetHelp())
	m.SetUnit(f.GetUnit())
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for _, p := range f.GetMetric() {
			number(sum.DataPoints(), p, p.GetCounter().GetValue(), now, start)
		}
	case dto.MetricType_HISTOGRAM:
		h := m.SetEmptyHistogram()
		h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for _, p := range f.GetMetric() {
			histogram(h.DataPoints().AppendEmpty(), p, now, start)
		}
	case dto.MetricType_SUMMARY:
		points := m.SetEmptySummary().DataPoints()
		for _, p := range f.GetMetric() {
			d := points.AppendEmpty()
			attributes(p, d.Attributes())
			d.SetStartTimestamp(start)
			d.SetTimestamp(now)
			d.SetCount(p.GetSummary().GetSampleCount())
			d.SetSum(p.GetSummary().GetSampleSum())
			for _, q := range p.GetSummary().GetQuantile() {
				v := d.QuantileValues().AppendEmpty()
				v.SetQuantile(q.GetQuantile())
				v.SetValue(q.GetValue())
			}
		}
	default:
		points := m.SetEmptyGauge().DataPoints()
		for _, p := range f.GetMetric() {
			v := p.GetGauge().GetValue()
			if p.Untyped != nil {
				v = p.GetUntyped().GetValue()
			}
			number(points, p, v, now, 0)
		}
	}
}

// number adds a point, unless the value is not a number.
func number(points pmetric.NumberDataPointSlice, p *dto.Metric, v float64, now, start pcommon.Timestamp) {
	if math.IsNaN(v) {
		return
	}
	d := points.AppendEmpty()
	attributes(p, d.Attributes())
	d.SetStartTimestamp(start)
	d.SetTimestamp(now)
	d.SetDoubleValue(v)
}

// histogram turns Prometheus' counts up to a bound into OTLP's between bounds.
func histogram(d pmetric.HistogramDataPoint, p *dto.Metric, now, start pcommon.Timestamp) {
	attributes(p, d.Attributes())
	d.SetStartTimestamp(start)
	d.SetTimestamp(now)
	h := p.GetHistogram()
	d.SetCount(h.GetSampleCount())
	d.SetSum(h.GetSampleSum())
	below := uint64(0)
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		d.ExplicitBounds().Append(b.GetUpperBound())
		d.BucketCounts().Append(less(b.GetCumulativeCount(), below))
		below = max(below, b.GetCumulativeCount())
	}
	d.BucketCounts().Append(less(h.GetSampleCount(), below))
}

// less is a − b, 0 where a malformed histogram would make it negative.
func less(a, b uint64) uint64 { return a - min(a, b) }

func attributes(p *dto.Metric, to pcommon.Map) {
	for _, l := range p.GetLabel() {
		to.PutStr(l.GetName(), l.GetValue())
	}
}
