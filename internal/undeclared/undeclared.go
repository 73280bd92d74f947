// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package undeclared puts metrics that metadata.yaml cannot declare beside those
// that it does: histograms, and families that are known only when they are seen.
package undeclared // import "github.com/llamatelemetry/otelcol-llamacpp/internal/undeclared"

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// MetricsOf returns the metrics in md, which a builder emitted for one resource,
// so that others can be appended. Where every declared metric is off the builder
// has emitted nothing: then the resource and the scope are added to md.
func MetricsOf(md pmetric.Metrics, resource pcommon.Resource, scope pcommon.InstrumentationScope) pmetric.MetricSlice {
	if md.ResourceMetrics().Len() == 0 {
		rm := md.ResourceMetrics().AppendEmpty()
		resource.CopyTo(rm.Resource())
		scope.CopyTo(rm.ScopeMetrics().AppendEmpty().Scope())
	}
	return md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
}
