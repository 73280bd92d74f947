// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
)

// Lengths defines how many tokens synthetic prompts have.
type Lengths struct {
	// New is the number of new tokens after Depth, drawn for each prompt.
	New Range `json:"new"`
	// Depth is the number of tokens before the new ones. Unless ColdDepth is set,
	// they are the same in all prompts, and the server has them in its cache once
	// each slot has seen them.
	Depth     int  `json:"depth,omitempty"`
	ColdDepth bool `json:"cold_depth,omitempty"`
	// Shared is the share of the new tokens that is the same at the start of all
	// prompts.
	Shared float64 `json:"shared,omitempty"`
}

// ParseLengths parses a number or range of new tokens, such as 512 or 100-500,
// which may be followed by @ and a depth: 512@4096.
func ParseLengths(s string) (Lengths, error) {
	fresh, depth, deep := strings.Cut(s, "@")
	r, err := ParseRange(fresh)
	l := Lengths{New: r}
	if err == nil && deep {
		l.Depth, err = strconv.Atoi(depth)
	}
	if err != nil || r.Min < 1 || l.Depth < 0 {
		return Lengths{}, fmt.Errorf("prompt tokens %q: want a number such as 512, a range such as 100-500, or with a depth 512@4096", s)
	}
	return l, nil
}

// Validate returns an error if no prompt can have such lengths.
func (l Lengths) Validate() error {
	if !(l.Shared >= 0 && l.Shared <= 1) {
		return fmt.Errorf("share of common tokens of %g: want 0 to 1", l.Shared)
	}
	return nil
}

// A Tokenizer counts the tokens of a text as the server does, without the special
// tokens that the server adds before every prompt.
type Tokenizer interface {
	Count(ctx context.Context, text string) (int, error)
}

// Synthetic makes prompts of random words with an exact number of tokens. Tokens
// that a chat template adds are not counted.
type Synthetic struct {
	lexicon
	lengths Lengths
	seed    uint64
	common  string // the text that all prompts begin with, of depth and shared tokens
}

// lexicon has the words of which a text of a known number of tokens can be made.
type lexicon struct {
	heads []string // words that are one token at the start of a text
	words []string // words that are one token after another word
}

// samples is how many prompts of each length the server counts before a run.
const samples = 4

// NewSynthetic asks the server which words are one token each, and checks on whole
// prompts that the numbers of tokens add up.
func NewSynthetic(ctx context.Context, t Tokenizer, l Lengths, seed uint64) (*Synthetic, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	s := &Synthetic{lengths: l, seed: seed}
	if err := s.learn(ctx, t.Count, t.Count); err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(seed, 0x636f6d6d6f6e)) //nolint:gosec // Reproducible, and nobody's secret.
	n := int(l.Shared * float64(l.New.Max))
	if !l.ColdDepth {
		n += l.Depth
	}
	var common strings.Builder
	s.write(&common, r, n)
	s.common = common.String()
	for i := range uint64(samples) {
		for _, r := range []Range{{l.New.Min, l.New.Min}, {l.New.Max, l.New.Max}} {
			want := r.Min + l.Depth
			got, err := t.Count(ctx, s.of(rand.New(rand.NewPCG(seed, ^i)), r)) //nolint:gosec // As above.
			if err != nil {
				return nil, err
			}
			if got != want {
				return nil, fmt.Errorf("synthetic prompt: %d tokens instead of %d: this tokenizer does not count word by word; use a prompt file", got, want)
			}
		}
	}
	return s, nil
}

// A count returns the number of tokens of a text.
type count func(ctx context.Context, text string) (int, error)

// learn finds the words that are one token each: after another word, as words
// counts them, and at the start of a text, as heads does. Only a few are needed
// there.
func (s *lexicon) learn(ctx context.Context, words, heads count) error {
	const head = "the"
	base, err := words(ctx, head)
	if err != nil {
		return err
	}
	var find func([]string) error
	find = func(some []string) error {
		n, err := words(ctx, head+" "+strings.Join(some, " "))
		switch {
		case err != nil:
			return err
		case n == base+len(some):
			s.words = append(s.words, some...)
		case len(some) > 1:
			half := len(some) / 2
			if err := find(some[:half]); err != nil {
				return err
			}
			return find(some[half:])
		}
		return nil
	}
	if err := find(strings.Fields(vocabulary)); err != nil {
		return err
	}
	const enough = 32
	for _, w := range s.words {
		n, err := heads(ctx, w)
		if err != nil {
			return err
		}
		if n == 1 {
			s.heads = append(s.heads, w)
		}
		if len(s.heads) == enough {
			return nil
		}
	}
	return fmt.Errorf("synthetic prompts: only %d common English words are one token to this server, too few: use a prompt file", len(s.heads))
}

// write appends n tokens to a text. The first token of a text is another word than
// those after it.
func (s *lexicon) write(b *strings.Builder, r *rand.Rand, n int) {
	for range n {
		if b.Len() == 0 {
			b.WriteString(s.heads[r.IntN(len(s.heads))])
			continue
		}
		b.WriteByte(' ')
		b.WriteString(s.words[r.IntN(len(s.words))])
	}
}

// of returns a prompt whose number of new tokens is drawn from the range.
func (s *Synthetic) of(r *rand.Rand, length Range) string {
	n := length.draw(r)
	shared := int(s.lengths.Shared * float64(n))
	unique := n - shared
	common := shared
	if s.lengths.ColdDepth {
		unique += s.lengths.Depth
	} else {
		common += s.lengths.Depth
	}
	var b strings.Builder
	b.WriteString(s.prefix(common))
	s.write(&b, r, unique)
	return b.String()
}

// prefix returns the first n tokens of the common text.
func (s *Synthetic) prefix(n int) string {
	if n == 0 {
		return ""
	}
	at := 0
	for range n {
		next := strings.IndexByte(s.common[at:], ' ')
		if next < 0 {
			return s.common
		}
		at += next + 1
	}
	return s.common[:at-1]
}

func (s *Synthetic) prompt(_ uint64, r *rand.Rand) Prompt {
	return Prompt{text: s.of(r, s.lengths.New)}
}

// turn returns new tokens only: the rest of what is in context are the turns before.
func (s *Synthetic) turn(_ uint64, _ int, _, r *rand.Rand) (Prompt, bool) {
	var b strings.Builder
	s.write(&b, r, s.lengths.New.draw(r))
	return Prompt{text: b.String()}, true
}

func (s *Synthetic) unique() bool { return true }

func (s *Synthetic) check(*Settings, bool) error { return nil }

func (s *Synthetic) content() any { return []any{s.lengths, s.heads, s.words} }

// ServerTokenizer counts tokens with llama-server's /tokenize.
type ServerTokenizer struct {
	// Base is the server's base URL, without a slash at its end.
	Base   string
	APIKey string
	HTTP   *http.Client
}

// Count implements Tokenizer.
func (t *ServerTokenizer) Count(ctx context.Context, text string) (int, error) {
	return t.tokenize(ctx, text, false)
}

// CountPrompt implements Server.
func (t *ServerTokenizer) CountPrompt(ctx context.Context, prompt string) (int, error) {
	return t.tokenize(ctx, prompt, true)
}

func (t *ServerTokenizer) tokenize(ctx context.Context, text string, special bool) (int, error) {
	var answer struct {
		Tokens []json.RawMessage `json:"tokens"`
	}
	err := t.post(ctx, "/tokenize", map[string]any{"content": text, "add_special": special}, &answer)
	return len(answer.Tokens), err
}

// ApplyTemplate implements Server.
func (t *ServerTokenizer) ApplyTemplate(ctx context.Context, message string) (string, error) {
	type turn struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var answer struct {
		Prompt string `json:"prompt"`
	}
	err := t.post(ctx, "/apply-template", map[string]any{"messages": []turn{{"user", message}}}, &answer)
	return answer.Prompt, err
}

func (t *ServerTokenizer) post(ctx context.Context, path string, question, answer any) (err error) {
	url := t.Base + path
	defer func() {
		if err != nil {
			err = fmt.Errorf("POST %s: %w", url, err)
		}
	}()
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if t.APIKey != "" {
		q.Header.Set("Authorization", "Bearer "+t.APIKey)
	}
	a, err := t.HTTP.Do(q)
	if err != nil {
		return errors.Unwrap(err) // a url.Error, which names the URL again
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: synthetic prompts need llama-server's %s; use a prompt file elsewhere", a.Status, path)
	}
	if err := json.NewDecoder(io.LimitReader(a.Body, 64<<20)).Decode(answer); err != nil {
		return fmt.Errorf("answer: %w: is this a llama-server?", err)
	}
	return nil
}

// vocabulary is a list of common English words, most of which are one token in most
// models' vocabularies.
const vocabulary = `the of and to in is you that it he was for on are as with his they at be this have from or one had
by word but not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way could people
my than first water been call who oil its now find long down day did get come made may part over new sound take only
little work know place year live me back give most very after thing our just name good man think say great where help
through much before line right too mean old any same tell boy follow came want show also around form three small set put
end does another well large must big even such because turn here why ask went men read need land different home us move
try kind hand picture again change off play spell air away animal house point page letter mother answer found study still
learn should world high every near add food between own below country plant last school father keep tree never start city
earth eye light thought head under story saw left late run while press close night real life few north open seem together
next white children begin got walk example ease paper group always music those both mark often until mile river car feet
care second book carry took science eat room friend began idea fish mountain stop once base hear horse cut sure watch
color face wood main enough plain girl usual young ready above ever red list though feel talk bird soon body dog family
direct leave song measure door product black short class wind question happen complete ship area half rock order fire
south problem piece told knew pass since top whole king space heard best hour better true during hundred five remember
step early hold west ground interest reach fast verb sing listen six table travel less morning ten simple several`
