// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../tools/go.mod mdatagen metadata.yaml

// Package llamacpplogconnector turns the log of a llama-server into exact metrics
// and a trace of every request that it served.
package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"
