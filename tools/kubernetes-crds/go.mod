// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The definitions of custom resources that the API server of the tests gets. Apart from tools/kubernetes, whose versions
// these modules would change.
module github.com/llamatelemetry/otelcol-llamacpp/tools/kubernetes-crds

go 1.26.7

require (
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)

require (
	github.com/alecthomas/kingpin/v2 v2.4.0 // indirect
	github.com/alecthomas/units v0.0.0-20240927000941-0f3dac36c52b // indirect
	github.com/prometheus/common v0.71.0 // indirect
	github.com/xhit/go-str2duration/v2 v2.2.0 // indirect
)
