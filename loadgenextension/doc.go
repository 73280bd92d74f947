// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../tools/go.mod mdatagen metadata.yaml

// Package loadgenextension runs load tests against an inference server. Profiles
// in the configuration define the tests, and a REST API controls them. The
// receiver of the same type feeds their metrics and traces to pipelines.
package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"
