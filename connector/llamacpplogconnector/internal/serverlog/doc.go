// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package serverlog reads the log of llama.cpp's llama-server. It knows no
// OpenTelemetry and keeps no text of prompts.
//
// It reads the builds from September 2024 on, with and without time, level and
// colors, as text and as JSON, of a single server and of a router with its
// children. FORMATS.md says what the lines of which builds look like and what
// they lack. Lines of other builds, of other programs and at raised verbosity
// are passed over.
//
// A line counts by how its message begins. What users wrote stands later in a
// message or on lines without a prefix, so that at any verbosity no event holds
// it. The lines themselves may, an error's text at default verbosity too. Users
// can also make lines of their own: a grammar that is broken is printed as it
// is, newlines included. Events are no proof of anything.
package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
