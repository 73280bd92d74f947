// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// said is a set of flags for the content of an event or of a whole body.
type said uint8

const (
	saidPart     said = 1 << iota // a part of the answer, even if only its role
	saidThought                   // text of reasoning
	saidText                      // text of the answer, or of a tool call
	saidEnd                       // the end of the answer
	saidError                     // an error of the server
	saidNonsense                  // not valid JSON
)

// answer collects what the events of a stream, or a whole body, tell about a
// request. It does not keep the text.
type answer struct {
	endpoint          Endpoint
	id, model, finish string
	// Tokens as the server counted them; -1 if it did not report them.
	input, cached, output, reasoning int
	// written is the number of tokens written to the cache, which Anthropic counts
	// separately from the input.
	written int
	timings []byte // the latest timings as JSON
	problem *ServerError
}

// reset prepares the answer for another request.
func (a *answer) reset(e Endpoint) {
	*a = answer{endpoint: e, input: -1, cached: -1, output: -1, reasoning: -1, timings: a.timings[:0]}
}

// ServerError is an error that the server reported.
type ServerError struct {
	// Status is the answer's status; 200 for an error within a stream.
	Status int
	// Type and Message are the server's own texts; Message may be truncated.
	Type, Message string
}

func (e *ServerError) Error() string {
	if e.Type == "" {
		return fmt.Sprintf("%d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%d: %s: %s", e.Status, e.Type, e.Message)
}

// read reads an event of a stream or a whole body.
func (a *answer) read(name, data []byte) said {
	if string(data) == "[DONE]" {
		return saidEnd
	}
	w := walker{text: data}
	if w.peek() != '{' {
		return saidNonsense
	}
	var s said
	switch a.endpoint {
	case Chat, Completions, Embeddings:
		s = a.choices(&w)
	case Native:
		s = a.native(&w)
	case Responses:
		s = a.response(&w, name)
	case Messages:
		s = a.message(&w, name)
	}
	if !w.ended() {
		return saidNonsense
	}
	if string(name) == "error" && s&saidError == 0 {
		// An older llama-server sends the error object itself, or no details.
		a.fail(data)
		s |= saidError
	}
	return s
}

// common reads a member that every endpoint may have.
func (a *answer) common(w *walker, name []byte, s *said) {
	switch string(name) {
	case "id":
		if a.id == "" {
			a.id = w.str()
		}
	case "model":
		if a.model == "" {
			a.model = w.str()
		}
	case "usage":
		a.usage(w)
	case "timings":
		if v := w.value(); v[0] == '{' {
			a.timings = append(a.timings[:0], v...)
		}
	case "error":
		if v := w.value(); string(v) != "null" {
			a.fail(v)
			*s |= saidError
		}
	}
}

func (a *answer) fail(v []byte) {
	a.problem = problem(200, v)
}

// choices reads a chunk or a whole body of chat completions, completions and
// embeddings.
func (a *answer) choices(w *walker) said {
	var s said
	progress := false
	w.object(func(name []byte) {
		switch string(name) {
		case "choices":
			w.array(func() {
				s |= saidPart
				w.object(func(name []byte) { a.choice(w, name, &s) })
			})
		case "data": // embeddings
			w.array(func() { s |= saidPart })
		case "prompt_progress":
			progress = true
		default:
			a.common(w, name, &s)
		}
	})
	if progress {
		s &^= saidPart
	}
	return s
}

func (a *answer) choice(w *walker, name []byte, s *said) {
	switch string(name) {
	case "delta", "message":
		w.object(func(name []byte) {
			switch string(name) {
			case "content", "refusal":
				s.text(saidText, w)
			case "reasoning_content", "reasoning": // llama.cpp's name and vLLM's
				s.text(saidThought, w)
			case "tool_calls":
				w.array(func() { *s |= saidText })
			}
		})
	case "text":
		s.text(saidText, w)
	case "finish_reason":
		if r := w.str(); r != "" {
			a.finish = r
		}
	}
}

func (s *said) text(kind said, w *walker) {
	if w.hasText() {
		*s |= kind
	}
}

// native reads an event or a whole body of llama.cpp's own completion.
func (a *answer) native(w *walker) said {
	s := saidPart
	w.object(func(name []byte) {
		switch string(name) {
		case "content":
			s.text(saidText, w)
		case "stop":
			if string(w.value()) == "true" {
				s |= saidEnd
			}
		case "stop_type":
			a.finish = w.str()
		case "tokens_predicted":
			a.output = int(w.number(-1))
		case "tokens_evaluated":
			a.input = int(w.number(-1))
		case "prompt_progress":
			s &^= saidPart
		default:
			a.common(w, name, &s)
		}
	})
	if s&saidError != 0 {
		s &^= saidPart
	}
	return s
}

// response reads an event or a whole body of responses.
func (a *answer) response(w *walker, name []byte) said {
	var (
		s     said
		text  bool
		inner = func(name []byte) { a.responseMember(w, name, &s) }
	)
	w.object(func(member []byte) {
		switch string(member) {
		case "type":
			if v := w.value(); len(v) > 2 {
				name = v[1 : len(v)-1]
			}
		case "delta":
			text = w.hasText()
		case "response":
			w.object(inner)
		default:
			inner(member)
		}
	})
	switch string(name) {
	case "response.created", "response.in_progress", "response.queued":
	case "response.completed", "response.incomplete":
		s |= saidPart | saidEnd
	case "response.failed", "error":
		if s |= saidError; a.problem == nil {
			a.fail(w.text)
		}
	case "response.output_text.delta", "response.refusal.delta", "response.function_call_arguments.delta", "response.custom_tool_call_input.delta":
		if s |= saidPart; text {
			s |= saidText
		}
	case "response.reasoning_text.delta", "response.reasoning_summary_text.delta":
		if s |= saidPart; text {
			s |= saidThought
		}
	case "": // the whole
	default:
		s |= saidPart
	}
	return s
}

func (a *answer) responseMember(w *walker, name []byte, s *said) {
	switch string(name) {
	case "status":
		a.finish = w.str()
	case "incomplete_details":
		w.object(func(name []byte) {
			if string(name) == "reason" {
				a.finish = w.str()
			}
		})
	case "output":
		if w.peek() == '[' {
			*s |= saidPart
		}
	default:
		a.common(w, name, s)
	}
}

// message reads an event or a whole body of Anthropic's messages.
func (a *answer) message(w *walker, name []byte) said {
	var (
		s     said
		inner = func(name []byte) { a.messageMember(w, name, &s) }
	)
	w.object(func(member []byte) {
		switch string(member) {
		case "type":
			if v := w.value(); len(v) > 2 {
				name = v[1 : len(v)-1]
			}
		case "message", "delta":
			w.object(inner)
		default:
			inner(member)
		}
	})
	switch string(name) {
	case "ping":
	case "message_start":
		a.output = -1 // it is 0 so far, which is not the final number
		s |= saidPart
	case "message_stop":
		s |= saidPart | saidEnd
	case "error":
		s |= saidError
	case "message": // the whole
	default:
		s |= saidPart
	}
	return s
}

func (a *answer) messageMember(w *walker, name []byte, s *said) {
	switch string(name) {
	case "text", "partial_json":
		s.text(saidText, w)
	case "thinking":
		s.text(saidThought, w)
	case "stop_reason":
		if r := w.str(); r != "" {
			a.finish = r
		}
	case "content":
		if w.peek() == '[' {
			*s |= saidPart
		}
	default:
		a.common(w, name, s)
	}
}

// usage reads the numbers of tokens under the names that any endpoint uses.
func (a *answer) usage(w *walker) {
	w.object(func(name []byte) {
		switch string(name) {
		case "prompt_tokens", "input_tokens":
			a.input = int(w.number(-1))
		case "completion_tokens", "output_tokens":
			a.output = int(w.number(-1))
		case "prompt_tokens_details", "input_tokens_details":
			w.object(func(name []byte) {
				if string(name) == "cached_tokens" {
					a.cached = int(w.number(-1))
				}
			})
		case "completion_tokens_details", "output_tokens_details":
			w.object(func(name []byte) {
				if string(name) == "reasoning_tokens" {
					a.reasoning = int(w.number(-1))
				}
			})
		case "cache_read_input_tokens":
			a.cached = int(w.number(-1))
		case "cache_creation_input_tokens":
			a.written = int(w.number(0))
		}
	})
}

// into copies the answer into a result. Numbers of tokens that the usage lacks are
// taken from the timings.
func (a *answer) into(r *Result) {
	r.ID, r.Model, r.FinishReason = a.id, a.model, a.finish
	r.InputTokens, r.CachedTokens, r.OutputTokens, r.ReasoningTokens = a.input, a.cached, a.output, a.reasoning
	if a.endpoint == Messages && a.input >= 0 { // whose input does not include cached tokens
		r.InputTokens += max(a.cached, 0) + a.written
	}
	if len(a.timings) == 0 {
		return
	}
	t := timings(a.timings)
	r.Timings = &t
	if r.InputTokens < 0 {
		r.InputTokens = t.PromptTokens + t.CachedTokens
	}
	if r.CachedTokens < 0 {
		r.CachedTokens = t.CachedTokens
	}
	if r.OutputTokens < 0 {
		r.OutputTokens = t.PredictedTokens
	}
}

func timings(b []byte) Timings {
	var t Timings
	w := walker{text: b}
	w.object(func(name []byte) {
		switch string(name) {
		case "cache_n":
			t.CachedTokens = int(w.number(0))
		case "prompt_n":
			t.PromptTokens = int(w.number(0))
		case "prompt_ms":
			t.Prompt = milliseconds(w.number(0))
		case "predicted_n":
			t.PredictedTokens = int(w.number(0))
		case "predicted_ms":
			t.Predicted = milliseconds(w.number(0))
		case "draft_n":
			t.DraftTokens = int(w.number(0))
		case "draft_n_accepted":
			t.DraftAccepted = int(w.number(0))
		}
	})
	return t
}

// milliseconds is exact to the nanosecond: 3.378 is a little less as a float64.
func milliseconds(ms float64) time.Duration {
	return time.Duration(math.Round(ms * float64(time.Millisecond)))
}

// problem parses an error of the server: {"error":{"type":…,"message":…}},
// {"error":"…"}, or only the inner value. Of anything else, the message is the
// beginning of the body.
func problem(status int, body []byte) *ServerError {
	e := &ServerError{Status: status, Message: string(body)}
	if gjson.ValidBytes(body) {
		v := gjson.ParseBytes(body)
		if inner := v.Get("error"); inner.Exists() {
			v = inner
		}
		if v.Type == gjson.String {
			e.Message = v.String()
		} else if m := v.Get("message"); m.Exists() {
			e.Type, e.Message = v.Get("type").String(), m.String()
		}
	}
	if len(e.Message) > 200 {
		e.Message = strings.ToValidUTF8(e.Message[:200], "") // the cut may be within a character
	}
	return e
}
