// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import "time"

// Result holds the measurements of a request. Its times have monotonic clock
// readings, so that their differences are exact even if the wall clock is set. A
// time that was never reached is zero.
type Result struct {
	// Due is when the request should have been sent. Sent is when it was sent: its
	// body was ready and a connection was requested.
	Due, Sent time.Time
	// GotConn is when the request got a connection, new or reused.
	GotConn time.Time
	// Headers is when the first byte of the answer came.
	Headers time.Time
	// FirstChunk is when the first event of the answer arrived, with or without
	// text: an event with the role counts, one with the prompt's progress does not.
	FirstChunk time.Time
	// FirstToken is when the first text arrived, of reasoning or of the answer.
	// FirstAnswer is when the first text of the answer itself or of a tool call
	// arrived. LastToken is when the last text arrived. Answers that are not
	// streamed have none of the four.
	FirstToken, FirstAnswer, LastToken time.Time
	// End is when the answer was complete, or when the request failed.
	End time.Time

	// Chunks is the number of events with text. A chunk may hold several
	// tokens: see TokensPerChunk.
	Chunks int
	// Gaps are the times between consecutive chunks with text. There is one fewer
	// than Chunks, and their sum is LastToken - FirstToken.
	Gaps []time.Duration

	// InputTokens is the number of tokens of the prompt, of which CachedTokens came
	// from the cache. OutputTokens is the number of generated tokens, of which
	// ReasoningTokens are reasoning. All are as the server counted them, or -1 if it
	// did not report them.
	InputTokens, CachedTokens, OutputTokens, ReasoningTokens int
	// Timings are llama-server's own timings; nil if the answer had none.
	Timings *Timings

	// Text is the text of the answer, without reasoning and tool calls; "" unless
	// Request.KeepText is set.
	Text string
	// ID and Model are those of the answer. FinishReason is why the model stopped, in
	// the endpoint's own terms.
	ID, Model, FinishReason string
	// Status is the answer's HTTP status; 0 if there was no answer. RetryAfter is the
	// time after which the server asks to try again; 0 if it did not ask.
	Status     int
	RetryAfter time.Duration
	// Reused reports whether the connection had been used before. Resent is how often
	// the request was sent again on another connection, because the server had
	// closed a reused one without an answer.
	Reused bool
	Resent int

	Outcome Outcome
	// ErrorType is the class of the error: the answer's status code, a class of
	// package netfailure or one of the constants below; "" if there was no error.
	ErrorType string
	// Err is the error itself. It has no text of the prompt or answer, unless the
	// server repeats some of it in its error.
	Err error
}

// Outcome is how a request ended.
type Outcome uint8

const (
	OK        Outcome = iota // the whole answer came
	Failed                   // there was an error
	Cancelled                // the client cancelled it because of Request.CancelAfter or the context
	Dropped                  // it was never sent, because too many were in flight
)

var outcomes = [...]string{OK: "ok", Failed: "error", Cancelled: "cancelled", Dropped: "dropped"}

// String returns ok, error, cancelled or dropped.
func (o Outcome) String() string { return outcomes[o] }

// Values of Result.ErrorType besides status codes and netfailure's classes.
const (
	FirstTokenTimeout = "first_token_timeout" // no first token in time
	StreamCut         = "stream_cut"          // the answer began, but its end did not come
	ErrorEvent        = "error_event"         // the server reported an error within the stream
	Malformed         = "malformed"           // 200, but not an answer of this endpoint
	TooLarge          = "too_large"           // an event or answer of more than Options.MaxEvent bytes
	InvalidRequest    = "invalid_request"     // the endpoint does not support such a request
)

// Timings are llama-server's own measurements.
type Timings struct {
	// PromptTokens is the number of prompt tokens that were processed, which took the
	// time Prompt. CachedTokens is the number taken from the cache instead.
	PromptTokens, CachedTokens int
	Prompt                     time.Duration
	// PredictedTokens is the number of generated tokens. Predicted is the time from
	// the first to the last of them: the time of the first is part of Prompt.
	PredictedTokens int
	Predicted       time.Duration
	// DraftTokens is the number of tokens that speculative decoding drafted, of which
	// DraftAccepted were kept.
	DraftTokens, DraftAccepted int
}

// TTFT returns the time to first token from start, which is Due or Sent, and false
// if there was no token.
func (r *Result) TTFT(start time.Time) (time.Duration, bool) {
	return r.FirstToken.Sub(start), !r.FirstToken.IsZero()
}

// TPOT returns the time per output token after the first, which is
// (LastToken - FirstToken) / (OutputTokens - 1), and false if there was no second
// token, no stream, or if the number of tokens is unknown.
func (r *Result) TPOT() (time.Duration, bool) {
	if r.OutputTokens < 2 || r.FirstToken.IsZero() {
		return 0, false
	}
	return r.LastToken.Sub(r.FirstToken) / time.Duration(r.OutputTokens-1), true
}

// TokensPerChunk returns OutputTokens / Chunks, and false if either is unknown.
func (r *Result) TokensPerChunk() (float64, bool) {
	if r.OutputTokens < 1 || r.Chunks == 0 {
		return 0, false
	}
	return float64(r.OutputTokens) / float64(r.Chunks), true
}
