// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package kubernetes has no code: its tests hold the manifests in
// deploy/kubernetes against a real API server, and run the collector with the
// configurations that are in them.
package kubernetes
