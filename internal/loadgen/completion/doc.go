// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package completion sends one request to an inference server and measures it:
// when it was sent, when each part of the answer came, how many tokens the
// server counted, and how it ended.
//
// It speaks the APIs of OpenAI and Anthropic and llama.cpp's own, and takes
// llama-server's timings where they come. Every time is taken as soon as the
// bytes have arrived, before anything is parsed. Prompts and answers are not
// kept: no Result has a word of either.
package completion // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
