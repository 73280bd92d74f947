// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Prompt is one prompt of a workload: a text or a conversation, and the settings
// that a prompt file has for its answer.
type Prompt struct {
	text string
	conversation
	// first has the messages of the first turn, if there are several. later has those of
	// the others: what comes after the answer to the turn before.
	first conversation
	later []json.RawMessage

	maxTokens   int
	temperature *float64
	extra       map[string]json.RawMessage
	weight      float64 // 0 means 1
	where       string  // file and line
}

func (p *Prompt) marked(mark string) (text string, messages json.RawMessage) {
	if p.messages == nil {
		return mark + p.text, nil
	}
	m := bytes.Clone(p.toMark)
	copy(m[p.markAt:], mark)
	return "", m
}

// apply sets what the prompt says of its answer.
func (p *Prompt) apply(q *completion.Request) {
	q.Extra = p.extra
	if p.maxTokens > 0 {
		q.MaxTokens = p.maxTokens
	}
	if p.temperature != nil {
		q.Temperature = p.temperature
	}
}

// Prompts is a list of prompts. They are sent in order, again and again. If any of
// them has a weight, they are drawn by weight instead.
type Prompts struct {
	list []Prompt
	sums []float64 // cumulative weights; nil if no prompt has a weight
}

func newPrompts(list []Prompt) *Prompts {
	p := &Prompts{list: list}
	if !slices.ContainsFunc(list, func(p Prompt) bool { return p.weight != 0 }) {
		return p
	}
	sum := 0.0
	for _, one := range list {
		if one.weight == 0 {
			one.weight = 1
		}
		sum += one.weight
		p.sums = append(p.sums, sum)
	}
	return p
}

// Inline returns the given texts as prompts.
func Inline(texts ...string) (*Prompts, error) {
	if len(texts) == 0 {
		return nil, errors.New("no prompts: want at least one text")
	}
	var list []Prompt
	for i, t := range texts {
		if strings.TrimSpace(t) == "" {
			return nil, fmt.Errorf("prompt %d is empty: want a text", i+1)
		}
		list = append(list, Prompt{text: t, where: fmt.Sprintf("prompt %d", i+1)})
	}
	return newPrompts(list), nil
}

// Builtin returns ten short questions about inference.
func Builtin() *Prompts {
	p, err := Inline(
		"Explain what happens in a transformer's attention layer while one token is generated.",
		"Why does a key-value cache make generation faster, and what does it cost in memory?",
		"What is the difference between the prefill and the decode phase of a language model?",
		"Compare 4-bit and 8-bit quantization of model weights: speed, memory, and quality.",
		"How does continuous batching raise the throughput of an inference server?",
		"What is speculative decoding, and when does a draft model not pay off?",
		"Why is generating tokens limited by memory bandwidth more often than by arithmetic?",
		"Explain temperature, top-k and top-p sampling to a new engineer, with a short example.",
		"What does flash attention change, and why does it matter for long contexts?",
		"Name three signs that an inference server is overloaded, and what you would do about each.",
	)
	if err != nil {
		panic(err) // none is empty
	}
	return p
}

// Parse parses the content of a prompt file: JSON objects, one per line or in one
// array. Each has one of
//
//	messages       a conversation as OpenAI's chat completions take it
//	conversations  a conversation of ShareGPT
//	prompt         a text
//
// and may have max_tokens, temperature, weight and further members of the body,
// such as tools, which are sent unchanged. Assistant messages at the end are left
// out, since the server has to generate them. name is the file's name in errors.
func Parse(data []byte, name string) (*Prompts, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var list []Prompt
	add := func(line int, object []byte) error {
		p, err := parseOne(object)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, line, err)
		}
		p.where = fmt.Sprintf("%s:%d", name, line)
		list = append(list, p)
		return nil
	}
	var err error
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) > 0 && t[0] == '[' {
		err = eachOfArray(data, name, add)
	} else {
		err = eachLine(data, add)
	}
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf(`%s: no prompts in it: want JSON objects, one a line, such as {"prompt":"…"}`, name)
	}
	return newPrompts(list), nil
}

func eachLine(data []byte, add func(int, []byte) error) error {
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := add(n, line); err != nil {
			return err
		}
	}
	return nil
}

func eachOfArray(data []byte, name string, add func(int, []byte) error) error {
	// line returns the line number of the value after offset.
	line := func(offset int64) int {
		rest := bytes.TrimLeft(data[offset:], ", \t\r\n")
		return 1 + bytes.Count(data[:len(data)-len(rest)], []byte("\n"))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for d.More() {
		var object json.RawMessage
		if err := d.Decode(&object); err != nil {
			return fmt.Errorf("%s:%d: not JSON: %w", name, line(d.InputOffset()), err)
		}
		if err := add(line(d.InputOffset()-int64(len(object))), object); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("%s:%d: the array has no end: %w", name, line(int64(len(data))), err)
	}
	return nil
}

// ours are the members of a body that the workload or the client sets.
var ours = []string{"model", "stream", "stream_options", "n", "seed", "ignore_eos", "id", "source"}

const wantMember = `want one of "messages", "conversations" or "prompt"`

func parseOne(object []byte) (Prompt, error) {
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &members); err != nil {
		return Prompt{}, fmt.Errorf("not a JSON object: %w: want one a line", err)
	}
	var p Prompt
	take := func(name string, v any) error {
		raw, ok := members[name]
		if !ok {
			return nil
		}
		delete(members, name)
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	}
	var messages []message
	var turns []turn
	var completionTokens int
	kinds := 0
	for _, name := range []string{"messages", "conversations", "prompt"} {
		if _, ok := members[name]; ok {
			kinds++
		}
	}
	if kinds != 1 {
		return Prompt{}, fmt.Errorf("%d prompts in it: %s", kinds, wantMember)
	}
	for _, m := range []struct {
		name string
		v    any
	}{
		{"messages", &messages},
		{"conversations", &turns},
		{"prompt", &p.text},
		{"max_tokens", &p.maxTokens},
		{"max_completion_tokens", &completionTokens},
		{"temperature", &p.temperature},
		{"weight", &p.weight},
	} {
		if err := take(m.name, m.v); err != nil {
			return Prompt{}, err
		}
	}
	if p.maxTokens < 0 || completionTokens < 0 || p.weight < 0 {
		return Prompt{}, errors.New("negative max_tokens or weight: want 0 or more")
	}
	p.maxTokens = max(p.maxTokens, completionTokens)
	for _, name := range ours {
		delete(members, name)
	}
	if len(members) > 0 {
		p.extra = members
	}
	for _, t := range turns {
		m, err := t.message()
		if err != nil {
			return Prompt{}, err
		}
		messages = append(messages, m)
	}
	if messages == nil && strings.TrimSpace(p.text) == "" {
		return Prompt{}, errors.New("the prompt is empty: want a text")
	}
	if messages == nil {
		return p, nil
	}
	var err error
	if messages, err = unanswered(messages); err != nil {
		return Prompt{}, err
	}
	if p.conversation, err = newConversation(messages); err != nil {
		return Prompt{}, err
	}
	err = p.split(messages)
	return p, err
}

// turn is one turn of a ShareGPT conversation.
type turn struct{ From, Value string }

var roles = map[string]string{
	"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
	"bing": "assistant", "bard": "assistant", "system": "system",
}

func (t turn) message() (message, error) {
	role, ok := roles[t.From]
	if !ok {
		return nil, fmt.Errorf(`turn from %q: want "human", "gpt" or "system"`, t.From)
	}
	content, err := json.Marshal(t.Value)
	return map[string]json.RawMessage{"role": json.RawMessage(`"` + role + `"`), "content": content}, err
}

func (p *Prompts) prompt(n uint64, r *rand.Rand) Prompt {
	if p.sums == nil {
		return p.list[n%uint64(len(p.list))]
	}
	u := r.Float64() * p.sums[len(p.sums)-1]
	return p.list[min(sort.SearchFloat64s(p.sums, math.Nextafter(u, math.Inf(1))), len(p.list)-1)]
}

// turn returns the next turn of the same conversation or, of a text, another text.
func (p *Prompts) turn(n uint64, turn int, first, r *rand.Rand) (Prompt, bool) {
	if one := p.prompt(n, first); one.messages != nil {
		if turn > len(one.later) {
			return Prompt{}, false
		}
		one.messages = one.later[turn-1]
		return one, true
	}
	other := p.prompt(n+uint64(turn), r)
	return other, other.messages == nil
}

func (p *Prompts) unique() bool { return false }

func (p *Prompts) check(s *Settings, unique bool) error {
	for _, one := range p.list {
		if one.messages == nil {
			continue
		}
		if !s.Endpoint.Conversation() {
			return fmt.Errorf("%s: a conversation cannot be sent to the endpoint %s: send it to chat, or give it a prompt", one.where, s.Endpoint)
		}
		if s.Turns.Max > 1 {
			one = one.opening()
		}
		if unique && one.toMark == nil {
			return fmt.Errorf("%s: no message with a text that could be made unique: add one, or let prompts repeat", one.where)
		}
	}
	return nil
}

func (p *Prompts) content() any {
	all := make([]any, len(p.list))
	for i, one := range p.list {
		all[i] = []any{one.text, one.messages, one.maxTokens, one.temperature, one.extra, one.weight}
	}
	return all
}
