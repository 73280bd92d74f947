// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package loadreal has no code: its tests hold the load engine against the
// real llama-server, whose own counters say what was sent and generated.
package loadreal
