// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package requests follows the requests of a llama-server through its log. It
// knows no OpenTelemetry.
package requests // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"

import "time"

// Outcome says how a request ended.
type Outcome uint8

const (
	// Completed says that the server sent the whole answer.
	Completed Outcome = iota
	// Cancelled says that the client went away.
	Cancelled
	// Rejected says that the server refused the request, as a rule with status 400.
	Rejected
	// Failed says that the server could not finish it, or stopped.
	Failed
	// Lost says that the lines that would say how it ended are missing.
	Lost

	// Outcomes is how many there are.
	Outcomes = iota
)

// String is the value of the attribute llamacpp.request.outcome.
func (o Outcome) String() string {
	return [Outcomes]string{"completed", "cancelled", "rejected", "failed", "unknown"}[o]
}

// Reasons beside those of the log, fit for error.type.
const (
	ReasonCancelled     = "cancelled"
	ReasonServerStopped = "server_stopped"
	ReasonLost          = "log_lines_lost"
)

// Unknown stands for a count of tokens that the log does not say.
const Unknown = -1

// Request is what the log says of one request. Times are on the clock of its
// Process.
type Request struct {
	Process *Process `json:"-"`
	// Slot and Task are -1 for a request that never got a slot.
	Slot int `json:"slot"`
	Task int `json:"task"`
	// Launched is when the request got its slot, and Ended when it left it.
	// HasLaunch says that the line was seen; else Launched follows from the
	// durations that the server measured, or is that of the first line.
	Launched  time.Duration `json:"launched"`
	Ended     time.Duration `json:"ended"`
	HasLaunch bool          `json:"has_launch"`

	Outcome Outcome `json:"outcome"`
	// Reason is a constant of this package or of serverlog, empty for a
	// completed request.
	Reason string `json:"reason,omitempty"`

	// HasTimings says that the server's own measurements, below, are there.
	HasTimings bool `json:"has_timings"`
	// Reported is when the server wrote them: the last token was out.
	Reported time.Duration `json:"reported"`
	// PromptTime is from the beginning of the prompt to the first token, and
	// GenerationTime from there to the last one.
	PromptTime     time.Duration `json:"prompt_time"`
	GenerationTime time.Duration `json:"generation_time"`
	// Processed is how many tokens of the prompt were computed, and Cached how
	// many were in the cache; either may be Unknown.
	Processed int `json:"processed"`
	Cached    int `json:"cached"`
	// Prompt is the length of the whole prompt where a line says it, and Held
	// how many tokens the slot's sequence held at its release, else Unknown.
	Prompt int `json:"prompt"`
	Held   int `json:"held"`
	// Generated is how many tokens were generated, or Unknown.
	Generated int `json:"generated"`
	// Drafted and Accepted are tokens of speculative decoding, 0 without it.
	Drafted  int `json:"drafted,omitempty"`
	Accepted int `json:"accepted,omitempty"`
	// Truncated says that the request came to the end of its context, and
	// Shifted that its oldest tokens were dropped to go on.
	Truncated bool `json:"truncated,omitempty"`
	Shifted   bool `json:"shifted,omitempty"`
	// Waits says that it has left its slot, but that the line that says how has
	// not come yet.
	Waits bool `json:"waits,omitempty"`
	// Replaced is when another request got the slot before this one was seen to
	// leave it, 0 while none did.
	Replaced time.Duration `json:"replaced,omitempty"`

	Progress []Progress `json:"progress,omitempty"`
}

// Progress is how far a request was at a moment.
type Progress struct {
	Clock time.Duration `json:"clock"`
	// Generating tells progress of the answer from that of the prompt.
	Generating bool `json:"generating"`
	// Tokens of the answer, or of the prompt, so far.
	Tokens int `json:"tokens"`
	// Part of the prompt, 0 to 1; 0 for an answer.
	Part float64 `json:"part,omitempty"`
	// Speed in tokens per second.
	Speed float64 `json:"speed,omitempty"`
}

// Duration returns how long the request held its slot. For one that the server
// measured it is the sum of its two parts, which leaves out the microseconds
// of taking and leaving the slot; else it is the time between two lines.
// ok is false where the log does not say it.
func (r *Request) Duration() (d time.Duration, ok bool) {
	switch {
	case r.HasTimings:
		return r.PromptTime + r.GenerationTime, true
	case r.HasLaunch && r.Process.Exact:
		return r.Ended - r.Launched, true
	default:
		return 0, false
	}
}

// FirstToken returns when the first token was out.
func (r *Request) FirstToken() (at time.Duration, ok bool) {
	if !r.HasTimings || r.Generated < 1 {
		return 0, false
	}
	return r.Reported - r.GenerationTime, true
}

// TimePerOutputToken returns the mean time between two tokens of the answer.
func (r *Request) TimePerOutputToken() (d time.Duration, ok bool) {
	if !r.HasTimings || r.Generated < 2 {
		return 0, false
	}
	return r.GenerationTime / time.Duration(r.Generated-1), true
}

// PromptSpeed returns how many tokens of the prompt were computed per second.
func (r *Request) PromptSpeed() (tokensPerSecond float64, ok bool) {
	if r.Processed < 1 || r.PromptTime <= 0 {
		return 0, false
	}
	return float64(r.Processed) / r.PromptTime.Seconds(), true
}

// GenerationSpeed returns how many tokens were generated per second after the
// first one, which belongs to the prompt.
func (r *Request) GenerationSpeed() (tokensPerSecond float64, ok bool) {
	if !r.HasTimings || r.Generated < 2 || r.GenerationTime <= 0 {
		return 0, false
	}
	return float64(r.Generated-1) / r.GenerationTime.Seconds(), true
}

// InputTokens returns the length of the prompt, with what was in the cache where
// that is known.
func (r *Request) InputTokens() (n int, ok bool) {
	if r.Processed < 0 {
		return 0, false
	}
	return r.Processed + max(r.Cached, 0), true
}

// settle works out what follows only from several lines together.
func (r *Request) settle() {
	if r.HasTimings { // the line's time may be rounded, or that of reading
		r.Ended = max(r.Ended, r.Reported)
		r.Launched = min(r.Launched, r.Reported-r.PromptTime-r.GenerationTime)
	}
	r.Launched = min(r.Launched, r.Ended)
	// What follows from other counts is surer than the line about the cache:
	// older builds repeat that line for each batch, only the first one counts,
	// and that may be missing.
	if r.Processed != Unknown {
		switch {
		case r.Prompt >= r.Processed:
			r.Cached = r.Prompt - r.Processed
		case r.Held != Unknown && r.Generated > 0 && !r.Shifted:
			// The last token generated is not part of the sequence. Where
			// tokens were dropped the sum does not hold.
			if n := r.Held - (r.Generated - 1) - r.Processed; n >= 0 {
				r.Cached = n
			}
		}
	}
}
