// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"errors"
	"fmt"
	"io"
)

// reading is an answer that is being read, whoever asked for it.
type reading struct {
	result Result
	answer answer
	events eventReader
}

// flaw is what is wrong with an answer itself. Other errors are of the connection.
type flaw struct {
	class string // Result.ErrorType
	error
}

func (f *flaw) Unwrap() error { return f.error }

// take takes in an event of a stream.
func (r *reading) take(e event) (said, error) {
	r.result.End = e.arrived
	s := r.answer.read(e.name, e.data)
	switch {
	case s == saidNonsense && !e.whole:
		return s, io.ErrUnexpectedEOF
	case s == saidNonsense:
		return s, &flaw{Malformed, errors.New("an event that is not JSON: is this the address of an inference server?")}
	case s&saidError != 0:
		return s, &flaw{ErrorEvent, r.answer.problem}
	}
	if s&saidPart != 0 && r.result.FirstChunk.IsZero() {
		r.result.FirstChunk = e.arrived
	}
	if s&(saidThought|saidText) != 0 {
		if r.result.Chunks++; r.result.Chunks == 1 {
			r.result.FirstToken = e.arrived
		}
		r.result.LastToken = e.arrived
		if s&saidText != 0 && r.result.FirstAnswer.IsZero() {
			r.result.FirstAnswer = e.arrived
		}
	}
	if s&saidEnd != 0 && r.result.FirstChunk.IsZero() {
		return s, &flaw{Malformed, errors.New("an answer that ends before it has begun")}
	}
	return s, nil
}

// ended returns what is wrong with a stream that ended with err and without the event
// that ends the answer. OpenAI's last event, [DONE], adds nothing: if there was a
// finish reason and the stream was closed in order, the answer is complete.
func (r *reading) ended(err error) error {
	e := r.answer.endpoint
	switch {
	case errors.Is(err, io.EOF) && r.answer.finish != "" && (e == Chat || e == Completions):
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, errTooLarge):
		return &flaw{TooLarge, fmt.Errorf("%w: %d", err, r.events.limit)}
	}
	return err
}

// takeWhole takes in an answer that is not a stream.
func (r *reading) takeWhole(body []byte) (said, error) {
	s := r.answer.read(nil, body)
	switch {
	case s&saidError != 0:
		return s, &flaw{ErrorEvent, r.answer.problem}
	case s&saidPart == 0:
		return s, &flaw{Malformed, fmt.Errorf("not an answer of the endpoint %s: is this the address of an inference server?", r.answer.endpoint)}
	}
	return s, nil
}

// unread returns why the body of an answer that is not a stream could not be read.
func (r *reading) unread(err error) error {
	if errors.Is(err, errTooLarge) {
		return &flaw{TooLarge, fmt.Errorf("answer of more bytes than allowed: %d", r.events.limit)}
	}
	return err
}
