// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histogram is the distribution of a duration from a microsecond to an hour, with
// a precision of 0.1 %.
type Histogram struct {
	hdr *hdrhistogram.Histogram
	max time.Duration
	sum time.Duration
}

const (
	lowest  = int64(time.Microsecond)
	highest = int64(time.Hour)
	digits  = 3
)

func newHistogram() *Histogram { return &Histogram{hdr: hdrhistogram.New(lowest, highest, digits)} }

func (h *Histogram) record(d time.Duration) {
	d = max(d, 0)
	if err := h.hdr.RecordValue(min(int64(d), highest)); err != nil {
		panic(err) // unreachable: the value is within the bounds
	}
	h.max = max(h.max, d)
	h.sum += d
}

func (h *Histogram) clone() *Histogram {
	return &Histogram{hdr: hdrhistogram.Import(h.hdr.Export()), max: h.max, sum: h.sum}
}

// Count returns the number of durations.
func (h *Histogram) Count() int64 { return h.hdr.TotalCount() }

// Percentile returns the duration that p percent of all do not exceed, or 0 if the
// histogram is empty.
func (h *Histogram) Percentile(p float64) time.Duration {
	return min(time.Duration(h.hdr.ValueAtPercentile(p)), h.max)
}

// Max returns the exact longest duration, or 0 if the histogram is empty.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the exact mean, or 0 if the histogram is empty.
func (h *Histogram) Mean() time.Duration {
	if n := h.Count(); n > 0 {
		return h.sum / time.Duration(n)
	}
	return 0
}

type histogramJSON struct {
	Count int64    `json:"count"`
	P50   *float64 `json:"p50"`
	P95   *float64 `json:"p95"`
	P99   *float64 `json:"p99"`
	Max   *float64 `json:"max"`
	Mean  *float64 `json:"mean"`
	HDR   string   `json:"hdr,omitempty"`
}

// MarshalJSON writes statistics in seconds, which are null if the histogram is
// empty, and the whole distribution in HdrHistogram's own format, in nanoseconds.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	s := histogramJSON{Count: h.Count()}
	if s.Count > 0 {
		seconds := func(d time.Duration) *float64 { v := d.Seconds(); return &v }
		s.P50, s.P95, s.P99 = seconds(h.Percentile(50)), seconds(h.Percentile(95)), seconds(h.Percentile(99))
		s.Max, s.Mean = seconds(h.Max()), seconds(h.Mean())
		hdr, err := h.hdr.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
		if err != nil {
			return nil, fmt.Errorf("encode a histogram: %w", err)
		}
		s.HDR = string(hdr)
	}
	return json.Marshal(s)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var s histogramJSON
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*h = *newHistogram()
	if s.Count == 0 {
		return nil
	}
	hdr, err := hdrhistogram.Decode([]byte(s.HDR))
	switch {
	case err != nil:
		return fmt.Errorf("decode a histogram: %w", err)
	case hdr.TotalCount() != s.Count || s.Max == nil || s.Mean == nil:
		return fmt.Errorf("a histogram of %d has %d values", s.Count, hdr.TotalCount())
	}
	h.hdr = hdr
	h.max = time.Duration(*s.Max * float64(time.Second))
	h.sum = time.Duration(*s.Mean * float64(time.Second) * float64(s.Count))
	return nil
}
