// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// message is a message of a conversation, by member.
type message = map[string]json.RawMessage

func role(m message) (r string) {
	_ = json.Unmarshal(m["role"], &r) // "" if it is not a string
	return r
}

// conversation is a JSON array of messages.
type conversation struct {
	messages json.RawMessage
	// toMark is messages with a mark that begins at markAt; nil if there is no text
	// to put a mark before.
	toMark json.RawMessage
	markAt int
}

func newConversation(messages []message) (conversation, error) {
	var d conversation
	var err error
	if d.messages, err = json.Marshal(messages); err != nil {
		return d, err
	}
	a, okA := withMark(messages, "[000000000000] ")
	b, okB := withMark(messages, "[ffffffffffff] ")
	if okA && okB {
		d.toMark, d.markAt = a, -1 // the marks differ after their opening bracket
		for a[d.markAt+1] == b[d.markAt+1] {
			d.markAt++
		}
	}
	return d, nil
}

// unanswered returns the messages up to the last one that is to be answered.
func unanswered(messages []message) ([]message, error) {
	for len(messages) > 0 && role(messages[len(messages)-1]) == "assistant" {
		messages = messages[:len(messages)-1]
	}
	if len(messages) == 0 {
		return nil, errors.New("no message to answer: want one whose role is not assistant")
	}
	for i, m := range messages {
		if role(m) == "" {
			return nil, fmt.Errorf(`message %d has no role: want "user", "system", "assistant" or "tool"`, i+1)
		}
	}
	return messages, nil
}

// split divides the conversation into turns: wherever the user says something after
// an answer of text. Calls of tools and their results stay as they are recorded,
// since nothing here could run the tools.
func (p *Prompt) split(messages []message) error {
	begin := 0
	for i, m := range messages {
		answered := i > begin && role(m) == "assistant" && m["tool_calls"] == nil && role(messages[i+1]) == "user"
		if !answered {
			continue
		}
		if err := p.addTurn(messages[begin:i]); err != nil {
			return err
		}
		begin = i + 1
	}
	if begin == 0 {
		return nil
	}
	return p.addTurn(messages[begin:])
}

func (p *Prompt) addTurn(messages []message) (err error) {
	if p.first.messages == nil {
		p.first, err = newConversation(messages)
		return err
	}
	b, err := json.Marshal(messages)
	p.later = append(p.later, b)
	return err
}

// opening returns the prompt of the first turn.
func (p Prompt) opening() Prompt {
	if p.later != nil {
		p.conversation = p.first
	}
	return p
}

// join returns the messages of q, an answer to them, and those of p.
func join(q *completion.Request, answer string, p *Prompt) json.RawMessage {
	before, after := q.Messages, p.messages
	if before == nil {
		before = array(map[string]any{"role": "user", "content": q.Prompt})
	}
	if after == nil {
		after = array(map[string]any{"role": "user", "content": p.text})
	}
	said := map[string]any{"role": "assistant", "content": answer}
	if q.Endpoint == completion.Responses { // llama-server takes an answer there only as it gave it
		said["type"], said["content"] = "message", []map[string]any{{"type": "output_text", "text": answer}}
	}
	all := before[: len(before)-1 : len(before)-1]
	for _, more := range []json.RawMessage{array(said), after} {
		all = append(all, ',')
		all = append(all, more[1:len(more)-1]...)
	}
	return append(all, ']')
}

// array returns a JSON array of one message.
func array(m map[string]any) json.RawMessage {
	b, err := json.Marshal([]any{m})
	if err != nil {
		panic(err) // texts always marshal
	}
	return b
}

// withMark returns the messages with a mark before the first text, and false if
// there is no text.
func withMark(messages []message, mark string) ([]byte, bool) {
	for i, m := range messages {
		content, ok := markContent(m["content"], mark)
		if !ok {
			continue
		}
		m = maps.Clone(m)
		m["content"] = content
		messages = slices.Clone(messages)
		messages[i] = m
		b, err := json.Marshal(messages)
		return b, err == nil
	}
	return nil, false
}

func markContent(content json.RawMessage, mark string) (json.RawMessage, bool) {
	if text, ok := text(content); ok {
		b, err := json.Marshal(mark + text)
		return b, err == nil
	}
	var parts []message
	if json.Unmarshal(content, &parts) != nil {
		return nil, false
	}
	for _, part := range parts {
		text, ok := text(part["text"])
		if !ok {
			continue
		}
		b, err := json.Marshal(mark + text)
		if err != nil {
			return nil, false
		}
		part["text"] = b
		b, err = json.Marshal(parts)
		return b, err == nil
	}
	return nil, false
}

func text(raw json.RawMessage) (s string, ok bool) {
	return s, len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil
}
