// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import "time"

// Result is a request as it was measured. Its times have monotonic clock
// readings, so that their differences are exact whatever happens to the wall
// clock; a time that was never reached is zero.
type Result struct {
	// Due is when the request should have been sent, Sent when it was: when
	// its body was ready and a connection was asked for.
	Due, Sent time.Time
	// GotConn is when there was a connection, old or new.
	GotConn time.Time
	// Headers is when the first byte of the answer came.
	Headers time.Time
	// FirstChunk is when the first event of the stream came that belongs to
	// the answer, whether it had text or not: one that names the role counts,
	// one that tells of the prompt's progress does not.
	FirstChunk time.Time
	// FirstToken is when the first text came, of reasoning or of the answer;
	// FirstAnswer is when the first text of the answer itself came, a tool call
	// included. LastToken is when the last text came. Answers that are not
	// streamed have none of the four.
	FirstToken, FirstAnswer, LastToken time.Time
	// End is when the answer was complete, or the error was known.
	End time.Time

	// Chunks is the number of events with text. A chunk may hold several
	// tokens: see TokensPerChunk.
	Chunks int
	// Gaps are the times between one chunk with text and the next: one fewer
	// than Chunks, and LastToken - FirstToken in all.
	Gaps []time.Duration

	// InputTokens are the prompt's, those from the cache included, of which
	// CachedTokens is the number. OutputTokens are those generated, those of
	// reasoning included, of which ReasoningTokens is the number. All are as
	// the server counted them, -1 where it did not say.
	InputTokens, CachedTokens, OutputTokens, ReasoningTokens int
	// Timings are llama-server's own, nil where none came.
	Timings *Timings

	// ID and Model are the response's, FinishReason is why the model stopped,
	// in the endpoint's own words.
	ID, Model, FinishReason string
	// Status is the answer's HTTP status, 0 where none came. RetryAfter is how
	// long the server asks to be left alone, 0 where it does not.
	Status     int
	RetryAfter time.Duration
	// Reused reports whether the connection had been used before. Resent is
	// how often the server had closed such a connection without an answer, so
	// that the request was sent again on another.
	Reused bool
	Resent int

	Outcome Outcome
	// ErrorType is the class of the error, "" where there was none: the
	// answer's status code, or one of the constants.
	ErrorType string
	// Err tells more. It has no text of prompt or answer, unless the server
	// repeats some in its error.
	Err error
}

// Outcome is how a request ended.
type Outcome uint8

const (
	OK        Outcome = iota // the whole answer came
	Failed                   // anything else that was not wanted
	Cancelled                // the client left, as Request.CancelAfter or the context said
	Dropped                  // never sent: too many were in flight
)

var outcomes = [...]string{OK: "ok", Failed: "error", Cancelled: "cancelled", Dropped: "dropped"}

// String is ok, error, cancelled or dropped.
func (o Outcome) String() string { return outcomes[o] }

// Values of Result.ErrorType besides status codes.
const (
	ConnectTimeout    = "connect_timeout"     // no connection in time
	FirstTokenTimeout = "first_token_timeout" // no first token in time
	Timeout           = "timeout"             // the answer was not complete in time
	ConnectionRefused = "connection_refused"  // nobody listens there
	ConnectionClosed  = "connection_closed"   // closed or reset before the answer began
	NoSuchHost        = "no_such_host"        // the name has no address
	TLS               = "tls"                 // no secure connection
	Network           = "network"             // anything else below HTTP
	StreamCut         = "stream_cut"          // the answer began, but its end did not come
	ErrorEvent        = "error_event"         // the server told of an error within the stream
	Malformed         = "malformed"           // 200, but not an answer of this endpoint
	TooLarge          = "too_large"           // an event or answer of more than Options.MaxEvent bytes
	InvalidRequest    = "invalid_request"     // the request cannot be put into words for this endpoint
)

// Timings are what llama-server measured itself.
type Timings struct {
	// PromptTokens were computed and took Prompt; CachedTokens were taken from
	// the cache instead.
	PromptTokens, CachedTokens int
	Prompt                     time.Duration
	// PredictedTokens were generated. Predicted is from the first to the last:
	// the first one's time is the prompt's.
	PredictedTokens int
	Predicted       time.Duration
	// DraftTokens were drafted by speculative decoding, DraftAccepted of them kept.
	DraftTokens, DraftAccepted int
}

// TTFT is the time to first token from start, which is Due or Sent; false
// where no token came.
func (r *Result) TTFT(start time.Time) (time.Duration, bool) {
	return r.FirstToken.Sub(start), !r.FirstToken.IsZero()
}

// TPOT is the time per output token after the first:
// (LastToken - FirstToken) / (OutputTokens - 1); false where there is no
// second token, or its number is unknown.
func (r *Result) TPOT() (time.Duration, bool) {
	if r.OutputTokens < 2 || r.FirstToken.IsZero() {
		return 0, false
	}
	return r.LastToken.Sub(r.FirstToken) / time.Duration(r.OutputTokens-1), true
}

// TokensPerChunk is OutputTokens / Chunks; false where either is unknown.
func (r *Result) TokensPerChunk() (float64, bool) {
	if r.OutputTokens < 1 || r.Chunks == 0 {
		return 0, false
	}
	return float64(r.OutputTokens) / float64(r.Chunks), true
}
