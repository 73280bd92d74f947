// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// The bodies are written by hand, key by key in llama-server's order, so that
// they are equal to its own except for the values.

// quote is a JSON string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return string(b)
}

// decimal is a JSON number that stays a floating-point one, as nlohmann::json
// writes a double.
func decimal(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "null"
	}
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

// ostream is a number as a C++ stream prints it: 6 significant digits.
func ostream(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// params are the request's settings that /slots shows.
type params struct {
	maxTokens       int
	ignoreEOS       bool
	stream          bool
	chat            bool
	timingsPerToken bool
	speculative     bool // of a server with a draft model
	defaults        bool // the server's own, in /props
	full            bool // with the fields that may hold users' text
}

func (p params) json() string {
	format, reasoning, prompt := "Content-only", "deepseek", ""
	if p.chat {
		format, prompt = "peg-native", "<|im_start|>assistant\n"
	}
	if p.defaults {
		reasoning = "none"
	}
	var breakers, stop, bias string
	if p.full {
		breakers = `"dry_sequence_breakers":["\n",":","\"","*"],`
		stop = `"stop":[],`
		bias = `"logit_bias":[],`
		if p.ignoreEOS {
			bias = `"logit_bias":[{"bias":null,"token":2},{"bias":null,"token":260}],`
		}
	}
	types := "none"
	if p.speculative {
		types = "none,draft-simple"
	}
	grammar := ""
	if p.full {
		grammar = `"grammar":"","grammar_lazy":false,"grammar_triggers":[],"preserved_tokens":[],`
	}
	return fmt.Sprintf(`{"seed":4294967295,"temperature":0.800000011920929,"dynatemp_range":0.0,"dynatemp_exponent":1.0,`+
		`"top_k":40,"top_p":0.949999988079071,"min_p":0.05000000074505806,"top_n_sigma":-1.0,"xtc_probability":0.0,`+
		`"xtc_threshold":0.10000000149011612,"typical_p":1.0,"repeat_last_n":64,"repeat_penalty":1.0,"presence_penalty":0.0,`+
		`"frequency_penalty":0.0,"dry_multiplier":0.0,"dry_base":1.75,"dry_allowed_length":2,"dry_penalty_last_n":64,%s`+
		`"mirostat":0,"mirostat_tau":5.0,"mirostat_eta":0.10000000149011612,"adaptive_target":-1.0,`+
		`"adaptive_decay":0.8999999761581421,%s"max_tokens":%d,"n_predict":%d,"n_keep":0,"n_discard":0,"ignore_eos":%t,`+
		`"stream":%t,%s"n_probs":0,"min_keep":0,%s"chat_format":%q,"reasoning_format":%q,"reasoning_in_content":false,`+
		`"generation_prompt":%s,"samplers":["penalties","dry","top_n_sigma","top_k","typ_p","top_p","min_p","xtc","temperature"],`+
		`"speculative.types":%q,"timings_per_token":%t,"post_sampling_probs":false,"backend_sampling":false,"lora":[]}`,
		breakers, stop, p.maxTokens, p.maxTokens, p.ignoreEOS, p.stream, bias, grammar, format, reasoning, quote(prompt), types, p.timingsPerToken)
}

// slotsJSON is the body of /slots. It needs the lock.
func (e *engine) slotsJSON() string {
	var b strings.Builder
	b.WriteByte('[')
	for i := range e.slots {
		if i > 0 {
			b.WriteByte(',')
		}
		e.slotJSON(&b, i)
	}
	b.WriteByte(']')
	return b.String()
}

func (e *engine) slotJSON(b *strings.Builder, i int) {
	s := &e.slots[i]
	fmt.Fprintf(b, `{"id":%d,"n_ctx":%d,"speculative":%t,"is_processing":%t`, i, e.o.ContextPerSlot, e.o.Draft > 0, s.task != nil)
	if e.o.Build == Future {
		b.WriteString(`,"is_thinking":null,"kv":{"layers":[1,2.5,"x"]}`)
	}
	t := s.last
	if t == nil {
		b.WriteByte('}')
		return
	}
	var (
		length    = s.length
		processed = 0
		cached    = 0
		decoded   = 0
		remain    = -1
		hasNext   = s.hasNext
	)
	if s.task != nil {
		length = t.cached + t.processed + s.taken + t.decoded
		processed, cached, decoded = t.processed, t.cached, t.decoded
		if t.nPredict >= 0 {
			remain = t.nPredict - t.decoded
		}
		if t.decoded > 0 {
			hasNext = true
		}
	} else if e.o.Build == Old {
		processed, cached, decoded = t.processed, t.cached, t.decoded
		if t.nPredict >= 0 {
			remain = t.nPredict - t.decoded
		}
	}
	fmt.Fprintf(b, `,"id_task":%d`, t.id)
	if e.o.Build != Future {
		fmt.Fprintf(b, `,"n_prompt_tokens":%d,"n_prompt_tokens_processed":%d,"n_prompt_tokens_cache":%d`, length, processed, cached)
	}
	p := t.params
	p.full, p.speculative = e.o.SlotsDebug, e.o.Draft > 0
	next := fmt.Sprintf(`{"has_next_token":%t,"has_new_line":false,"n_remain":%d,"n_decoded":%d}`, hasNext, remain, decoded)
	if e.o.Build != Old {
		next = "[" + next + "]"
	}
	fmt.Fprintf(b, `,"params":%s,"next_token":%s`, p.json(), next)
	if e.o.SlotsDebug {
		fmt.Fprintf(b, `,"prompt":%s,"generated":%s`, quote("<s> "+t.text), quote(e.text(t, 0, t.decoded)))
	}
	b.WriteByte('}')
}

// text is what t generated from token number from on.
func (e *engine) text(t *task, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		b.WriteByte(' ')
		b.WriteString(word(e.o.Seed, t.id, i))
	}
	return b.String()
}

type family struct {
	name, typ, help string
	value           float64
}

// metricsText is the body of /metrics; it resets the gauges of speed, as every
// GET by anybody does. It needs the lock.
func (e *engine) metricsText() string {
	sec := func(ns int64) float64 { return float64(ns) / 1e9 }
	per := func(n, ns int64) float64 {
		if ns <= 0 || n <= 0 {
			return 0
		}
		return float64(n) / sec(ns)
	}
	average, averageType := 0.0, "gauge"
	if e.c.decodes > 0 {
		average = float64(e.c.busySum) / float64(e.c.decodes)
	}
	if e.o.Build == Old {
		averageType = "counter"
	}
	fs := []family{
		{"prompt_tokens_total", "counter", "Number of prompt tokens processed, excluding cached tokens", float64(e.c.prompt)},
		{"prompt_tokens_cached_total", "counter", "Number of prompt tokens reused from the cache", float64(e.c.cached)},
		{"prompt_seconds_total", "counter", "Total time spent processing prompts", sec(e.c.promptNs)},
		{"tokens_predicted_total", "counter", "Number of generation tokens processed", float64(e.c.predicted)},
		{"tokens_predicted_seconds_total", "counter", "Total time spent generating tokens", sec(e.c.predictedNs)},
		{"n_decode_total", "counter", "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding", float64(e.c.decodes)},
		{"n_tokens_max", "counter", "Largest observed sequence length (prompt + generation)", float64(e.c.tokensMax)},
		{"spec_decode_num_draft_tokens_total", "counter", "Speculative: Total draft tokens generated", float64(e.c.drafts.drafted)},
		{"spec_decode_num_accepted_tokens_total", "counter", "Speculative: Total draft tokens accepted by the target model", float64(e.c.drafts.accepted)},
		{"spec_decode_num_drafts_total", "counter", "Speculative: Total speculative decoding verification steps", float64(e.c.drafts.rounds)},
		{"prompt_tokens_seconds", "gauge", "Average prompt throughput in tokens/s", per(e.c.bucketPrompt, e.c.bucketPromptNs)},
		{"predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s", per(e.c.bucketGen, e.c.bucketGenNs)},
		{"requests_processing", "gauge", "Number of requests processing", float64(e.busy())},
		{"requests_deferred", "gauge", "Number of requests deferred", float64(len(e.deferred))},
		{"n_busy_slots_per_decode", averageType, "Average number of busy slots per llama_decode() call", average},
	}
	e.c.bucketPrompt, e.c.bucketPromptNs, e.c.bucketGen, e.c.bucketGenNs = 0, 0, 0, 0

	var b strings.Builder
	for _, f := range fs {
		if e.o.Build == Old && (f.name == "prompt_tokens_cached_total" || strings.HasPrefix(f.name, "spec_decode_")) {
			continue
		}
		if e.o.Build == Future && (f.name == "n_tokens_max" || f.name == "predicted_tokens_seconds") {
			continue
		}
		fmt.Fprintf(&b, "# HELP llamacpp:%s %s\n# TYPE llamacpp:%s %s\nllamacpp:%s %s\n", f.name, f.help, f.name, f.typ, f.name, ostream(f.value))
	}
	if len(e.c.drafts.byPosition) > 0 && e.o.Build != Old {
		const name = "llamacpp:spec_decode_num_accepted_tokens_per_pos_total"
		fmt.Fprintf(&b, "# HELP %s Accepted tokens per draft position\n# TYPE %s counter\n", name, name)
		for i, n := range e.c.drafts.byPosition {
			fmt.Fprintf(&b, "%s{position=\"%d\"} %d\n", name, i, n)
		}
	}
	if e.o.Build == Future {
		b.WriteString(futureFamilies)
	}
	return b.String()
}

const futureFamilies = `# HELP llamacpp:kv_cache_evictions_total Sequences dropped from the KV cache
# TYPE llamacpp:kv_cache_evictions_total counter
llamacpp:kv_cache_evictions_total{reason="full",slot="0"} 3
llamacpp:kv_cache_evictions_total{reason="say \"why\"",slot="1"} 1
# HELP llamacpp:kv_cache_usage_ratio Share of the KV cache in use
# TYPE llamacpp:kv_cache_usage_ratio gauge
llamacpp:kv_cache_usage_ratio NaN
# HELP llamacpp:time_to_first_token_seconds Time to first token
# TYPE llamacpp:time_to_first_token_seconds histogram
llamacpp:time_to_first_token_seconds_bucket{le="0.1"} 1
llamacpp:time_to_first_token_seconds_bucket{le="+Inf"} 2
llamacpp:time_to_first_token_seconds_sum 0.7
llamacpp:time_to_first_token_seconds_count 2
`

func (e *engine) propsJSON() string {
	var b strings.Builder
	b.WriteByte('{')
	if e.o.Build == Future {
		b.WriteString(`"api":{"version":"3"},"default_generation_settings":[],`)
	} else {
		fmt.Fprintf(&b, `"default_generation_settings":{"params":%s,"n_ctx":%d},`, params{maxTokens: -1, defaults: true}.json(), e.o.ContextPerSlot)
	}
	fmt.Fprintf(&b, `"total_slots":%d,"model_alias":%s,"model_ftype":"all F32","model_path":%s,`+
		`"modalities":{"vision":false,"video":false,"audio":false},"media_marker":"%s","endpoint_slots":%t,"endpoint_props":false,`+
		`"endpoint_metrics":%t,"ui":true,"ui_settings":{},"chat_template":%s,`+
		`"chat_template_caps":{"supports_object_arguments":false,"supports_parallel_tool_calls":false,"supports_preserve_reasoning":false,`+
		`"supports_reasoning_effort":false,"supports_string_content":true,"supports_system_role":true,"supports_tool_calls":false,`+
		`"supports_tools":false,"supports_typed_content":false},"bos_token":"<s>","eos_token":"</s>","build_info":%q`,
		e.o.Slots, quote(e.o.ModelName), quote("/models/"+e.o.ModelName+".gguf"), e.media, !e.o.NoSlots, !e.o.NoMetrics,
		quote(tinygguf.ChatTemplate), e.o.Build)
	if e.o.Build != Old || e.o.SleepAfter > 0 {
		fmt.Fprintf(&b, `,"is_sleeping":%t`, e.asleep)
	}
	b.WriteString(`,"cors_proxy_enabled":false}`)
	return b.String()
}

func (e *engine) metaJSON() string {
	return fmt.Sprintf(`{"vocab_type":1,"n_vocab":833,"n_ctx":%d,"n_ctx_train":4096,"n_embd":64,"n_params":188864,"size":755456,"ftype":"all F32"}`, e.o.ContextPerSlot)
}

func (e *engine) modelsJSON(created int64) string {
	m := quote(e.o.ModelName)
	return fmt.Sprintf(`{"models":[{"name":%[1]s,"model":%[1]s,"modified_at":"","size":"","digest":"","type":"model","description":"",`+
		`"tags":[""],"capabilities":["completion"],"parameters":"","details":{"parent_model":"","format":"gguf","family":"",`+
		`"families":[""],"parameter_size":"","quantization_level":""}}],"object":"list","data":[{"id":%[1]s,"aliases":[%[1]s],`+
		`"tags":[],"object":"model","architecture":{"input_modalities":["text"],"output_modalities":["text"]},"created":%[2]d,`+
		`"owned_by":"llamacpp","meta":%[3]s}]}`, m, created, e.metaJSON())
}

// measured is a duration as the server measures it: in whole microseconds, and at
// least one, even for the generation of a single token.
func measured(ns int64) time.Duration {
	return max(time.Duration(ns).Truncate(time.Microsecond), time.Microsecond)
}

func (p progress) timings() string {
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
	prompt, gen := ms(measured(p.promptNs)), ms(measured(p.genNs))
	np, ng := float64(p.processed), float64(p.decoded-1)
	perToken, perSecond := ratio(gen, ng), ratio(ng*1000, gen)
	drafts := ""
	if p.drafts.drafted > 0 {
		drafts = fmt.Sprintf(`,"draft_n":%d,"draft_n_accepted":%d`, p.drafts.drafted, p.drafts.accepted)
	}
	return fmt.Sprintf(`{"cache_n":%d,"prompt_n":%d,"prompt_ms":%s,"prompt_per_token_ms":%s,"prompt_per_second":%s,`+
		`"predicted_n":%d,"predicted_ms":%s,"predicted_per_token_ms":%s,"predicted_per_second":%s%s}`,
		p.cached, p.processed, decimal(prompt), decimal(ratio(prompt, np)), decimal(ratio(np*1000, prompt)),
		p.decoded, decimal(gen), decimal(perToken), decimal(perSecond), drafts)
}

func (p progress) usage() string {
	return fmt.Sprintf(`{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}`,
		p.decoded, p.nPrompt, p.decoded+p.nPrompt, p.cached)
}
