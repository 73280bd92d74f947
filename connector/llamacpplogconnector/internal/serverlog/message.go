// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import (
	"strings"
	"time"
)

const (
	textBuild     = "build: "
	textBuildInfo = "build_info: "
	textException = "got exception: "
	// textUnended is written without an end of line, at raised verbosity: the
	// next message follows on the same line.
	textUnended = "No parser definition detected, assuming pure content parser."
)

// message is one of the messages that say something, by its beginning: what
// users wrote comes later in a message, if at all.
type message struct {
	begin string
	kind  Kind
	// read reads what follows begin; false makes the line Other: it is cut,
	// means something else or is absurd. nil reads nothing.
	read func(e *Event, rest string) bool
}

// messages of slots, after "id 0 | task 0 | ", and in older builds on lines of
// their own after such a line.
var slotMessages = []message{
	{"prompt eval time =", PromptDone, (*Event).readTiming},
	{"eval time =", GenerationDone, (*Event).readTiming},
	{"processing task", Launch, nil},
	{"stop processing:", Release, (*Event).readRelease},
	{"prompt processing", PromptProgress, (*Event).readPromptProgress},
	{"n_gen =", GenerationProgress, (*Event).readGenerationProgress},
	{"n_decoded =", GenerationProgress, (*Event).readGenerationProgress},
	{"new prompt,", NewPrompt, (*Event).readNewPrompt},
	{"cached n_tokens =", PromptCached, (*Event).readCached},
	{"n_tokens =", PromptCached, (*Event).readCached},
	{"kv cache rm [", PromptCached, (*Event).readCached},
	{"draft acceptance", Draft, (*Event).readDraft},
	{"slot context shift,", ContextShift, nil},
}

// messages of all others.
var serverMessages = []message{
	{"task id =", RequestError, (*Event).readTaskError},
	{textException, RequestError, (*Event).readException},
	{"cancel task, id_task =", Cancel, (*Event).readTask},
	{"initializing ...", Start, nil},
	{textBuild, Start, nil},
	{textBuildInfo, Start, nil},
	{"loading model '", Loading, (*Event).readQuoted},
	{"initializing, n_slots =", Ready, nil},
	{"initializing slots, n_slots =", Ready, nil},
	{"listening on ", Listening, (*Event).readURL},
	{"server is listening on ", Listening, (*Event).readURL},
	{"router server is listening on ", Listening, (*Event).readURL},
	{"server is entering sleeping state", Sleep, nil},
	{"server is exiting sleeping state", Wake, nil},
	{"operator(): cleaning up before exit", Stop, nil},
	{"cleaning up before exit", Stop, nil},
	{"spawning server instance with name=", Spawn, (*Event).readSpawn},
	{"instance name=", ChildExit, (*Event).readChildExit},
}

// read reads the message of a line. header reports whether it names a slot and a
// task and no more: then the lines that follow are of these.
func (e *Event) read(text string) (header bool) {
	if e.Area != areaSlot {
		e.find(serverMessages, text)
		return false
	}
	rest, ok := e.cutSlot(text)
	if !ok {
		return false
	}
	e.readSlot(rest)
	return strings.TrimLeft(rest, " ") == "" && e.Task >= 0
}

// cutSlot takes off "id  0 | task 0 |".
func (e *Event) cutSlot(s string) (rest string, ok bool) {
	slot, task := 0, -1
	if s, ok = strings.CutPrefix(s, "id "); !ok {
		return "", false
	}
	if slot, s, ok = cutInt(s); !ok {
		return "", false
	}
	if s, ok = strings.CutPrefix(s, " | task "); !ok {
		return "", false
	}
	if after, none := strings.CutPrefix(s, "-1"); none {
		s = after
	} else if task, s, ok = cutInt(s); !ok {
		return "", false
	}
	if rest, ok = strings.CutPrefix(s, " |"); ok {
		e.Slot, e.Task = slot, task
	}
	return rest, ok
}

// readSlot reads the message of a slot.
func (e *Event) readSlot(text string) { e.find(slotMessages, strings.TrimLeft(text, " ")) }

func (e *Event) find(messages []message, text string) {
	for i := range messages {
		m := &messages[i]
		rest, ok := strings.CutPrefix(text, m.begin)
		if !ok {
			continue
		}
		before := *e
		if e.Kind = m.kind; m.read != nil && !m.read(e, rest) {
			*e = before
		}
		return
	}
}

// 62.74 ms /    21 tokens (    2.99 ms per token,   334.69 tokens per second)
func (e *Event) readTiming(rest string) (ok bool) {
	if e.Duration, rest, ok = cutDuration(rest, " ms /", time.Millisecond); !ok {
		return false
	}
	e.Tokens, rest, ok = cutInt(rest)
	return ok && strings.HasPrefix(rest, " tokens")
}

// n_tokens = 49, truncated = 0; n_past = 49 in builds before November 2025.
func (e *Event) readRelease(rest string) (ok bool) {
	if e.Tokens, ok = intField(rest, "n_tokens"); !ok {
		e.Tokens, e.Early = intField(rest, "n_past")
	}
	truncated, found := field(rest, "truncated")
	e.Truncated = strings.HasPrefix(truncated, "1")
	return (ok || e.Early) && found && truncated != ""
}

// n_tokens =   2048, progress = 0.68, t =   7.45 s / 274.73 tokens per second;
// in older builds n_tokens is the size of the batch where there is n_past too.
func (e *Event) readPromptProgress(rest string) (ok bool) {
	if e.Tokens, ok = intField(rest, "n_past", "n_tokens"); !ok {
		return false
	}
	value, ok := field(rest, "progress")
	if !ok {
		return false
	}
	if e.Progress, rest, ok = cutDecimal(value, ""); !ok || e.Progress > 1 {
		return false
	}
	if value, ok = field(rest, "t"); !ok {
		return true
	}
	if e.Duration, rest, ok = cutDuration(value, " s /", time.Second); !ok {
		return false
	}
	e.Speed, ok = speed(rest, " tokens per second")
	return ok
}

// n_gen =    411, tg = 136.33 t/s, tg_3s = 136.66 t/s. The same beginning with
// no speed after it shows the token's text.
func (e *Event) readGenerationProgress(rest string) (ok bool) {
	if e.Tokens, rest, ok = cutInt(rest); !ok {
		return false
	}
	value, ok := strings.CutPrefix(rest, ", tg =")
	if !ok {
		return false
	}
	e.Speed, ok = speed(value, " t/s")
	return ok
}

func speed(s, unit string) (perSecond float64, ok bool) {
	perSecond, _, ok = cutDecimal(s, unit)
	return perSecond, ok && perSecond <= maxSpeed
}

// n_ctx_slot = 4096, n_keep = 0, task.n_tokens = 44
func (e *Event) readNewPrompt(rest string) (ok bool) {
	for _, key := range [...]string{"task.n_tokens", "n_prompt_tokens"} {
		if value, found := field(rest, key); found {
			e.Tokens, _, ok = cutLastInt(value)
			return ok
		}
	}
	return false
}

// 11, memory_seq_rm [11, end); only the position, 11, end), in builds before
// October 2025.
func (e *Event) readCached(rest string) (ok bool) {
	e.Cached, rest, ok = cutInt(rest)
	return ok && (strings.HasPrefix(rest, ", memory_seq_rm [") || strings.HasPrefix(rest, ", end)"))
}

// = 0.75000 (    3 accepted /     4 generated), mean len =  2.50
func (e *Event) readDraft(rest string) (ok bool) {
	_, rest, ok = strings.Cut(rest, "(")
	if !ok {
		return false
	}
	if e.Tokens, rest, ok = cutInt(rest); !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, " accepted /"); !ok {
		return false
	}
	e.Drafted, rest, ok = cutInt(rest)
	return ok && strings.HasPrefix(rest, " generated") && e.Tokens <= e.Drafted
}

func (e *Event) readTask(rest string) (ok bool) {
	e.Task, rest, ok = cutLastInt(rest)
	return ok && rest == ""
}

// 0, error: request (602 tokens) exceeds the available context size (256 tokens), try increasing it
func (e *Event) readTaskError(rest string) (ok bool) {
	if e.Task, rest, ok = cutInt(rest); !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, ", error: "); !ok {
		return false
	}
	e.Reason = reasonOfText(rest)
	return true
}

// reasonOfText finds the reason in the words of an error, as the server gives
// it no type in its log.
func reasonOfText(s string) string {
	for _, w := range [...]struct{ words, reason string }{
		{"Context size has been exceeded", ReasonContextFull},
		{"context shift is disabled", ReasonContextFull},
		{"context size", ReasonContextSize},
		{"too large to process", ReasonContextSize},
		{"compared to KV size", ReasonContextSize},
		{"invalid tokens", ReasonInvalidRequest},
		{"grammar", ReasonInvalidRequest},
		{"initialize samplers", ReasonInvalidRequest},
		{"Invalid slot", ReasonInvalidRequest},
		{"Unable to restore slot", ReasonInvalidRequest},
		{"not support", ReasonInvalidRequest},
		{"unavailable", ReasonUnavailable},
		{"no slot", ReasonUnavailable},
	} {
		if strings.Contains(s, w.words) {
			return w.reason
		}
	}
	return ReasonServer
}

// {"error":{"code":400,"message":"...","type":"invalid_request_error"}}
func (e *Event) readException(rest string) bool {
	// Quotes in the message, which quotes the request, are escaped.
	const key = `"type":"`
	i := strings.LastIndex(rest, key)
	if i < 0 {
		return false
	}
	name, _, ok := strings.Cut(rest[i+len(key):], `"`)
	switch name {
	case "exceed_context_size_error":
		e.Reason = ReasonContextSize
	case "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "not_supported_error":
		e.Reason = ReasonInvalidRequest
	case "unavailable_error":
		e.Reason = ReasonUnavailable
	default:
		e.Reason = ReasonServer
	}
	return ok
}

func (e *Event) readQuoted(rest string) (ok bool) {
	i := strings.LastIndexByte(rest, '\'')
	if i < 0 {
		return false
	}
	e.Text = rest[:i]
	return true
}

func (e *Event) readURL(rest string) bool {
	e.Text, _, _ = strings.Cut(rest, " ")
	return strings.Contains(e.Text, "://")
}

// tiny on port 37117
func (e *Event) readSpawn(rest string) (ok bool) {
	const on = " on port "
	i := strings.LastIndex(rest, on)
	if i < 0 {
		return false
	}
	e.Text = rest[:i]
	e.Port, rest, ok = cutLastInt(rest[i+len(on):])
	return ok && rest == "" && e.Port <= 65535
}

// tiny exited with status 1
func (e *Event) readChildExit(rest string) bool {
	i := strings.LastIndex(rest, " exited with status ")
	if i < 0 {
		return false
	}
	e.Text = rest[:i]
	return true
}
