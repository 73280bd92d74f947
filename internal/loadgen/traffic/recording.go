// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package traffic reads recordings of the requests that servers really got: when
// each came, how long its prompt and answer were, and how much of the prompt was
// in the server's cache.
//
// No recording has the prompts themselves. What prompts had in common is kept as
// the number of an earlier request and of the tokens with which both begin, so that
// prompts made up of any words can hit the cache as the real ones did.
package traffic // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// Request is a recorded request. A recording may have millions of them.
type Request struct {
	// Due is when it came, counted from the start of the window that was read.
	Due time.Duration
	// Input is the number of tokens of the prompt, of which Cached were in the
	// server's cache. Output is the number of tokens of the answer. All are 0 in a
	// recording of times.
	Input, Cached, Output int32
	// From is the number of an earlier request whose prompt begins with the same
	// Shared tokens; -1 if there is none. The Shared of that request is less, or 0.
	From, Shared int32
}

// Recording is a list of requests in the order in which they came.
type Recording struct {
	Format   Format
	Requests []Request
	// LeftOut is the number of requests whose lengths the file lacks, such as those
	// that were cancelled.
	LeftOut int
}

// Format is the format of a recording.
type Format uint8

const (
	// OTLP is what the Collector's file exporter writes: lines of JSON, with the spans
	// of connector llamacpplog or others that follow the GenAI conventions.
	OTLP Format = iota
	// Mooncake is the format of the traces of Mooncake, with hashes of the blocks of
	// 512 tokens that each prompt begins with:
	// https://github.com/kvcache-ai/Mooncake/tree/main/FAST25-release
	Mooncake
	// Times are seconds from the start, one a line, without lengths.
	Times
)

// String returns the name of the format.
func (f Format) String() string { return [...]string{"OTLP", "Mooncake", "times"}[f] }

// Window is the part of a recording to read: the requests that came at From or
// later, and before To unless that is 0. Both count from the first request of OTLP,
// and from the time 0 of the other formats.
type Window struct{ From, To time.Duration }

func (w Window) has(t time.Duration) bool { return t >= w.From && (w.To == 0 || t < w.To) }

// maxLine is the size of the longest line that is read: the file exporter writes a
// whole batch of spans into one.
const maxLine = 256 << 20

// maxTokens is the largest number of tokens that is taken for one.
const maxTokens = 1 << 24

// parser reads the lines of one format.
type parser interface {
	line(b []byte) error
	// end returns the recording after the last line.
	end() (*Recording, error)
}

// Read reads a recording whose format it recognizes by its first line. name is the
// file's name in errors.
func Read(r io.Reader, name string, w Window) (*Recording, error) {
	if w.From < 0 || w.To != 0 && w.To <= w.From {
		return nil, fmt.Errorf("window from %s to %s: want from 0 on, and an end after the start", w.From, w.To)
	}
	var (
		lines = bufio.NewScanner(r)
		p     parser
		n     = 0
	)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\ufeff")))
		if len(line) == 0 {
			continue
		}
		if p == nil {
			p = recognize(line, w)
		}
		if p == nil {
			return nil, fmt.Errorf("%s:%d: no recording of requests: want traces that the Collector's file exporter wrote as JSON, a trace in Mooncake's format, or seconds from the start, one a line", name, n)
		}
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s:%d: a line of more than %d MiB: want lines of JSON", name, n+1, maxLine>>20)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if p == nil {
		return nil, fmt.Errorf("%s: empty: want a recording of requests", name)
	}
	rec, err := p.end()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(rec.Requests) == 0 {
		return nil, fmt.Errorf("%s: %w", name, none(rec, w))
	}
	return rec, nil
}

func none(rec *Recording, w Window) error {
	switch {
	case rec.LeftOut > 0:
		return fmt.Errorf("none of its %d requests has lengths: want spans with gen_ai.usage.input_tokens and gen_ai.usage.output_tokens", rec.LeftOut)
	case w.To > 0:
		return fmt.Errorf("no request from %s to %s: want another window", w.From, w.To)
	case w.From > 0:
		return fmt.Errorf("no request at %s or later: want an earlier start", w.From)
	case rec.Format == OTLP:
		return errors.New("no span of a request: want the traces of connector llamacpplog, or others with gen_ai.usage.input_tokens")
	}
	return errors.New("no request")
}

func recognize(line []byte, w Window) parser {
	if _, err := strconv.ParseFloat(string(line), 64); err == nil {
		return &times{window: w}
	}
	if !gjson.ValidBytes(line) {
		return nil
	}
	v := gjson.ParseBytes(line)
	switch {
	case v.Get("resourceSpans").Exists(), v.Get("resourceLogs").Exists(), v.Get("resourceMetrics").Exists():
		return newOTLP(w)
	case v.Get("timestamp").Exists() && v.Get("input_length").Exists():
		return newMooncake(w)
	}
	return nil
}

// Scale multiplies all numbers of tokens.
func (r *Recording) Scale(by float64) {
	scale := func(n *int32, least int32) { *n = max(least, int32(min(maxTokens, math.Round(float64(*n)*by)))) }
	for i := range r.Requests {
		q := &r.Requests[i]
		scale(&q.Input, min(q.Input, 1))
		scale(&q.Output, min(q.Output, 1))
		scale(&q.Cached, 0)
		scale(&q.Shared, 0)
	}
}

// Longest returns the number of the request with the longest prompt and answer
// together.
func (r *Recording) Longest() int {
	longest := 0
	for i, q := range r.Requests {
		if q.whole() > r.Requests[longest].whole() {
			longest = i
		}
	}
	return longest
}

// whole returns the length of prompt and answer together.
func (q *Request) whole() int32 { return q.Input + q.Output }

// add appends a request whose prompt begins as that of request from does, with so
// many tokens. If even an earlier one begins with them, that one is noted instead:
// finding the beginning of a prompt takes few steps then, however long the
// recording.
func (r *Recording) add(q Request, from, shared int32) {
	if from >= 0 {
		shared = min(shared, q.Input, r.Requests[from].Input)
	}
	for from >= 0 && r.Requests[from].Shared >= shared {
		from = r.Requests[from].From
	}
	if q.From, q.Shared = from, shared; from < 0 || shared <= 0 {
		q.From, q.Shared = -1, 0
	}
	r.Requests = append(r.Requests, q)
}
