// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import (
	"slices"
	"strings"
)

// Parser reads the log of one server, line by line in the order in which they
// were written. Its zero value is ready. It is not safe for concurrent use.
type Parser struct {
	event Event
	// headers are those lines of older builds after which timings follow on
	// lines of their own, without prefix: at most one a child.
	headers []Event
}

// Parse reads one log record, with or without its final newline, and calls
// yield for each event in it: as a rule one, more where a record holds several
// lines, and none for what is no line of the server's log. The Event and its
// strings are valid only during the call.
func (p *Parser) Parse(record string, yield func(*Event)) {
	for record != "" {
		var line string
		line, record, _ = strings.Cut(record, "\n")
		p.line(line, 0, yield)
	}
}

// line reads a line of the server, or what the router wrote of a child's line,
// after the port.
func (p *Parser) line(s string, child int, yield func(*Event)) {
	s = trimEnd(s)
	if child == 0 {
		if port, rest, ok := cutChild(s); ok {
			p.line(rest, port, yield)
			return
		}
	}
	if strings.HasPrefix(s, "{") {
		p.object(s, child, yield)
		return
	}
	p.event = Event{Child: child, Slot: -1, Task: -1, Cached: -1}
	text, ok := p.event.cutPrefix(s)
	if next, unended := strings.CutPrefix(text, textUnended); unended && next != "" {
		p.line(next, child, yield)
		return
	}
	p.message(text, ok, yield)
}

// object reads a line of --log-jsonl. Only the first line of a message is sure
// to begin with the server's own words: the others may be text of users.
func (p *Parser) object(s string, child int, yield func(*Event)) {
	o, ok := readObject(s)
	if !ok {
		return
	}
	first, rest, _ := strings.Cut(o.message, "\n")
	if child == 0 {
		if port, line, ok := cutChild(first); ok {
			p.line(line, port, yield)
			return
		}
	}
	begin := Event{Child: child, Severity: o.severity, Clock: o.clock, HasClock: true, Slot: -1, Task: -1, Cached: -1}
	p.event = begin
	text, _ := p.event.cutArea(first)
	p.message(text, true, yield)
	for rest != "" {
		first, rest, _ = strings.Cut(rest, "\n")
		p.event = begin
		p.message(first, false, yield)
	}
}

// message reads the message of the event that has begun. Without a prefix it
// can only be timings that follow a header.
func (p *Parser) message(text string, prefixed bool, yield func(*Event)) {
	e := &p.event
	header := slices.IndexFunc(p.headers, func(h Event) bool { return h.Child == e.Child })
	switch {
	case prefixed:
		if header >= 0 {
			p.headers = slices.Delete(p.headers, header, header+1)
		}
		if e.read(text) {
			p.headers = append(p.headers, *e)
		}
	case header >= 0:
		*e = p.headers[header]
		if e.readSlot(text); e.Kind == Other {
			return
		}
	default:
		return
	}
	yield(e)
}
