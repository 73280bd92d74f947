// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package workload makes the requests of a run: their prompts, lengths and sampling
// settings. Request n of a workload is a function of its settings, its seed and n,
// so that exactly the same bytes can be sent again.
//
// By default, each prompt is unique. A prompt that was sent before is in the
// server's cache, which makes the server look faster than it is for its users.
package workload // import "github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Settings are what all requests of a workload have in common.
type Settings struct {
	Endpoint completion.Endpoint `json:"-"`
	// Model is the model to request; "" leaves it to the server. It is not part of
	// the hash, so that two models can be compared with the same workload.
	Model string `json:"-"`
	Seed  uint64 `json:"seed"`
	// MaxTokens is the maximum number of tokens to generate, drawn for each request.
	MaxTokens Range `json:"max_tokens"`
	// Temperature is drawn for each request, to two decimals; nil leaves it to
	// the server.
	Temperature *Interval `json:"temperature,omitempty"`
	Stream      bool      `json:"stream"`
	// IgnoreEOS makes every answer as long as MaxTokens.
	IgnoreEOS bool `json:"ignore_eos"`
	// CancelShare is the share of requests that are cancelled after CancelAfter
	// chunks with text.
	CancelShare float64 `json:"cancel_share,omitempty"`
	CancelAfter int     `json:"cancel_after,omitempty"`
	// Repeat sends the same prompts again and again, so that the server's cache has
	// them. Otherwise each begins with a unique number. Synthetic prompts are always
	// unique.
	Repeat bool `json:"repeat,omitempty"`
	// Turns is how many turns a conversation has, drawn for each; the zero value is
	// one. A conversation of a prompt file has no more than the file says.
	Turns Range `json:"turns,omitzero"`
	// NoCache asks llama-server not to use its prompt cache.
	NoCache bool `json:"no_cache,omitempty"`
}

func (s *Settings) validate() error {
	switch {
	case s.MaxTokens.Min < 1:
		return fmt.Errorf("at most %s tokens to generate: want 1 or more", s.MaxTokens)
	case !(s.CancelShare >= 0 && s.CancelShare <= 1):
		return fmt.Errorf("share of cancelled requests of %g: want 0 to 1", s.CancelShare)
	case s.CancelShare > 0 && s.CancelAfter < 1:
		return fmt.Errorf("requests cancelled after %d chunks: want 1 or more", s.CancelAfter)
	case s.CancelShare > 0 && !s.Stream:
		return errors.New("requests cancelled within an answer that is not streamed: stream, or cancel none")
	case s.Turns != (Range{}) && s.Turns.Min < 1:
		return fmt.Errorf("%s turns: want 1 or more", s.Turns)
	case s.Turns.Max > 1 && s.Endpoint == completion.Embeddings:
		return errors.New("embeddings have no answer that a conversation could go on from: want one turn, or another endpoint")
	case s.NoCache && s.Endpoint == completion.Messages:
		return errors.New("llama-server uses its cache for the endpoint messages whatever a request says: use chat without the cache")
	}
	return nil
}

// A Source provides the prompts of a workload.
type Source interface {
	// prompt returns the prompt of request n. Random choices use r.
	prompt(n uint64, r *rand.Rand) Prompt
	// turn returns what the user says in a later turn of conversation n, and false if
	// there is no more to say. first is what prompt got for the first turn; random
	// choices of this turn use r.
	turn(n uint64, turn int, first, r *rand.Rand) (Prompt, bool)
	// unique reports whether all prompts differ without a mark.
	unique() bool
	// check returns an error if a prompt cannot be sent as the settings say, or if it
	// cannot be made unique although that is required.
	check(s *Settings, unique bool) error
	// content returns a value whose JSON contains everything that determines the
	// prompts.
	content() any
}

// Workload makes requests. It is safe for concurrent use.
type Workload struct {
	settings Settings
	source   Source
	mark     bool
	hash     string
}

// New returns a workload with the prompts of source.
func New(s Settings, source Source) (*Workload, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	w := &Workload{settings: s, source: source, mark: !s.Repeat && !source.unique()}
	if err := source.check(&s, w.mark); err != nil {
		return nil, err
	}
	content, err := json.Marshal([]any{"llamaload 1", s.Endpoint.String(), s, source.content()})
	if err != nil {
		return nil, fmt.Errorf("hash of the workload: %w", err)
	}
	sum := sha256.Sum256(content)
	w.hash = hex.EncodeToString(sum[:16])
	return w, nil
}

// Hash identifies the workload. For workloads with the same hash, request n is
// identical to the byte, except for the model.
func (w *Workload) Hash() string { return w.hash }

// Settings returns the settings that the workload was made with.
func (w *Workload) Settings() Settings { return w.settings }

// Request returns request n, counted from 0.
func (w *Workload) Request(n uint64) *completion.Request {
	r := w.random(n, 0)
	q, mark := w.draw(r)
	p := w.source.prompt(n, r)
	if w.settings.Turns.Max > 1 {
		p = p.opening()
		q.KeepText = w.turns(n) > 1
	}
	q.Prompt, q.Messages = p.text, p.messages
	if w.mark {
		q.Prompt, q.Messages = p.marked(mark)
	}
	p.apply(q)
	return q
}

// Next returns the request of a later turn of conversation n: what was said before,
// the answer to q, and what the user says then. It returns nil if the conversation
// is over.
func (w *Workload) Next(n uint64, turn int, q *completion.Request, answer string) *completion.Request {
	turns := w.turns(n)
	if turn >= turns {
		return nil
	}
	first, r := w.random(n, 0), w.random(n, turn)
	w.draw(first)
	next, _ := w.draw(r)
	p, ok := w.source.turn(n, turn, first, r)
	if !ok {
		return nil
	}
	next.KeepText = turn+1 < turns
	if next.Endpoint.Conversation() {
		next.Messages = join(q, answer, &p)
	} else {
		next.Prompt = q.Prompt + answer + "\n" + p.text
	}
	p.apply(next)
	return next
}

// turns returns the number of turns of conversation n.
func (w *Workload) turns(n uint64) int {
	if w.settings.Turns.Max < 2 {
		return 1
	}
	return w.settings.Turns.draw(rand.New(rand.NewPCG(w.settings.Seed, ^n))) //nolint:gosec // As random's.
}

// random returns the source of all random choices in a turn of conversation n.
func (w *Workload) random(n uint64, turn int) *rand.Rand {
	const spread = 0x9e3779b97f4a7c15
	return rand.New(rand.NewPCG(w.settings.Seed^uint64(turn)*spread, n)) //nolint:gosec // Reproducible, and nobody's secret.
}

// draw returns a request without a prompt, and a mark for it. The order of the draws
// is fixed. The prompt draws after them, so that it does not affect them.
func (w *Workload) draw(r *rand.Rand) (q *completion.Request, mark string) {
	s := &w.settings
	seed := int64(r.Uint32() >> 1)
	q = &completion.Request{
		Endpoint: s.Endpoint, Model: s.Model, Seed: &seed, Stream: s.Stream, IgnoreEOS: s.IgnoreEOS,
	}
	q.MaxTokens = s.MaxTokens.draw(r)
	q.Temperature = s.Temperature.draw(r)
	if r.Float64() < s.CancelShare {
		q.CancelAfter = s.CancelAfter
	}
	if s.NoCache {
		q.CachePrompt = new(bool)
	}
	return q, marker(r)
}

// marker draws a mark that makes a prompt unique. All marks have the same length.
func marker(r *rand.Rand) string { return fmt.Sprintf("[%012x] ", r.Uint64()>>16) }

// Range is a range of whole numbers from Min to Max, both included.
type Range struct{ Min, Max int }

// ParseRange parses a number, or two with a hyphen between them: 100, 50-150.
func ParseRange(s string) (Range, error) {
	low, high, two := strings.Cut(s, "-")
	if !two {
		high = low
	}
	lo, err := strconv.Atoi(low)
	hi, err2 := strconv.Atoi(high)
	if err != nil || err2 != nil || lo < 0 || hi < lo || hi == math.MaxInt {
		return Range{}, fmt.Errorf("range %q: want a number, or two such as 50-150", s)
	}
	return Range{lo, hi}, nil
}

// String returns the range in the form that ParseRange parses.
func (r Range) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(r.Min)
	}
	return fmt.Sprintf("%d-%d", r.Min, r.Max)
}

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Range) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRange(string(b))
	return err
}

func (r Range) draw(rnd *rand.Rand) int { return r.Min + rnd.IntN(r.Max-r.Min+1) }

// Interval is a range of numbers from Min to Max.
type Interval struct{ Min, Max float64 }

// ParseInterval parses a number, or two with a hyphen between them: 0.7, 0.5-0.9.
func ParseInterval(s string) (Interval, error) {
	low, high, two := strings.Cut(s, "-")
	if !two {
		high = low
	}
	lo, err := strconv.ParseFloat(low, 64)
	hi, err2 := strconv.ParseFloat(high, 64)
	if err != nil || err2 != nil || !(lo >= 0 && hi >= lo) || math.IsInf(hi, 0) {
		return Interval{}, fmt.Errorf("interval %q: want a number, or two such as 0.5-0.9", s)
	}
	return Interval{lo, hi}, nil
}

// String returns the interval in the form that ParseInterval parses.
func (i Interval) String() string {
	if i.Min == i.Max {
		return fmt.Sprint(i.Min)
	}
	return fmt.Sprintf("%g-%g", i.Min, i.Max)
}

// MarshalText implements encoding.TextMarshaler.
func (i Interval) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Interval) UnmarshalText(b []byte) (err error) {
	*i, err = ParseInterval(string(b))
	return err
}

func (i *Interval) draw(r *rand.Rand) *float64 {
	u := r.Float64()
	if i == nil {
		return nil
	}
	v := math.Round((i.Min+u*(i.Max-i.Min))*100) / 100
	return &v
}
