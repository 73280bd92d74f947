// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../tools/go.mod mdatagen metadata.yaml

// Package loadgenextension runs load tests against an inference server, as
// profiles say, and is controlled over a REST API. The receiver of the same type
// gives what the runs measure to pipelines.
package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"
