// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Results are what was measured in a run.
type Results struct {
	// Counts and the other fields cover the requests that were due between warm-up
	// and tail, unless they say otherwise. Outside counts the remaining requests.
	Counts  Counts
	Outside Counts
	// Errors counts the failed requests by class.
	Errors map[string]int
	// Examples are the first error of each class in the whole run.
	Examples map[string]string

	// Latency measured from when a request was due, which is what a user would have
	// experienced. TPOT is (last token - first token) / (tokens - 1), and Lag is
	// sent - due, the load generator's own delay.
	TTFT, TPOT, E2E, Lag *Histogram
	// ITL has the time between any two consecutive chunks with text of an answer: a
	// long answer counts more often than a short one.
	ITL *Histogram
	// Latency measured from when a request was sent, as closed-loop tools report it.
	TTFTFromSend, E2EFromSend *Histogram
	// The parts of a request's time after it was sent. Prompt and Prediction are
	// llama-server's own timings. Waiting is the rest, spent in the server's queue
	// and on the network.
	Waiting, Prompt, Prediction *Histogram

	// Tokens are those of the requests in Counts.
	Tokens Tokens
	// AllTokens are those of the whole run. Uncounted is the number of requests that
	// reached the server without it reporting their tokens.
	AllTokens Tokens
	Uncounted int

	// Chunks is the number of chunks with text in the answers whose tokens are known;
	// streamed is the number of those tokens.
	Chunks   int
	streamed int

	// Turns are the requests of conversations by turn, the first at 0. There is one
	// element if no request had a second turn.
	Turns []Turn

	// Good is the number of requests that met the objective.
	Good int
	// Span is the time from the end of warm-up until the last request of Counts
	// ended. Rates are per second of it.
	Span time.Duration
}

// Turn is what was measured of one turn of all conversations.
type Turn struct {
	Counts Counts
	Tokens Tokens
	TTFT   *Histogram // from when it was due
}

// maxTurns is the number of turns that are told apart. Later ones count as the last
// of them.
const maxTurns = 32

// Counts are numbers of requests. Due = Sent + Dropped, and when a run is over
// Sent = OK + Failed + Cancelled.
type Counts struct {
	Due       int `json:"due"`
	Sent      int `json:"sent"`
	OK        int `json:"ok"`
	Failed    int `json:"error"`
	Cancelled int `json:"cancelled"`
	Dropped   int `json:"dropped"`
}

func (c *Counts) add(o completion.Outcome) {
	c.Due++
	switch o {
	case completion.Dropped:
		c.Dropped++
		return
	case completion.OK:
		c.OK++
	case completion.Failed:
		c.Failed++
	case completion.Cancelled:
		c.Cancelled++
	}
	c.Sent++
}

// Plus returns the sums of both.
func (c Counts) Plus(o Counts) Counts {
	return Counts{
		Due: c.Due + o.Due, Sent: c.Sent + o.Sent, OK: c.OK + o.OK,
		Failed: c.Failed + o.Failed, Cancelled: c.Cancelled + o.Cancelled, Dropped: c.Dropped + o.Dropped,
	}
}

// Tokens are numbers of tokens as the server counted them. Cached tokens are part
// of the input.
type Tokens struct {
	Input  int `json:"input"`
	Output int `json:"output"`
	Cached int `json:"cached"`
	// cachedKnown is the input of those requests whose cached tokens are known.
	cachedKnown int
}

func (t *Tokens) add(r *completion.Result) {
	t.Input += max(0, r.InputTokens)
	t.Output += max(0, r.OutputTokens)
	if r.CachedTokens >= 0 {
		t.Cached += r.CachedTokens
		t.cachedKnown += max(0, r.InputTokens)
	}
}

// HitRate returns the share of the input that came from the server's cache, and
// false if the server does not report it.
func (t *Tokens) HitRate() (float64, bool) {
	if t.cachedKnown == 0 {
		return 0, false
	}
	return float64(t.Cached) / float64(t.cachedKnown), true
}

// TokensPerChunk returns the mean number of tokens in a chunk, and false if nothing
// was streamed.
func (r *Results) TokensPerChunk() (float64, bool) {
	if r.Chunks == 0 {
		return 0, false
	}
	return float64(r.streamed) / float64(r.Chunks), true
}

// recorder collects the results of requests as they end.
type recorder struct {
	config     *Config
	tooManyBad func()

	mu     sync.Mutex
	r      Results
	lastIn time.Duration // end of the last measured request
	recent [100]bool     // whether the last requests failed, as a ring
	ended  int
	failed int // of recent
}

func newRecorder(c *Config, tooManyBad func()) *recorder {
	h := newHistogram
	return &recorder{config: c, tooManyBad: tooManyBad, r: Results{
		Errors: map[string]int{}, Examples: map[string]string{},
		TTFT: h(), TPOT: h(), ITL: h(), E2E: h(), Lag: h(), TTFTFromSend: h(), E2EFromSend: h(),
		Waiting: h(), Prompt: h(), Prediction: h(),
	}}
}

func (r *recorder) add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Measured = r.config.measured(s.Due)
	s.Good = r.config.Objective != nil && r.config.Objective.met(s.Result)
	r.count(s)
	if r.config.Record != nil {
		r.config.Record(s)
	}
	if s.Result.Outcome != completion.Dropped {
		r.watch(s.Result.Outcome == completion.Failed)
	}
}

func (r *recorder) count(s Sample) {
	o := s.Result
	if o.Outcome != completion.Dropped {
		r.r.AllTokens.add(o)
		reached := o.Status == http.StatusOK || o.Status == 0 && !o.GotConn.IsZero()
		if reached && o.OutputTokens < 0 {
			r.r.Uncounted++
		}
	}
	if _, known := r.r.Examples[o.ErrorType]; o.Outcome == completion.Failed && o.Err != nil && !known {
		r.r.Examples[o.ErrorType] = o.Err.Error()
	}
	if !s.Measured {
		r.r.Outside.add(o.Outcome)
		return
	}
	r.r.Counts.add(o.Outcome)
	r.r.Tokens.add(o)
	r.turn(s)
	if o.OutputTokens > 0 && o.Chunks > 0 {
		r.r.Chunks += o.Chunks
		r.r.streamed += o.OutputTokens
	}
	if o.Outcome == completion.Failed {
		r.r.Errors[o.ErrorType]++
	}
	if o.Outcome == completion.Dropped {
		return
	}
	r.lastIn = max(r.lastIn, s.Due+o.End.Sub(o.Due))
	r.times(o)
	if s.Good {
		r.r.Good++
	}
}

func (r *recorder) turn(s Sample) {
	i := min(s.Turn, maxTurns-1)
	for i >= len(r.r.Turns) {
		r.r.Turns = append(r.r.Turns, Turn{TTFT: newHistogram()})
	}
	t := &r.r.Turns[i]
	t.Counts.add(s.Result.Outcome)
	t.Tokens.add(s.Result)
	if d, ok := s.Result.TTFT(s.Result.Due); ok && s.Result.Outcome != completion.Failed {
		t.TTFT.record(d)
	}
}

// times records the latencies that a request reached. One that was cancelled on
// purpose may have a time to first token, but has no end-to-end latency.
func (r *recorder) times(o *completion.Result) {
	r.r.Lag.record(o.Sent.Sub(o.Due))
	if o.Outcome == completion.Failed {
		return
	}
	if d, ok := o.TTFT(o.Due); ok {
		r.r.TTFT.record(d)
	}
	if d, ok := o.TTFT(o.Sent); ok {
		r.r.TTFTFromSend.record(d)
	}
	if o.Outcome != completion.OK {
		return
	}
	if d, ok := o.TPOT(); ok {
		r.r.TPOT.record(d)
	}
	for _, d := range o.Gaps {
		r.r.ITL.record(d)
	}
	r.r.E2E.record(o.End.Sub(o.Due))
	whole := o.End.Sub(o.Sent)
	r.r.E2EFromSend.record(whole)
	if t := o.Timings; t != nil {
		r.r.Prompt.record(t.Prompt)
		r.r.Prediction.record(t.Predicted)
		r.r.Waiting.record(whole - t.Prompt - t.Predicted)
	}
}

// watch stops the run when too many of the last requests failed.
func (r *recorder) watch(failed bool) {
	const fewest = 20
	at := &r.recent[r.ended%len(r.recent)]
	if *at {
		r.failed--
	}
	if *at = failed; failed {
		r.failed++
	}
	r.ended++
	n := min(r.ended, len(r.recent))
	if n >= fewest && float64(r.failed) > r.config.MaxErrors*float64(n) {
		r.tooManyBad()
	}
}

func (r *recorder) results() *Results {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.r
	c.Errors, c.Examples = maps.Clone(c.Errors), maps.Clone(c.Examples)
	c.Turns = slices.Clone(c.Turns)
	for i := range c.Turns {
		c.Turns[i].TTFT = c.Turns[i].TTFT.clone()
	}
	for _, h := range []**Histogram{
		&c.TTFT, &c.TPOT, &c.ITL, &c.E2E, &c.Lag, &c.TTFTFromSend, &c.E2EFromSend, &c.Waiting, &c.Prompt, &c.Prediction,
	} {
		*h = (*h).clone()
	}
	c.Span = max(0, r.lastIn-r.config.WarmUp)
	return &c
}

// Progress is the state of a run. It is cheap to obtain.
type Progress struct {
	// Counts are of the whole run so far.
	Counts Counts
	// TTFT50 and TTFT95 are percentiles of the time to first token from due
	// time; 0 if none has been measured yet.
	TTFT50, TTFT95 time.Duration
}

func (r *recorder) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Progress{
		Counts: r.r.Counts.Plus(r.r.Outside),
		TTFT50: r.r.TTFT.Percentile(50), TTFT95: r.r.TTFT.Percentile(95),
	}
}
