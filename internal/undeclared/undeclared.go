// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package undeclared puts metrics that metadata.yaml cannot declare beside those
// that it does: histograms, and families that are known only when they are seen.
package undeclared // import "github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// MetricsOf returns the metrics of what a builder emitted for one resource, to
// add to. Where every declared metric is off the builder has emitted nothing,
// and the resource is added.
func MetricsOf(md pmetric.Metrics, resource pcommon.Resource, scope pcommon.InstrumentationScope) pmetric.MetricSlice {
	if md.ResourceMetrics().Len() == 0 {
		rm := md.ResourceMetrics().AppendEmpty()
		resource.CopyTo(rm.Resource())
		scope.CopyTo(rm.ScopeMetrics().AppendEmpty().Scope())
	}
	return md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
}
