// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package histogram counts values in buckets and writes them as cumulative
// OpenTelemetry histograms, which metadata.yaml cannot declare. Neither kind is
// safe for concurrent use.
package histogram // import "github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"

import (
	"errors"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Point is a point that was emitted, to be given attributes and exemplars.
type Point interface {
	Attributes() pcommon.Map
	Exemplars() pmetric.ExemplarSlice
}

// errOtherBuckets is returned where stored counts do not fit the histogram that
// is to continue from them.
var errOtherBuckets = errors.New("the stored buckets are not the configured ones")

// values summarizes the values of a histogram, apart from their buckets.
type values struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

func (v *values) add(value float64) {
	if v.Count == 0 {
		v.Low, v.High = value, value
	}
	v.Low, v.High = min(v.Low, value), max(v.High, value)
	v.Count++
	v.Sum += value
}

// dataPoint is a pmetric.HistogramDataPoint or ExponentialHistogramDataPoint.
type dataPoint interface {
	SetStartTimestamp(pcommon.Timestamp)
	SetTimestamp(pcommon.Timestamp)
	SetCount(uint64)
	SetSum(float64)
	SetMin(float64)
	SetMax(float64)
}

func (v *values) emit(to dataPoint, start, now pcommon.Timestamp) {
	to.SetStartTimestamp(start)
	to.SetTimestamp(now)
	to.SetCount(v.Count)
	to.SetSum(v.Sum)
	if v.Count > 0 {
		to.SetMin(v.Low)
		to.SetMax(v.High)
	}
}

// stored is the form in which a histogram outlives the process.
type stored struct {
	values
	Counts []uint64 `json:"counts"`
	// Of exponential buckets: Counts begin with the bucket at Offset.
	Exponential bool   `json:"exponential,omitempty"`
	Scale       int32  `json:"scale,omitempty"`
	Offset      int32  `json:"offset,omitempty"`
	Zero        uint64 `json:"zero,omitempty"`
	Size        int32  `json:"size,omitempty"` // the most buckets that there may be
}
