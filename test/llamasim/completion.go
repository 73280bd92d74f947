// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// flavor is the API that a completion is asked through.
type flavor int

const (
	native flavor = iota // /completion, /completions
	openAI               // /v1/completions
	chat                 // /v1/chat/completions
)

var flavors = map[string]flavor{
	"/completion": native, "/completions": native,
	"/v1/completions":      openAI,
	"/v1/chat/completions": chat, "/chat/completions": chat,
}

// request is the part of a completion request that the simulator heeds.
type request struct {
	Model         string
	Prompt        json.RawMessage
	Messages      []message
	Stream        bool
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	NPredict            *int `json:"n_predict"`
	MaxTokens           *int `json:"max_tokens"`
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	IgnoreEOS           bool `json:"ignore_eos"`
	CachePrompt         *bool
	TimingsPerToken     bool `json:"timings_per_token"`
}

type message struct {
	Role    string
	Content json.RawMessage
}

// task makes the task of a request, or says what is wrong with the request.
func (q *request) task(f flavor) (*task, string) {
	t := &task{nPredict: -1}
	for _, n := range []*int{q.NPredict, q.MaxCompletionTokens, q.MaxTokens} {
		if n != nil {
			t.nPredict = max(-1, *n)
		}
	}
	t.params = params{maxTokens: t.nPredict, ignoreEOS: q.IgnoreEOS, stream: q.Stream, chat: f == chat, timingsPerToken: q.TimingsPerToken}
	if f == chat {
		if q.Messages == nil {
			return nil, "'messages' is required"
		}
		t.text = q.template()
	} else {
		if q.Prompt == nil {
			return nil, "[json.exception.out_of_range.403] key 'prompt' not found"
		}
		var text string
		if err := json.Unmarshal(q.Prompt, &text); err != nil {
			if err := json.Unmarshal(q.Prompt, &t.prompt); err != nil {
				return nil, `"prompt" must be a string or an array of token numbers`
			}
		}
		t.text = text
	}
	if t.prompt == nil {
		t.prompt = tinygguf.Tokenize(t.text, true)
	}
	t.nPrompt = len(t.prompt)
	return t, ""
}

// template is the prompt that the chat template makes of the messages.
func (q *request) template() string {
	var b strings.Builder
	for _, m := range q.Messages {
		fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", m.Role, contentText(m.Content))
	}
	b.WriteString("<|im_start|>assistant\n")
	return b.String()
}

// contentText joins the text parts of a message.
func contentText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var parts []struct{ Text string }
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	for _, p := range parts {
		s += p.Text
	}
	return s
}

// complete answers a completion request.
func (x *exchange) complete(e *engine, f flavor, body []byte) {
	var q request
	if err := json.Unmarshal(body, &q); err != nil {
		message := "[json.exception.parse_error.101] " + err.Error()
		if wrong := new(json.UnmarshalTypeError); f == chat && errors.As(err, &wrong) && strings.EqualFold(wrong.Field, "messages") {
			message = "Expected 'messages' to be an array"
		}
		x.reject(e, message)
		return
	}
	t, problem := q.task(f)
	if t == nil {
		if f == chat {
			x.reject(e, problem)
			return
		}
		x.fail(http.StatusBadRequest, badRequest, problem)
		return
	}
	e.post(t)
	if q.Stream {
		x.stream(e, f, &q, t)
		return
	}
	// As llama-server does, go on when the client has left.
	p, alive := e.wait(t, 1<<60)
	switch {
	case !alive:
		panic(http.ErrAbortHandler)
	case p.err != nil:
		x.failTask(p.err)
	default:
		x.answer(http.StatusOK, "application/json; charset=utf-8", e.finalJSON(f, p))
	}
}

func (x *exchange) failTask(err error) {
	var c errContext
	if !errors.As(err, &c) {
		x.fail(http.StatusInternalServerError, "server_error", err.Error())
		return
	}
	x.header().Set("Connection", "close")
	x.answer(http.StatusBadRequest, "application/json; charset=utf-8", fmt.Sprintf(
		`{"error":{"code":400,"message":%q,"type":"exceed_context_size_error","n_prompt_tokens":%d,"n_ctx":%d}}`, c.Error(), c.tokens, c.context))
}

// stream sends each token when it is due. It looks for the client only when it
// writes, so a client that left during its prompt is noticed at the first token.
func (x *exchange) stream(e *engine, f flavor, q *request, t *task) {
	sent := 0
	for {
		p, alive := e.wait(t, sent)
		if !alive {
			panic(http.ErrAbortHandler)
		}
		if p.err != nil {
			x.failTask(p.err)
			return
		}
		if x.r.Context().Err() != nil {
			e.leave(t)
			return
		}
		if sent == 0 {
			x.startStream()
			if x.flush() != nil { // makes it chunked, however short
				e.leave(t)
				return
			}
			if f == chat {
				x.event(e.chunk(f, p, `{"role":"assistant","content":null}`, "null", ""))
			}
		}
		for ; sent < p.decoded; sent++ {
			at := p
			at.decoded = sent + 1
			x.event(e.tokenJSON(f, at, q.TimingsPerToken))
		}
		if p.finished {
			x.finishStream(e, f, q, p)
			return
		}
		if x.flush() != nil {
			e.leave(t)
			return
		}
	}
}

func (x *exchange) finishStream(e *engine, f flavor, q *request, p progress) {
	timings := `,"timings":` + p.timings()
	switch f {
	case native:
		x.event(e.finalJSON(f, p))
	default:
		last, usage := timings, f == chat && q.StreamOptions.IncludeUsage
		if f == openAI {
			last = `,"usage":` + p.usage() + timings
		}
		if usage {
			last = ""
		}
		x.event(e.chunk(f, p, `{}`, `"length"`, last))
		if usage {
			x.event(fmt.Sprintf(`{"choices":[],%s,"usage":%s%s}`, e.chunkTail(f, p), p.usage(), timings))
		}
		x.event("[DONE]")
	}
}

func (e *engine) tokenJSON(f flavor, p progress, timings bool) string {
	tail := ""
	if timings {
		tail = `,"timings":` + p.timings()
	}
	text := e.text(&p.task, p.decoded-1, p.decoded)
	if f == native {
		return fmt.Sprintf(`{"index":0,"content":%s,"tokens":[%d],"stop":false,"id_slot":-1,"tokens_predicted":%d,"tokens_evaluated":%d%s}`,
			quote(text), tinygguf.Tokenize(strings.TrimSpace(text), false)[0], p.decoded, p.nPrompt, tail)
	}
	return e.chunk(f, p, `{"content":`+quote(text)+`}`, "null", tail)
}

func (e *engine) chunk(f flavor, p progress, delta, reason, tail string) string {
	if f == openAI {
		text := strings.TrimSuffix(strings.TrimPrefix(delta, `{"content":`), "}")
		if delta == "{}" {
			text = `""`
		}
		return fmt.Sprintf(`{"choices":[{"text":%s,"index":0,"logprobs":null,"finish_reason":%s}],%s%s}`, text, reason, e.chunkTail(f, p), tail)
	}
	return fmt.Sprintf(`{"choices":[{"finish_reason":%s,"index":0,"delta":%s}],%s%s}`, reason, delta, e.chunkTail(f, p), tail)
}

func (e *engine) chunkTail(f flavor, p progress) string {
	created, id := e.o.Now().Unix(), e.answerID(p)
	if f == openAI {
		return fmt.Sprintf(`"created":%d,"model":%s,"system_fingerprint":%q,"object":"text_completion","id":%q`, created, quote(e.o.ModelName), e.o.Build, id)
	}
	return fmt.Sprintf(`"created":%d,"id":%q,"model":%s,"system_fingerprint":%q,"object":"chat.completion.chunk"`, created, id, quote(e.o.ModelName), e.o.Build)
}

func (e *engine) answerID(p progress) string { return fmt.Sprintf("chatcmpl-sim%029d", p.id) }

// finalJSON is the answer that is not streamed, or a native stream's last event.
func (e *engine) finalJSON(f flavor, p progress) string {
	content, tokens := quote(e.text(&p.task, 0, p.decoded)), `[]`
	switch f {
	case native:
		if p.params.stream {
			content = `""`
		}
		full := p.params
		full.full, full.speculative = true, e.o.Draft > 0
		return fmt.Sprintf(`{"index":0,"content":%s,"tokens":%s,"id_slot":%d,"stop":true,"model":%s,"tokens_predicted":%d,`+
			`"tokens_evaluated":%d,"generation_settings":%s,"prompt":%s,"has_new_line":false,"truncated":%t,"stop_type":"limit",`+
			`"stopping_word":"","tokens_cached":%d,"timings":%s}`,
			content, tokens, p.slot, quote(e.o.ModelName), p.decoded, p.nPrompt, full.json(), quote("<s> "+p.text), p.truncated,
			p.nPrompt+p.decoded-1, p.timings())
	case openAI:
		return fmt.Sprintf(`{"choices":[{"text":%s,"index":0,"logprobs":null,"finish_reason":"length"}],"created":%d,"model":%s,`+
			`"system_fingerprint":%q,"object":"text_completion","usage":%s,"id":%q,"timings":%s}`,
			content, e.o.Now().Unix(), quote(e.o.ModelName), e.o.Build, p.usage(), e.answerID(p), p.timings())
	default:
		return fmt.Sprintf(`{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":%s}}],"created":%d,`+
			`"model":%s,"system_fingerprint":%q,"object":"chat.completion","usage":%s,"id":%q,"timings":%s}`,
			content, e.o.Now().Unix(), quote(e.o.ModelName), e.o.Build, p.usage(), e.answerID(p), p.timings())
	}
}

// readBody reads a request's body; llama-server reads it whole before it looks.
func readBody(r *http.Request) []byte {
	b, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		return nil
	}
	return b
}
