// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package grafana holds the generated dashboards against the types that Grafana
// publishes of them.
package grafana
