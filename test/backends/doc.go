// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package backends has no code: its tests run the collector that `make build`
// built, with the shipped configurations, against a real Prometheus.
package backends
