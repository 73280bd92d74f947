// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package workload says what the requests of a run are: their prompts, lengths
// and sampling. Request n of a workload is a function of its settings, its seed
// and n, so that the same workload can be sent again, to the byte.
//
// Each prompt is unique unless asked otherwise: one that was sent before is in
// the server's cache, which makes the server look faster than its users find it.
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
	// Model is the model to ask for, "" leaves it to the server. It is no part of
	// the hash: two models can be compared by one workload.
	Model string `json:"-"`
	Seed  uint64 `json:"seed"`
	// MaxTokens is the most tokens to generate, drawn for each request.
	MaxTokens Range `json:"max_tokens"`
	// Temperature is drawn for each request, to two decimals; nil leaves it to
	// the server.
	Temperature *Interval `json:"temperature,omitempty"`
	Stream      bool      `json:"stream"`
	// IgnoreEOS makes every answer as long as MaxTokens.
	IgnoreEOS bool `json:"ignore_eos"`
	// CancelShare is the share of requests that are left after CancelAfter
	// chunks of text.
	CancelShare float64 `json:"cancel_share,omitempty"`
	CancelAfter int     `json:"cancel_after,omitempty"`
	// Repeat sends prompts as they are, over and over, so that the server's cache
	// helps. Otherwise each begins with a number of its own. Synthetic prompts
	// are unique as they are.
	Repeat bool `json:"repeat,omitempty"`
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
	}
	return nil
}

// A Source has the prompts of a workload.
type Source interface {
	// prompt is that of request n; r draws what is random about it.
	prompt(n uint64, r *rand.Rand) Prompt
	// unique reports whether all prompts differ by themselves.
	unique() bool
	// check says what the endpoint would not take.
	check(e completion.Endpoint, unique bool) error
	// content is a value that has in JSON all that the prompts depend on.
	content() any
}

// Workload makes requests. It is safe for concurrent use.
type Workload struct {
	settings Settings
	source   Source
	mark     bool
	hash     string
}

// New returns the workload of the prompts of source.
func New(s Settings, source Source) (*Workload, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	w := &Workload{settings: s, source: source, mark: !s.Repeat && !source.unique()}
	if err := source.check(s.Endpoint, w.mark); err != nil {
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

// Hash names the workload: where it is equal, request n is the same to the byte,
// but for the model.
func (w *Workload) Hash() string { return w.hash }

// Settings are those the workload was made with.
func (w *Workload) Settings() Settings { return w.settings }

// Request returns request n, counted from 0.
func (w *Workload) Request(n uint64) *completion.Request {
	s := &w.settings
	r := rand.New(rand.NewPCG(s.Seed, n)) //nolint:gosec // Reproducible, and nobody's secret.
	// What is drawn stays in this order, whatever the prompt draws after it.
	seed := int64(r.Uint32() >> 1)
	maxTokens := s.MaxTokens.draw(r)
	temperature := s.Temperature.draw(r)
	cancel := r.Float64() < s.CancelShare
	mark := marker(r)

	p := w.source.prompt(n, r)
	q := &completion.Request{
		Endpoint: s.Endpoint, Model: s.Model, Prompt: p.text, Messages: p.messages,
		MaxTokens: maxTokens, Temperature: temperature, Seed: &seed,
		Stream: s.Stream, IgnoreEOS: s.IgnoreEOS, Extra: p.extra,
	}
	if w.mark {
		q.Prompt, q.Messages = p.marked(mark)
	}
	if p.maxTokens > 0 {
		q.MaxTokens = p.maxTokens
	}
	if p.temperature != nil {
		q.Temperature = p.temperature
	}
	if cancel {
		q.CancelAfter = s.CancelAfter
	}
	return q
}

// marker draws what makes a prompt unique. All have the same length.
func marker(r *rand.Rand) string { return fmt.Sprintf("[%012x] ", r.Uint64()>>16) }

// Range are whole numbers from Min to Max, both included.
type Range struct{ Min, Max int }

// ParseRange reads a number or two with a hyphen between them: 100, 50-150.
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

// String is what ParseRange reads.
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

// Interval are numbers from Min to Max.
type Interval struct{ Min, Max float64 }

// ParseInterval reads a number or two with a hyphen between them: 0.7, 0.5-0.9.
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

// String is what ParseInterval reads.
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
