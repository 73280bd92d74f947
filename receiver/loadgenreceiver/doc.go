// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../tools/go.mod mdatagen metadata.yaml

// Package loadgenreceiver feeds the measurements of the extension of the same
// type, metrics and a span for each request, to pipelines.
package loadgenreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver"
