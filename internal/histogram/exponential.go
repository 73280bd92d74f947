// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package histogram // import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/lightstep/go-expohisto/structure"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// exemplars is how many exemplars an Exponential keeps.
const exemplars = 10

// DefaultSize is the usual maximum number of buckets, that of the SDKs. A percentile
// is then within 2.2 % of the truth if the values range from 1 to 500, and within
// 4.5 % from 1 to 500,000.
const DefaultSize = 160

// CheckSize returns an error that says what maximum number of buckets is possible.
func CheckSize(size int32) error {
	const least, most = 2, 16384 // as in the SDKs
	if size < least || size > most {
		return fmt.Errorf("%d: want %d to %d", size, least, most)
	}
	return nil
}

// Exponential counts values in buckets that grow by a constant factor, as small
// as the number of buckets allows.
type Exponential struct {
	values  values
	buckets *structure.Histogram[float64]
	size    int32
}

// NewExponential returns an empty histogram of at most size buckets, which CheckSize accepts.
func NewExponential(size int32) *Exponential {
	return &Exponential{size: size, buckets: structure.NewFloat64(structure.NewConfig(structure.WithMaxSize(size)))}
}

// Add counts a value, which must not be negative. It returns the index of the
// exemplar that the value replaces: the ten latest are kept.
func (h *Exponential) Add(value float64) (exemplar int) {
	h.values.add(value)
	h.buckets.Update(value)
	return int(h.values.Count % exemplars)
}

// Emit appends a point to a metric that has no points of another kind.
func (h *Exponential) Emit(to pmetric.Metric, start, now pcommon.Timestamp) Point {
	if to.Type() == pmetric.MetricTypeEmpty {
		to.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	}
	p := to.ExponentialHistogram().DataPoints().AppendEmpty()
	h.values.emit(p, start, now)
	p.SetZeroCount(h.buckets.ZeroCount())
	scale := h.buckets.Scale()
	offset, counts := Merge(h.buckets.Positive().Offset(), h.counts(), scale-MaxScale)
	p.SetScale(min(scale, MaxScale))
	p.Positive().SetOffset(offset)
	p.Positive().BucketCounts().FromRaw(counts)
	return p
}

// MaxScale is the finest scale of a point, which Prometheus' native histograms have as
// well: a bucket is 0.27 % wide. Finer ones would be merged on the way there, which not
// all ways do right.
const MaxScale = 8

// Merge makes one bucket of each 2^by of an exponential histogram, whose scale is by less
// then. It returns the new offset and counts.
func Merge(offset int32, counts []uint64, by int32) (int32, []uint64) {
	if by <= 0 || len(counts) == 0 {
		return offset, counts
	}
	first := offset >> by
	merged := make([]uint64, (offset+int32(len(counts))-1)>>by-first+1)
	for i, n := range counts {
		merged[(offset+int32(i))>>by-first] += n
	}
	return first, merged
}

func (h *Exponential) counts() []uint64 {
	in := h.buckets.Positive()
	out := make([]uint64, in.Len())
	for i := range in.Len() {
		out[i] = in.At(i)
	}
	return out
}

var (
	_ json.Marshaler   = (*Exponential)(nil)
	_ json.Unmarshaler = (*Exponential)(nil)
)

// MarshalJSON implements json.Marshaler.
func (h *Exponential) MarshalJSON() ([]byte, error) {
	return json.Marshal(stored{
		values: h.values, Counts: h.counts(),
		Exponential: true, Scale: h.buckets.Scale(), Offset: h.buckets.Positive().Offset(), Zero: h.buckets.ZeroCount(), Size: h.size,
	})
}

// UnmarshalJSON implements json.Unmarshaler for an empty histogram from
// NewExponential with the same size.
func (h *Exponential) UnmarshalJSON(b []byte) error {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if !s.Exponential || s.Size != h.size {
		return errOtherBuckets
	}
	h.values = s.values
	h.buckets.UpdateByIncr(0, s.Zero)
	for i, n := range s.Counts {
		// A value within the bucket, at the scale of the stored buckets. Those
		// for the first and the last bucket lie further out, so that the values
		// do not fit into a finer scale, which backends would take for a reset.
		within := 0.5
		if i == 0 {
			within = 0.25
		} else if i == len(s.Counts)-1 {
			within = 0.75
		}
		if n > 0 {
			h.buckets.UpdateByIncr(math.Exp2((float64(s.Offset)+float64(i)+within)*math.Exp2(-float64(s.Scale))), n)
		}
	}
	return nil
}
