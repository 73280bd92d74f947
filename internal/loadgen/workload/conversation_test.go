// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// hold holds conversation n, answering turn k with "answer k", and returns its
// requests.
func hold(w *Workload, n uint64) []*completion.Request {
	all := []*completion.Request{w.Request(n)}
	for {
		last := len(all) - 1
		q := w.Next(n, len(all), all[last], fmt.Sprintf("answer %d", len(all)))
		if q == nil {
			return all
		}
		all = append(all, q)
	}
}

// said are the texts of a request's messages, with the first letter of their roles.
func said(q *completion.Request) (all []string) {
	for _, m := range gjson.ParseBytes(q.Messages).Array() {
		all = append(all, m.Get("role").Str[:1]+": "+m.Get("content").String())
	}
	return all
}

func turns(low, high int) Settings {
	s := settings(1)
	s.Turns = Range{low, high}
	return s
}

const shared = `{"conversations":[{"from":"system","value":"be short"},{"from":"human","value":"one"},{"from":"gpt","value":"recorded"},
{"from":"human","value":"two"},{"from":"gpt","value":"recorded"},{"from":"human","value":"three"},{"from":"gpt","value":"recorded"}]}`

func TestConversation_EachTurnHasTheRealAnswersBeforeIt(t *testing.T) {
	s := turns(9, 9)
	s.Repeat = true
	w := build(t, s, read(t, strings.ReplaceAll(shared, "\n", "")))
	all := hold(w, 0)
	require.Len(t, all, 3, "no more than the file says")
	assert.Equal(t, []string{"s: be short", "u: one"}, said(all[0]))
	assert.Equal(t, []string{"s: be short", "u: one", "a: answer 1", "u: two"}, said(all[1]))
	assert.Equal(t, []string{"s: be short", "u: one", "a: answer 1", "u: two", "a: answer 2", "u: three"}, said(all[2]))
	for _, q := range all {
		assert.True(t, q.KeepText)
	}

	s.Turns = Range{2, 2}
	all = hold(build(t, s, read(t, strings.ReplaceAll(shared, "\n", ""))), 0)
	require.Len(t, all, 2)
	assert.False(t, all[1].KeepText, "nobody needs the last answer")

	s.Turns = Range{}
	q := build(t, s, read(t, strings.ReplaceAll(shared, "\n", ""))).Request(0)
	assert.Len(t, said(q), 6, "in one request, with the answers of the file")
	assert.False(t, q.KeepText)
}

func TestConversation_CallsOfToolsStayAsTheyAreRecorded(t *testing.T) {
	s := turns(5, 5)
	s.Repeat = true
	w := build(t, s, read(t, `{"messages":[{"role":"assistant","content":"hello"},{"role":"user","content":"sum"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},`+
		`{"role":"tool","tool_call_id":"1","content":"3"},{"role":"assistant","content":"it is 3"},{"role":"user","content":"thanks"}],"tools":[{"a":1}]}`))
	all := hold(w, 0)
	require.Len(t, all, 2)
	assert.Equal(t, []string{"a: hello", "u: sum", "a: ", "t: 3"}, said(all[0]))
	assert.Equal(t, []string{"a: hello", "u: sum", "a: ", "t: 3", "a: answer 1", "u: thanks"}, said(all[1]))
	assert.Contains(t, all[1].Extra, "tools")
}

func TestConversation_OfTextsGoesOnWithOtherTexts(t *testing.T) {
	for _, e := range []completion.Endpoint{completion.Chat, completion.Responses, completion.Messages, completion.Native, completion.Completions} {
		s := turns(3, 3)
		s.Endpoint = e
		w := build(t, s, Builtin())
		a, b := hold(w, 0), hold(w, 1)
		require.Len(t, a, 3)
		if !e.Conversation() {
			assert.True(t, strings.HasPrefix(a[2].Prompt, a[1].Prompt+"answer 2\n"), "a text goes on as it is")
			continue
		}
		assert.NotEqual(t, a[0].Prompt, b[0].Prompt, "unique by default")
		messages := gjson.ParseBytes(a[2].Messages).Array()
		require.Len(t, messages, 5)
		assert.Equal(t, a[0].Prompt, messages[0].Get("content").Str)
		if e == completion.Responses {
			assert.JSONEq(t, `{"type":"message","role":"assistant","content":[{"type":"output_text","text":"answer 1"}]}`, messages[1].Raw)
		} else {
			assert.Equal(t, "answer 1", messages[1].Get("content").Str)
		}
		assert.NotContains(t, messages[2].Get("content").Str, "[", "what is unique before it is enough")
	}
}

func TestConversation_OfSyntheticPromptsAddsNewTokensEachTurn(t *testing.T) {
	tok := tokenizer(t)
	source, err := NewSynthetic(t.Context(), tok, Lengths{New: Range{30, 30}, Depth: 100}, 1)
	require.NoError(t, err)
	all := hold(build(t, turns(3, 3), source), 4)
	require.Len(t, all, 3)
	for i, want := range []int{130, 30, 30} {
		n, err := tok.Count(t.Context(), gjson.GetBytes(all[2].Messages, fmt.Sprintf("%d.content", 2*i)).Str)
		require.NoError(t, err)
		assert.Equal(t, want, n)
	}
}

func TestConversation_SameSeedAndAnswersSameBytes(t *testing.T) {
	file := strings.ReplaceAll(shared, "\n", "") + "\n" + `{"prompt":"a","weight":3}` + "\n" + `{"prompt":"b","weight":0.5}`
	requests := func(seed uint64) (all string, lengths map[int]bool) {
		s := turns(1, 3)
		s.Seed = seed
		w := build(t, s, read(t, file))
		lengths = map[int]bool{}
		for n := range uint64(50) {
			held := hold(w, n)
			lengths[len(held)] = true
			b, err := json.Marshal(held)
			require.NoError(t, err)
			all += string(b)
		}
		return all, lengths
	}
	a, lengths := requests(1)
	b, _ := requests(1)
	other, _ := requests(2)
	assert.Equal(t, a, b)
	assert.NotEqual(t, a, other)
	assert.Equal(t, map[int]bool{1: true, 2: true, 3: true}, lengths)
	assert.NotEqual(t, build(t, turns(1, 3), Builtin()).Hash(), build(t, turns(1, 2), Builtin()).Hash())
	assert.Equal(t, build(t, settings(1), Builtin()).Request(5), build(t, turns(1, 1), Builtin()).Request(5))
}

func TestConversation_RefusesWhatCannotBeHeld(t *testing.T) {
	for want, change := range map[string]func(*Settings){
		"0-2 turns: want 1 or more":                       func(s *Settings) { s.Turns.Min = 0 },
		"embeddings have no answer that a conversation c": func(s *Settings) { s.Endpoint = completion.Embeddings },
	} {
		s := turns(2, 2)
		change(&s)
		_, err := New(s, Builtin())
		assert.ErrorContains(t, err, want)
	}
	image := read(t, `{"messages":[{"role":"user","content":[{"type":"image_url"}]},{"role":"assistant","content":"a cat"},{"role":"user","content":"what colour?"}]}`)
	_, err := New(turns(2, 2), image)
	require.ErrorContains(t, err, "prompts.jsonl:1: no message with a text that could be made unique")
	_, err = New(settings(1), image)
	assert.NoError(t, err, "in one request, the second message has a text")
}
