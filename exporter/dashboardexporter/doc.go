// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../tools/go.mod mdatagen metadata.yaml

// Package dashboardexporter shows what pipelines bring it on a live page. It keeps
// metrics in an embedded Prometheus, whose API it serves as well, and the last
// requests from traces.
package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"
