package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
)

// durations is a metric of durations in seconds.
type durations struct {
	name, description string
	*histogram.Explicit
}

func newDurations(name, description string) durations {
	return durations{name: name, description: description, Explicit: histogram.NewExplicit(histogram.DurationBounds())}
}

func (d *durations) emit(start, now pcommon.Timestamp, to pmetric.MetricSlice) {
	m := to.AppendEmpty()
	m.SetName(d.name)
	m.SetDescription(d.description)
	m.SetUnit("s")
	d.Emit(m, start, now)
}
