// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package promtest runs a real Prometheus for tests: it builds the version that
// tools/prometheus pins, starts and ends the process, and sends it queries.
package promtest

import "github.com/llamatelemetry/otelcol-llamacpp/test/pinned"

// Programs are prometheus and promtool.
var Programs = pinned.Programs{
	Name: "Prometheus", Folder: "prometheus",
	Module: "github.com/prometheus/prometheus", Packages: []string{"cmd/prometheus", "cmd/promtool"},
	// Service discovery is most of what Prometheus depends on, and no test needs it.
	Tags: "remove_all_sd",
	Cure: "go run ./test/cmd/install-prometheus",
}
