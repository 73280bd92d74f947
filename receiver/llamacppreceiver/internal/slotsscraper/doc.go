// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../../../tools/go.mod mdatagen metadata.yaml
// A scraper is no component of its own, which is what this file tests.
//go:generate rm generated_component_test.go

// Package slotsscraper turns /slots into metrics: what each slot is doing, and
// the live token counters.
package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"
