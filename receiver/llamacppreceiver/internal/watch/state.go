// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// State is the condition of a server, or of one model of a router.
type State int

const (
	Unreachable  State = iota // nothing answers
	Error                     // something answers, but not as llama-server does
	Unauthorized              // the API key is missing or wrong
	Loading                   // the model is being loaded
	Sleeping                  // idle, with the model unloaded
	OK
)

func (s State) String() string {
	return [...]string{"unreachable", "error", "unauthorized", "loading", "sleeping", "ok"}[s]
}

// judge asks for the answer that proves best that the server is up, writes into
// the view what it says of the server's state, and reports whether it came.
// Where it is late or an error, /health has the last word.
func judge[T any](ctx context.Context, until time.Time, s *Server, c *call[T], path string, v *View) (r *reading[T], answered bool) {
	r, answered = c.ask(ctx, until.Add(-time.Until(until)/2))
	if !answered {
		s.askHealth(ctx, until, nil, v)
		answered = r.wait(ctx, until)
	}
	sure := true
	switch {
	case answered && r.err == nil:
		v.State, v.Err = OK, nil
	case answered:
		sure = s.askHealth(ctx, until, r.err, v)
	}
	v.responded(path, r.took())
	if answered && sure && v.State == OK {
		s.news.endpoint(path, v.Err)
	}
	return r, answered
}

// askHealth finds out the server's state where the main answer was err, or is
// late (nil), and writes it into the view with the error that says most. sure is
// false when /health is late as well: one stall is noise, and nothing is known
// to have changed.
func (s *Server) askHealth(ctx context.Context, until time.Time, err error, v *View) (sure bool) {
	v.Err = err
	switch llamaserver.ReasonOf(err) {
	case llamaserver.Loading:
		v.State, v.Err = Loading, nil
		return true
	case llamaserver.Unauthorized: // /health is open to all
		v.State = Unauthorized
		return true
	case llamaserver.NeedsModel:
		v.State, v.Err = OK, nil
		return true
	}
	r, answered := s.health.ask(ctx, until)
	v.responded("/health", r.took())
	if !answered {
		return false
	}
	v.State = stateOf(r.err)
	switch v.State {
	case OK:
	case Loading:
		v.Err = nil
	case Error:
		if err == nil { // else it says more of what answers there
			v.Err = r.err
		}
	default:
		v.Err = r.err
	}
	return true
}

// stateOf is the state that an answer of /health means.
func stateOf(err error) State {
	if err == nil {
		return OK
	}
	switch llamaserver.ReasonOf(err) {
	case llamaserver.NoAnswer, llamaserver.Late:
		return Unreachable
	case llamaserver.Unauthorized:
		return Unauthorized
	case llamaserver.Loading:
		return Loading
	}
	return Error
}
