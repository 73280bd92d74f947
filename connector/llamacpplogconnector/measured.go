// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
)

const (
	// batchPatience is how long one batch of logs may wait for a proxy, which may
	// see the end of a request a little after the log.
	batchPatience = 100 * time.Millisecond
	// endPatience is how long after its end in the log a request may: old logs
	// are read without waiting.
	endPatience = 250 * time.Millisecond
	// maxCredit is how long logs may wait in a row.
	maxCredit = 2 * time.Second
)

// patience limits how long logs wait for a proxy: in one batch, and in the long run
// to half of the time, as all requests of an old log may seem to end now.
type patience struct {
	until  time.Time     // in this batch
	credit time.Duration // that is left
	since  time.Time     // when the credit was renewed
}

// begin is called with each batch.
func (p *patience) begin(now time.Time) {
	p.credit = min(p.credit+now.Sub(p.since)/2, maxCredit)
	p.since = now
	p.until = now.Add(max(min(p.credit, batchPatience), 0))
}

// spend notes a wait.
func (p *patience) spend(waited time.Duration) { p.credit -= waited }

// measured returns what proxies of this process know of the requests that ended, of
// those that came through one. The caller holds mu, also while measured waits for a
// proxy.
func (f *follower) measured(ctx context.Context, s *source) (found map[*requests.Request]proxied.Request) {
	// An answer may be one whose client has left: first those that surely are.
	for _, completed := range []bool{false, true} {
		for _, r := range s.ended {
			if (r.Outcome == requests.Completed) != completed {
				continue
			}
			if p, ok := f.match(ctx, s, r); ok {
				if found == nil {
					found = map[*requests.Request]proxied.Request{}
				}
				found[r] = p
			}
		}
	}
	return found
}

// match returns what a proxy knows of a request.
func (f *follower) match(ctx context.Context, s *source, r *requests.Request) (found proxied.Request, ok bool) {
	key := f.identityOf(s, s.instance(r.Process)).key()
	// A proxy leaves the requests that the server refuses to the log.
	if !proxied.Knows(key) || r.Outcome == requests.Rejected {
		return found, false
	}
	l := proxied.Logged{
		Launched: r.Process.Wall.At(r.Launched), Ended: r.Process.Wall.At(r.Ended),
		InputTokens: requests.Unknown, OutputTokens: r.Generated,
		Completed: r.Outcome == requests.Completed,
	}
	switch {
	case r.HasTimings:
		l.Timings = timings.String(r.Processed, r.PromptTime, r.Generated, r.GenerationTime)
	case l.Completed:
		l.OutputTokens = 0 // of an embedding
	}
	if n, ok := r.InputTokens(); ok && r.Drafted == 0 && !r.Shifted {
		l.InputTokens = n // else it may be a few too many
	}
	until := f.patience.until
	if end := l.Ended.Add(endPatience); end.Before(until) {
		until = end
	}
	start := time.Now()
	found, ok = f.proxied.Match(ctx, key, l, until)
	f.patience.spend(time.Since(start))
	return found, ok
}

// waited returns how long a request waited for its slot, and false if the answer told
// that to the proxy, or if it had no slot. Without the first token, or without the
// server's measurements, it is as exact as the log places the slot's beginning.
func waited(r *requests.Request, p proxied.Request) (time.Duration, bool) {
	if p.Timings != "" || r.Slot < 0 {
		return 0, false
	}
	began := r.Process.Wall.At(r.Launched)
	switch {
	case !r.HasTimings:
	case !p.FirstToken.IsZero():
		began = p.FirstToken.Add(-r.PromptTime)
	case p.Completed: // it was not streamed
		began = p.Ended.Add(-r.PromptTime - r.GenerationTime)
	}
	return max(0, began.Sub(p.Arrived)), true
}
