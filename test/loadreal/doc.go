// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package loadreal has no code. Its tests compare the load generator's results with
// the counters of a real llama-server.
package loadreal
