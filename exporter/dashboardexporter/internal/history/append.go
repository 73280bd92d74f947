// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"github.com/prometheus/prometheus/tsdb"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Reason is why a point was refused.
type Reason string

// The reasons.
const (
	SeriesLimit Reason = "series_limit" // it would be one series more than MaxSeries
	OutOfOrder  Reason = "out_of_order" // too old, compared with the newest of its series
	Duplicate   Reason = "duplicate"    // another value of the same series at the same time
	Delta       Reason = "delta"        // it is the change since the point before
	Invalid     Reason = "invalid"      // Prometheus has no form for it
)

// Refused is what was not kept of a batch: how many points and why.
type Refused struct {
	Points map[Reason]int
	// Examples names a metric for each reason.
	Examples map[Reason]string
}

func (r *Refused) add(reason Reason, example string, n int) {
	if r.Points == nil {
		r.Points, r.Examples = map[Reason]int{}, map[Reason]string{}
	}
	r.Points[reason] += n
	if r.Examples[reason] == "" {
		r.Examples[reason] = example
	}
}

// Families are metric families, as Prometheus names them, with the time of the
// oldest point that was kept of each, in milliseconds.
type Families map[string]int64

// Batch is what became of a batch.
type Batch struct {
	Refused
	Kept Families
}

// Append keeps a batch, under the names of Prometheus' OTLP ingestion. Points
// that cannot be kept do not hinder others. An error means that nothing was kept.
func (h *History) Append(ctx context.Context, md pmetric.Metrics) (Batch, error) {
	var refused Refused
	inner := h.db.AppenderV2(ctx)
	a := &appender{AppenderV2: inner, head: h.db.Head(), limit: uint64(h.opts.MaxSeries), refused: &refused, kept: Families{}}
	a.refs, _ = inner.(storage.GetRef)
	settings := prometheusremotewrite.Settings{
		AddMetricSuffixes: true, LookbackDelta: h.opts.Lookback,
		// As in Prometheus, so that the same data has the same labels there.
		LabelNameUnderscoreSanitization: true, LabelNamePreserveMultipleUnderscores: true,
	}
	countDeltas(md, &refused)
	_, err := prometheusremotewrite.NewPrometheusConverter(a).FromMetrics(ctx, coarsened(md), settings)
	if ctx.Err() != nil {
		return Batch{}, errors.Join(ctx.Err(), a.Rollback())
	}
	if err != nil && refused.Points[Delta] == 0 {
		refused.add(Invalid, err.Error(), 1)
	}
	if err := a.Commit(); err != nil {
		return Batch{}, fmt.Errorf("write to the history: %w", err)
	}
	return Batch{Refused: refused, Kept: a.kept}, nil
}

// countDeltas counts what the conversion drops because of its temporality.
func countDeltas(md pmetric.Metrics, refused *Refused) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				points := 0
				var temporality pmetric.AggregationTemporality
				switch m.Type() {
				case pmetric.MetricTypeSum:
					points, temporality = m.Sum().DataPoints().Len(), m.Sum().AggregationTemporality()
				case pmetric.MetricTypeHistogram:
					points, temporality = m.Histogram().DataPoints().Len(), m.Histogram().AggregationTemporality()
				case pmetric.MetricTypeExponentialHistogram:
					points, temporality = m.ExponentialHistogram().DataPoints().Len(), m.ExponentialHistogram().AggregationTemporality()
				}
				if points > 0 && temporality != pmetric.AggregationTemporalityCumulative {
					refused.add(Delta, m.Name(), points)
				}
			}
		}
	}
}

// appender keeps within the limit of series, and goes on where the database
// refuses a point.
type appender struct {
	storage.AppenderV2
	refs    storage.GetRef
	head    *tsdb.Head
	limit   uint64
	refused *Refused
	kept    Families
}

// Append implements storage.AppenderV2.
func (a *appender) Append(
	ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64,
	h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions,
) (storage.SeriesRef, error) {
	if ref == 0 && a.head.NumSeries() >= a.limit && !a.known(ls) {
		a.refused.add(SeriesLimit, opts.MetricFamilyName, 1)
		return 0, nil
	}
	ref, err := a.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
	var partial *storage.AppendPartialError
	_, err = partial.Handle(err) // exemplars that were not kept
	switch {
	case err == nil:
		if oldest, ok := a.kept[opts.MetricFamilyName]; !ok || t < oldest {
			a.kept[opts.MetricFamilyName] = t
		}
		return ref, nil
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		a.refused.add(Duplicate, opts.MetricFamilyName, 1)
	case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrOutOfBounds):
		a.refused.add(OutOfOrder, opts.MetricFamilyName, 1)
	default:
		a.refused.add(Invalid, fmt.Sprintf("%s: %v", opts.MetricFamilyName, err), 1)
	}
	return 0, nil
}

func (a *appender) known(ls labels.Labels) bool {
	if a.refs == nil {
		return false
	}
	ref, _ := a.refs.GetRef(ls, ls.Hash())
	return ref != 0
}
