// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package recent keeps the last requests of each server, from their spans.
package recent // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"

import (
	"strings"
	"unicode/utf8"
)

// Request is a request that has ended, as the page shows it. Times are in
// milliseconds since 1970, durations in seconds.
type Request struct {
	// ID is the span's id, 16 hexadecimal digits, and Trace that of its trace, or
	// empty.
	ID    string `json:"id"`
	Trace string `json:"trace"`
	// Server is the server's service.instance.id: host:port, in router mode
	// followed by the model.
	Server string `json:"server"`
	Model  string `json:"model"`
	// Slot and Task are the server's numbers; -1 if it had none or they are not
	// known.
	Slot int64 `json:"slot"`
	Task int64 `json:"task"`
	// First is when the first token came.
	Start int64  `json:"start"`
	First *int64 `json:"first"`
	End   int64  `json:"end"`
	// Outcome is completed, cancelled, rejected, failed or unknown, and Error says
	// why it is not completed.
	Outcome string `json:"outcome"`
	Error   string `json:"error"`
	// Prompt is the number of tokens of the whole prompt and Cached how many of
	// them were in the cache; 0 also if it is not known.
	Prompt    int64 `json:"prompt"`
	Cached    int64 `json:"cached"`
	Generated int64 `json:"generated"`
	// Drafted and Accepted are tokens of speculative decoding.
	Drafted  *int64 `json:"drafted"`
	Accepted *int64 `json:"accepted"`
	// TTFT is the time to the first token: the server's from when the request got
	// its slot, the client's from when it was sent, the proxy's from when it came.
	TTFT     *float64 `json:"ttft"`
	Duration float64  `json:"duration"`
	// Wait is what the client's time has more than the server's: the queue and the
	// network. A server's request has it if its client was seen as well. Of one that
	// came through the proxy it is the wait for a slot, and a part of its time.
	Wait *float64 `json:"wait"`
	// Proxied tells what the proxy saw from what the server's log says. Such a
	// request has a slot and a task once the log's span of it is there.
	Proxied bool `json:"proxied,omitempty"`
	// Began is when the server began with a request that came through the proxy.
	Began *int64 `json:"began,omitempty"`
	// ClientName is what the proxy calls the client.
	ClientName string `json:"client_name,omitempty"`
	// Joined is the id of the other span of the request, the client's or the
	// server's, if it was there when this one came.
	Joined string `json:"joined,omitempty"`
	// Client tells what a client saw of a request from what the server says.
	Client bool `json:"client"`
}

// Outcomes of a request.
const (
	completed = "completed"
	cancelled = "cancelled"
	rejected  = "rejected"
	failed    = "failed"
	unknown   = "unknown"
)

// Most bytes of a name or an error; anything longer is cut.
const (
	maxName  = 200
	maxError = 400
)

// cut shortens a text to at most n bytes, between two characters.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// bytes is what a request counts towards the limit of bytes: its strings, and
// about what the rest of it takes.
func (r *Request) bytes() int {
	const fixed = 400
	return fixed + len(r.ID) + len(r.Trace) + len(r.Server) + len(r.Model) + len(r.Error) + len(r.ClientName)
}

// plausible reports whether a request that was read from a file could have been
// written by this package.
func (r *Request) plausible() bool {
	switch r.Outcome {
	case completed, cancelled, rejected, failed, unknown:
	default:
		return false
	}
	hex := func(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }
	return hex(r.ID, 16) && (r.Trace == "" || hex(r.Trace, 32)) && r.Server != "" &&
		len(r.Server) <= maxName && len(r.Model) <= maxName && len(r.Error) <= maxError && len(r.ClientName) <= maxName &&
		r.Start > 0 && r.End >= r.Start && (r.First == nil || *r.First > 0) && (r.Began == nil || *r.Began > 0) && r.Duration >= 0 &&
		r.Slot >= -1 && r.Task >= -1 && r.Prompt >= 0 && r.Cached >= 0 && r.Generated >= 0
}
