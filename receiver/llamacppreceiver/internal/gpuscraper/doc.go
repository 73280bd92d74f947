// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../../../tools/go.mod mdatagen metadata.yaml
// A scraper is no component of its own, which is what this file tests.
//go:generate rm generated_component_test.go

// Package gpuscraper turns readings of NVIDIA GPUs into metrics, and reports how
// much of their memory the watched server holds.
package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"
