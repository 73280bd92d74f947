// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package completion sends one request to an inference server and measures it:
// when it was sent, when each part of the answer arrived, how many tokens the
// server counted, and how it ended.
//
// A Watcher measures the answer to somebody else's request in the same way, from the
// bytes that pass by.
//
// It supports the APIs of OpenAI and Anthropic and llama.cpp's own, and reads
// llama-server's timings if an answer has them. Timestamps are taken as soon as
// bytes arrive, before they are parsed. A Result has no text of the prompt, and that
// of the answer only if it is asked for.
package completion // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
