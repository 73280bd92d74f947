// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e has no code: its tests run the collector that `make build` built
// against the real llama-server and look at the OTLP that comes out.
package e2e
