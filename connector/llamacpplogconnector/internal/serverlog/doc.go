// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package serverlog reads the log of llama.cpp's llama-server. It knows no
// OpenTelemetry and keeps no text of prompts.
package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
