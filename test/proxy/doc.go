// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxy has no code: its tests put the proxy of the collector that
// `make build` built between clients and servers, and look at what each of them
// gets to see, down to the bytes, and at the OTLP that comes out.
package proxy
