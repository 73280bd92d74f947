// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadreal

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// thinkingTemplate is a chat template in which llama-server finds calls of tools and
// reasoning. Unless it is told otherwise, the model begins with reasoning, and this
// model never ends it.
const thinkingTemplate = `{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}
{%- if m.tool_calls %}{% for c in m.tool_calls %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% endif %}{% endif %}`

func thinkingServer(t *testing.T) *llamatest.Server {
	t.Helper()
	return llamatest.Start(t, llamatest.Options{Args: []string{
		"--jinja", "--chat-template", thinkingTemplate,
		// With the space, the start of an answer would not be what its grammar wants.
		"--override-kv", "tokenizer.ggml.add_space_prefix=bool:false",
	}})
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// A model of random words calls no tool. But when an answer has begun with the start
// of a call, the grammar of the tool lets it say nothing else, and without chance it says
// the same each time.
func TestCompletion_CallsOfTools(t *testing.T) {
	const (
		schema = `{"type":"object","properties":{"city":{"type":"string","enum":["rome","oslo"]}},"required":["city"]}`
		begun  = `{"role":"assistant","content":"<tool_call>\n"}`
	)
	s := thinkingServer(t)
	c := newClient(t, s.URL(), completion.Options{})
	sum := counted(s)
	for e, q := range map[completion.Endpoint]struct{ begun, tools, choice, finish string }{
		completion.Chat:      {begun, `[{"type":"function","function":{"name":"weather","parameters":` + schema + `}}]`, `"required"`, "length"},
		completion.Messages:  {begun, `[{"name":"weather","input_schema":` + schema + `}]`, `{"type":"any"}`, "max_tokens"},
		completion.Responses: {`{"type":"message","role":"assistant","content":[{"type":"output_text","text":"<tool_call>\n"}]}`, `[{"type":"function","name":"weather","parameters":` + schema + `}]`, `"required"`, "completed"},
	} {
		for _, stream := range []bool{true, false} {
			name := fmt.Sprintf("%s, stream %t", e, stream)
			r := c.Do(t.Context(), &completion.Request{
				Endpoint: e, Stream: stream, MaxTokens: 64, KeepText: true,
				Messages: raw(`[{"role":"user","content":"the weather of"},` + q.begun + `]`),
				Extra:    map[string]json.RawMessage{"tools": raw(q.tools), "tool_choice": raw(q.choice), "chat_template_kwargs": raw(`{"enable_thinking":false}`), "temperature": raw("0")},
			}, time.Now())
			require.NoError(t, r.Err, name)
			assert.Equal(t, 64, r.OutputTokens, "%s: it fills the rest with spaces", name)
			assert.Equal(t, q.finish, r.FinishReason, name)
			assert.Empty(t, r.Text, "%s: a call is no text", name)
			sum.add(r)
			assertCounted(t, s, sum)
			if !stream {
				continue
			}
			assert.Greater(t, r.Chunks, 5, name)
			assert.Less(t, r.Chunks, r.OutputTokens, "%s: the name and the brackets come together", name)
			assert.Equal(t, r.FirstToken, r.FirstAnswer, "%s: a call is an answer", name)
			assert.False(t, r.FirstToken.IsZero(), name)
		}
	}
}

func TestCompletion_Reasoning(t *testing.T) {
	s := thinkingServer(t)
	c := newClient(t, s.URL(), completion.Options{})
	sum := counted(s)
	for _, e := range []completion.Endpoint{completion.Chat, completion.Responses, completion.Messages} {
		for _, stream := range []bool{true, false} {
			name := fmt.Sprintf("%s, stream %t", e, stream)
			r := c.Do(t.Context(), &completion.Request{Endpoint: e, Prompt: llamatest.Words(20, uint64(e)), MaxTokens: 12, Stream: stream, KeepText: true}, time.Now())
			require.NoError(t, r.Err, name)
			assert.Equal(t, 12, r.OutputTokens, name)
			assert.Empty(t, r.Text, "%s: nothing of it is the answer", name)
			sum.add(r)
			assertCounted(t, s, sum)
			if !stream {
				continue
			}
			assert.Equal(t, 12, r.Chunks, name)
			assert.False(t, r.FirstToken.IsZero(), "%s: a token of reasoning is one", name)
			assert.True(t, r.FirstAnswer.IsZero(), "%s: but not one of the answer", name)
		}
	}
}
