// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import "time"

// Event is what one line of the log says. Which fields are set depends on the
// Kind; the strings are parts of the line and do not outlive it unless cloned.
// No field ever holds text of a prompt or of an answer.
type Event struct {
	Kind Kind
	// Severity is that of the line: the letter or word in front of it, or
	// Unknown where the format has none.
	Severity Severity
	// Area is what the line calls the part of the server that wrote it: srv,
	// slot, que, cmn; empty where the format has none.
	Area string
	// Child is the port of the router's child that wrote the line, 0 when it
	// is the server itself.
	Child int
	// Clock is the time since the process started, by its monotonic clock, to
	// the microsecond; meaningful only if HasClock.
	Clock    time.Duration
	HasClock bool

	// Slot and Task are -1 where the line does not say them.
	Slot, Task int

	// Tokens is, by Kind:
	//   - PromptProgress: prompt tokens processed so far; in builds before 2026
	//     with cached ones
	//   - GenerationProgress: tokens generated so far
	//   - PromptDone: prompt tokens processed, without cached ones
	//   - GenerationDone: tokens generated
	//   - Release: tokens that the slot's sequence holds
	//   - NewPrompt: tokens of the whole prompt
	//   - Draft: drafted tokens that were accepted
	Tokens int
	// Drafted is how many tokens were drafted (Draft).
	Drafted int
	// Cached is how many tokens of the prompt came from the cache (PromptCached);
	// -1 where the line does not say.
	Cached int
	// Duration is the time since the prompt began (PromptProgress; 0 where the line
	// does not say), or what the server measured (PromptDone, GenerationDone).
	Duration time.Duration
	// Progress is the part of the prompt that is processed, 0 to 1, cached tokens
	// included (PromptProgress).
	Progress float64
	// Speed is in tokens per second since the prompt or the answer began
	// (PromptProgress, GenerationProgress); 0 where the line does not say.
	Speed float64
	// Truncated says that the sequence came to the end of its context: its oldest
	// tokens were dropped, or the answer was ended there (Release).
	Truncated bool
	// Early says that the build is one that may write the timings of a request,
	// or its error, right after its Release.
	Early bool
	// Reason says what went wrong, as a short constant of this package that is fit
	// for error.type (RequestError).
	Reason string
	// Text is the path of the model (Loading), the URL (Listening) or the name of
	// the model (Spawn, ChildExit).
	Text string
	// Port is that of the child (Spawn).
	Port int
}

// Kind says what happened.
type Kind uint8

// The kinds, in the order of a process's life.
const (
	// Other is a line of the server's log that says nothing about a request.
	Other Kind = iota
	// Start is the first line of a process.
	Start
	// Loading says that a model begins to load, at the start or on waking.
	Loading
	// Ready says that the model is loaded and its slots are made.
	Ready
	// Listening says that the server takes requests, and where.
	Listening
	// Launch says that a request got a slot.
	Launch
	// NewPrompt says how long the prompt of a request is (older builds, or raised verbosity).
	NewPrompt
	// PromptCached says how many tokens of a prompt were in the cache (where
	// NewPrompt is written). Older builds repeat it for each batch and add the
	// batches before: only the first of a request counts the cache alone.
	PromptCached
	// PromptProgress says how far a prompt is.
	PromptProgress
	// GenerationProgress says how far an answer is.
	GenerationProgress
	// PromptDone says how long the prompt took. The line is written at the request's end.
	PromptDone
	// GenerationDone says how long the answer took, from the first token to the last.
	GenerationDone
	// Draft says how many tokens were drafted and accepted by speculative decoding.
	Draft
	// ContextShift says that the oldest tokens of a sequence were dropped to go on.
	ContextShift
	// Cancel says that the client of a request went away, or has got an error: it follows each RequestError with a task.
	Cancel
	// RequestError says that a request failed or was refused; Task is -1 where the line does not say which.
	RequestError
	// Release says that a request left its slot.
	Release
	// Sleep says that the model is unloaded for want of requests.
	Sleep
	// Wake says that it is needed again.
	Wake
	// Stop says that the process is about to end.
	Stop
	// Spawn says that a router starts a child for a model.
	Spawn
	// ChildExit says that a child ended.
	ChildExit
)

// Severity of a line.
type Severity uint8

// The severities, those of the OpenTelemetry log data model that the server uses.
const (
	Unknown Severity = iota
	Debug
	Info
	Warning
	Error
)

// Reasons of RequestError.
const (
	// ReasonContextSize: the prompt does not fit into the context.
	ReasonContextSize = "exceed_context_size"
	// ReasonContextFull: the context was full before the answer was complete.
	ReasonContextFull = "context_full"
	// ReasonInvalidRequest: the request was malformed or asked for what the server does not do.
	ReasonInvalidRequest = "invalid_request"
	// ReasonServer: decoding failed, or another fault of the server.
	ReasonServer = "server_error"
	// ReasonUnavailable: no slot or no model to take the request.
	ReasonUnavailable = "unavailable"
)
