// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

// lines writes one line of JSON for each request.
type lines struct {
	path string
	file io.Closer // nil for standard output
	buf  *bufio.Writer
	enc  *json.Encoder
	err  error // the first
}

func newLines(path string, stdout io.Writer) (*lines, error) {
	l := &lines{path: path}
	if path == "-" {
		l.buf = bufio.NewWriter(stdout)
	} else {
		f, err := os.Create(path)
		if err != nil {
			return nil, fmt.Errorf("--requests: %w: nothing was sent", err)
		}
		l.file, l.buf = f, bufio.NewWriterSize(f, 1<<16)
	}
	l.enc = json.NewEncoder(l.buf)
	return l, nil
}

// line is one request. Times are in seconds: due counts from the start of the run,
// the others from when the request was due. A time that was not reached is null.
type line struct {
	Run         int      `json:"run,omitempty"` // counted from 0, of several
	N           uint64   `json:"n"`
	Turn        int      `json:"turn"` // of conversation n, from 1
	Due         float64  `json:"due"`
	Measured    bool     `json:"measured"`
	Outcome     string   `json:"outcome"`
	ErrorType   string   `json:"error_type,omitempty"`
	Error       string   `json:"error,omitempty"`
	Status      int      `json:"status,omitempty"`
	ID          string   `json:"id,omitempty"`
	Sent        *float64 `json:"sent"`
	Connected   *float64 `json:"connected"`
	Headers     *float64 `json:"headers"`
	FirstChunk  *float64 `json:"first_chunk"`
	FirstToken  *float64 `json:"first_token"`
	FirstAnswer *float64 `json:"first_answer"`
	LastToken   *float64 `json:"last_token"`
	End         *float64 `json:"end"`
	TPOT        *float64 `json:"tpot"`
	Chunks      int      `json:"chunks"`
	Input       *int     `json:"input_tokens"`
	Cached      *int     `json:"cached_tokens"`
	Output      *int     `json:"output_tokens"`
	Reasoning   *int     `json:"reasoning_tokens"`
	ServerPart  *server  `json:"server,omitempty"`
}

// server holds llama-server's timings, in seconds, and in the form in which the
// connector llamacpplog puts them on the span of the request.
type server struct {
	Prompt     float64 `json:"prompt"`
	Prediction float64 `json:"prediction"`
	Timings    string  `json:"timings"`
}

// of returns a function that writes the requests of one run.
func (l *lines) of(run int) func(loadgen.Sample) {
	return func(s loadgen.Sample) { l.write(run, s) }
}

func (l *lines) write(run int, s loadgen.Sample) {
	if l.err != nil {
		return
	}
	r := s.Result
	at := func(t time.Time) *float64 {
		if t.IsZero() {
			return nil
		}
		v := t.Sub(r.Due).Seconds()
		return &v
	}
	tokens := func(n int) *int {
		if n < 0 {
			return nil
		}
		return &n
	}
	o := line{
		Run: run, N: s.N, Turn: s.Turn + 1, Due: s.Due.Seconds(), Measured: s.Measured, Outcome: r.Outcome.String(), ErrorType: r.ErrorType,
		Status: r.Status, ID: r.ID, Sent: at(r.Sent), Connected: at(r.GotConn), Headers: at(r.Headers),
		FirstChunk: at(r.FirstChunk), FirstToken: at(r.FirstToken), FirstAnswer: at(r.FirstAnswer),
		LastToken: at(r.LastToken), End: at(r.End), Chunks: r.Chunks,
		Input: tokens(r.InputTokens), Cached: tokens(r.CachedTokens), Output: tokens(r.OutputTokens), Reasoning: tokens(r.ReasoningTokens),
	}
	if r.Err != nil {
		o.Error = r.Err.Error()
	}
	if d, ok := r.TPOT(); ok {
		v := d.Seconds()
		o.TPOT = &v
	}
	if t := r.Timings; t != nil {
		o.ServerPart = &server{t.Prompt.Seconds(), t.Predicted.Seconds(), timings.String(t.PromptTokens, t.Prompt, t.PredictedTokens, t.Predicted)}
	}
	l.err = l.enc.Encode(o)
}

func (l *lines) close() error {
	err := l.err
	if err == nil {
		err = l.buf.Flush()
	}
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	if err != nil {
		return fmt.Errorf("--requests: %w: %s is not complete", err, l.path)
	}
	return nil
}
