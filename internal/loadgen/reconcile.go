// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// Counters are llama-server's own token counters at one point in time.
type Counters struct {
	process                   string
	prompt, cached, predicted float64
	hasCached                 bool // older builds do not count cached tokens
	busy                      float64
}

// A Metrics source reads llama-server's /metrics, as llamaserver.Client does.
type Metrics interface {
	Metrics(ctx context.Context, model string) (*llamaserver.Metrics, error)
}

// ReadCounters reads the counters of a server or, in router mode, of a model.
func ReadCounters(ctx context.Context, s Metrics, model string) (*Counters, error) {
	m, err := s.Metrics(ctx, model)
	if err != nil {
		return nil, err
	}
	c := &Counters{process: m.Process}
	var prompt, predicted bool
	c.prompt, prompt = m.Value("prompt_tokens_total")
	c.predicted, predicted = m.Value("tokens_predicted_total")
	c.cached, c.hasCached = m.Value("prompt_tokens_cached_total")
	processing, _ := m.Value("requests_processing")
	deferred, _ := m.Value("requests_deferred")
	c.busy = processing + deferred
	if !prompt || !predicted {
		return nil, errors.New("/metrics has no prompt_tokens_total or tokens_predicted_total: is this a llama-server?")
	}
	return c, nil
}

// Reconciliation compares the tokens of a whole run, including warm-up and tail,
// with the server's counters.
type Reconciliation struct {
	Prompt    Pair  `json:"prompt"`
	Cached    *Pair `json:"cached,omitempty"` // nil if the server does not count them
	Predicted Pair  `json:"predicted"`
	// Agrees reports whether all pairs are equal, to the precision with which the
	// server prints its counters.
	Agrees bool `json:"agrees"`
	// Note explains the figures.
	Note string `json:"note"`
}

// Pair is one number of tokens as both sides counted it.
type Pair struct {
	Client int     `json:"client"`
	Server float64 `json:"server"`
	// Resolution is the largest error of Server, since the server prints its
	// counters with six digits.
	Resolution float64 `json:"resolution"`
}

func pair(client int, before, after float64) Pair {
	return Pair{Client: client, Server: after - before, Resolution: (llamaserver.RoundingStep(before) + llamaserver.RoundingStep(after)) / 2}
}

func (p Pair) more() bool  { return p.Server-float64(p.Client) > p.Resolution }
func (p Pair) fewer() bool { return float64(p.Client)-p.Server > p.Resolution }

// Reconcile compares the results of a run that is over with the counters read
// before and after.
func Reconcile(before, after *Counters, r *Results) *Reconciliation {
	t := r.AllTokens
	c := &Reconciliation{
		Prompt:    pair(t.Input-t.Cached, before.prompt, after.prompt),
		Predicted: pair(t.Output, before.predicted, after.predicted),
	}
	pairs := []Pair{c.Prompt, c.Predicted}
	if before.hasCached && after.hasCached {
		p := pair(t.Cached, before.cached, after.cached)
		c.Cached = &p
		pairs = append(pairs, p)
	}
	var more, fewer bool
	for _, p := range pairs {
		more = more || p.more()
		fewer = fewer || p.fewer()
	}
	switch {
	case before.process != after.process || after.prompt < before.prompt || after.predicted < before.predicted:
		c.Note = "the server was restarted during the run: its counters began again"
	case fewer:
		c.Note = "the server counted fewer tokens than it told its clients: is /metrics that of the server that was under load?"
	case more && r.Uncounted > 0:
		c.Note = fmt.Sprintf("the server counted more: %d requests were left or cut before it told their tokens, and others may have used it", r.Uncounted)
	case more && before.busy > 0:
		c.Note = "the server counted more: it was busy with others' requests when the run began"
	case more:
		c.Note = "the server counted more: others used it during the run, and its latencies are not this load's alone"
	default:
		c.Agrees = true
		c.Note = "the server's counters agree to the token"
		for _, p := range pairs {
			if p.Resolution > 0 {
				c.Note = "the server's counters agree as exactly as it prints them, with six digits"
			}
		}
	}
	return c
}

// AwaitCounters reads the counters after a run and reconciles them. It gives the
// server a moment to count the requests that have just ended.
func AwaitCounters(ctx context.Context, s Metrics, model string, before *Counters, r *Results) (*Reconciliation, error) {
	const patience, pause = 2 * time.Second, 50 * time.Millisecond
	for began := time.Now(); ; {
		after, err := ReadCounters(ctx, s, model)
		if err != nil {
			return nil, err
		}
		c := Reconcile(before, after, r)
		if c.Agrees || time.Since(began) > patience || ctx.Err() != nil {
			return c, nil
		}
		sleep(ctx, time.Now().Add(pause))
	}
}
