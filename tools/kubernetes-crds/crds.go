// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package crds pins the modules whose custom resource definitions the API server
// of the tests gets.
package crds

import (
	_ "github.com/kedacore/keda/v2/version"                                // ScaledObject, TriggerAuthentication
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil" // PodMonitor, PrometheusRule
)
