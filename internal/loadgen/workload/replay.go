// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"
)

// Replay makes requests as long as those of a recording, of random words. A prompt
// begins with the words of an earlier one, as far as the recorded ones were alike,
// so that the server has them in its cache if it still has the earlier one.
//
// Lengths include the tokens that the server adds: the one that begins a text, and
// the chat template's.
type Replay struct {
	lexicon
	requests []traffic.Request
	seed     uint64
	frame    frame
}

// frame is what the server puts around the text of a prompt.
type frame struct {
	prefix, suffix string
	before, around int // tokens in front of the text; in front of and after it
}

// A Server tells what prompts it makes of texts.
type Server interface {
	Tokenizer
	// CountPrompt counts the tokens of a whole prompt, with the special tokens that
	// the server adds before it.
	CountPrompt(ctx context.Context, prompt string) (int, error)
	// ApplyTemplate returns the prompt that the chat template makes of a message of the
	// user.
	ApplyTemplate(ctx context.Context, message string) (string, error)
}

// NewReplay asks the server which words are one token each and what it puts around
// a prompt at the endpoint, and checks on some of the prompts that the numbers of
// tokens add up.
func NewReplay(ctx context.Context, s Server, e completion.Endpoint, rec *traffic.Recording, seed uint64) (*Replay, error) {
	p := &Replay{requests: rec.Requests, seed: seed}
	if err := p.frame.learn(ctx, s, e); err != nil {
		return nil, err
	}
	inFrame := func(ctx context.Context, text string) (int, error) {
		n, err := s.CountPrompt(ctx, p.frame.prefix+text+p.frame.suffix)
		return n - p.frame.around, err
	}
	if err := p.learn(ctx, s.Count, inFrame); err != nil {
		return nil, err
	}
	for i := range samples {
		n := i * (len(p.requests) - 1) / (samples - 1)
		want := p.length(n)
		got, err := inFrame(ctx, p.text(n))
		if err != nil {
			return nil, err
		}
		if got != want {
			return nil, fmt.Errorf("prompt of request %d: %d tokens instead of %d: this tokenizer does not count word by word, so the recorded lengths cannot be repeated", n, got, want)
		}
	}
	return p, nil
}

// learn finds out what the server puts around a prompt.
func (f *frame) learn(ctx context.Context, s Server, e completion.Endpoint) error {
	if e.Conversation() {
		const text = "[000000000000]"
		prompt, err := s.ApplyTemplate(ctx, text)
		if err != nil {
			return err
		}
		var ok bool
		if f.prefix, f.suffix, ok = strings.Cut(prompt, text); !ok {
			return errors.New("the server's chat template leaves out the message: use the endpoint completion")
		}
	}
	var err error
	if f.before, err = s.CountPrompt(ctx, f.prefix); err != nil {
		return err
	}
	n, err := s.CountPrompt(ctx, f.prefix+"the"+f.suffix)
	f.around = n - 1
	return err
}

// length returns the number of words of request n, each of which is a token. A prompt
// has at least one.
func (p *Replay) length(n int) int { return max(1, int(p.requests[n].Input)-p.frame.around) }

// shared returns the number of words with which request n begins like an earlier
// one.
func (p *Replay) shared(n int) int {
	q := p.requests[n]
	if q.From < 0 {
		return 0
	}
	return max(0, min(int(q.Shared)-p.frame.before, p.length(n), p.length(int(q.From))))
}

// text returns the words of request n. The words that it shares are an earlier
// request's own, or those that that one shares.
func (p *Replay) text(n int) string {
	type part struct{ n, from, to int }
	var parts []part
	for to := p.length(n); ; n = int(p.requests[n].From) {
		from := p.shared(n)
		if from < to {
			parts = append(parts, part{n, from, to})
			to = from
		}
		if to == 0 {
			break
		}
	}
	var b strings.Builder
	for _, own := range slices.Backward(parts) {
		r := rand.New(rand.NewPCG(p.seed^0x7265706c6179, uint64(own.n))) //nolint:gosec // Reproducible, and nobody's secret.
		p.write(&b, r, own.to-own.from)
	}
	return b.String()
}

func (p *Replay) prompt(n uint64, _ *rand.Rand) Prompt {
	i := int(n % uint64(len(p.requests)))
	return Prompt{text: p.text(i), maxTokens: int(p.requests[i].Output)}
}

// turn returns false: what belongs together is not recorded.
func (p *Replay) turn(uint64, int, *rand.Rand, *rand.Rand) (Prompt, bool) { return Prompt{}, false }

func (p *Replay) unique() bool { return true }

func (p *Replay) check(*Settings, bool) error { return nil }

func (p *Replay) content() any {
	sum := sha256.New()
	for _, q := range p.requests {
		_ = binary.Write(sum, binary.LittleEndian, q) // a hash takes all
	}
	return []any{"replay", hex.EncodeToString(sum.Sum(nil)), p.heads, p.words, p.frame.before, p.frame.around}
}
