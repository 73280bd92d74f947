// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package simreal holds the simulator to the truth: it sends the real
// llama-server and the simulator the same requests and compares what comes back.
package simreal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 90 * time.Second}

// probe is a request to both servers, written out, since what is compared is how
// they read each byte and what they answer.
type probe struct {
	method, path, body string
	header             map[string]string
}

func get(path string) probe { return probe{method: http.MethodGet, path: path} }

func post(path, body string) probe { return probe{method: http.MethodPost, path: path, body: body} }

func (p probe) with(name, value string) probe {
	p.header = map[string]string{name: value}
	return p
}

func (p probe) String() string { return fmt.Sprint(p.method, " ", p.path, " ", p.body, " ", p.header) }

// answer is what is compared of an answer.
type answer struct {
	Status  int
	Headers map[string]string
	Shape   string
	body    string
}

func (p probe) send(t *testing.T, url string) answer {
	t.Helper()
	q, err := http.NewRequest(p.method, url+p.path, strings.NewReader(p.body))
	require.NoError(t, err)
	for k, v := range p.header {
		q.Header.Set(k, v)
	}
	r, err := client.Do(q)
	require.NoError(t, err, p)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err, p)
	a := answer{Status: r.StatusCode, Headers: map[string]string{}, Shape: shape(t, r.Header.Get("Content-Type"), b), body: string(b)}
	for _, name := range []string{"Server", "Content-Type", "Keep-Alive", "Process-Start-Time-Unix", "X-Accel-Buffering", "Access-Control-Allow-Methods"} {
		if v, ok := r.Header[name]; ok {
			a.Headers[name] = v[0]
		}
	}
	if a.Headers["Process-Start-Time-Unix"] != "" {
		a.Headers["Process-Start-Time-Unix"] = "present"
	}
	if m := gjson.GetBytes(b, "error.message").String(); !strings.Contains(m, "parse_error") {
		a.Shape += "\n" + m
	}
	a.Headers["Connection"] = fmt.Sprint("close ", r.Close)
	a.Headers["Transfer-Encoding"] = strings.Join(r.TransferEncoding, ",")
	return a
}

// shape is a body without its values: metric families with their types, and
// JSON keys with the types of their values. The page of the web interface is
// whatever was installed.
func shape(t *testing.T, contentType string, b []byte) string {
	t.Helper()
	switch {
	case strings.HasPrefix(contentType, "text/plain"):
		var out []string
		for l := range strings.Lines(string(b)) {
			if name, _, ok := strings.Cut(l, " "); ok && name != "#" {
				l = name
			}
			out = append(out, strings.TrimSpace(l))
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	case strings.HasPrefix(contentType, "text/event-stream"):
		var out []string
		for l := range strings.Lines(string(b)) {
			if d, ok := strings.CutPrefix(l, "data: {"); ok {
				out = append(out, shape(t, "application/json", []byte("{"+d)))
			} else if l != "\n" {
				out = append(out, strings.TrimSpace(l))
			}
		}
		return strings.Join(out, "\n")
	case strings.HasPrefix(contentType, "application/json"):
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		var v any
		if d.Decode(&v) != nil {
			return "not JSON: " + string(b)
		}
		return jsonShape(v)
	}
	return ""
}

func jsonShape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var out []string
		for k, x := range v {
			out = append(out, k+":"+jsonShape(x))
		}
		slices.Sort(out)
		return "{" + strings.Join(out, " ") + "}"
	case []any:
		var out []string
		for _, x := range v {
			if s := jsonShape(x); len(out) == 0 || out[len(out)-1] != s {
				out = append(out, s)
			}
		}
		return "[" + strings.Join(out, " ") + "]"
	case json.Number:
		if strings.ContainsAny(v.String(), ".e") {
			return "float"
		}
		return "int"
	case nil:
		return "null"
	default:
		return fmt.Sprintf("%T", v)
	}
}

func same(t *testing.T, p probe, want, got answer) {
	t.Helper()
	assert.Equal(t, want.Status, got.Status, p)
	assert.Equal(t, want.Headers, got.Headers, p)
	assert.Equal(t, strings.Split(want.Shape, "\n"), strings.Split(got.Shape, "\n"), p)
}

// compare sends each probe to both and returns the two bodies of the last one.
func compare(t *testing.T, real, sim string, probes ...probe) (realBody, simBody string) {
	t.Helper()
	for _, p := range probes {
		want, got := p.send(t, real), p.send(t, sim)
		realBody, simBody = want.body, got.body
		same(t, p, want, got)
	}
	return realBody, simBody
}

func startSim(t *testing.T, o llamasim.Options) (*llamasim.Server, string) {
	t.Helper()
	o.ModelName = "tiny"
	if o.TokensPerSecond == 0 {
		o.TokensPerSecond, o.PromptTokensPerSecond = 4500, 30000
	}
	s := llamasim.Start(t, o)
	url := s.URL()
	return s, url
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

const (
	native = `{"prompt":"the of and to","n_predict":4}`
	chat   = `{"messages":[{"role":"user","content":"hello world"}],"max_tokens":4}`
)

func streamed(body string) string { return strings.TrimSuffix(body, "}") + `,"stream":true}` }

func TestSameAnswers(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 2, Context: 4096})
	_, sim := startSim(t, llamasim.Options{Slots: 2})
	watch := []probe{
		get("/health"), get("/v1/health"), get("/metrics"), get("/slots"), get("/props"), get("/models"), get("/v1/models"),
		get("/slots?id=0"), get("/slots?fail_on_no_slot=1"), get("/lora-adapters"),
	}
	compare(t, r.URL(), sim, watch...)
	compare(t, r.URL(), sim,
		post("/completion", native), post("/completions", native), post("/v1/completions", native), post("/v1/chat/completions", chat),
		post("/completion", streamed(native)), post("/v1/chat/completions", streamed(chat)), post("/v1/completions", streamed(native)),
		post("/v1/chat/completions", strings.TrimSuffix(streamed(chat), "}")+`,"stream_options":{"include_usage":true}}`),
		post("/completion", strings.TrimSuffix(streamed(native), "}")+`,"timings_per_token":true}`),
		post("/tokenize", `{"content":"hello world"}`),
		post("/apply-template", `{"messages":[{"role":"user","content":"hello world"}]}`), post("/apply-template", `{}`),
	)
	compare(t, r.URL(), sim, watch...)
	long := llamatest.Words(3000, 0)
	compare(t, r.URL(), sim,
		post("/completion", `{"prompt":`), post("/v1/chat/completions", `{}`), post("/completion", `{}`),
		post("/completion", `{"prompt":"`+long+`"}`), post("/completion", `{"prompt":"`+long+`","stream":true}`),
		get("/nope"), get("/v1/metrics"), get("/slots/0"), post("/metrics", ""), post("/props", "{}"), post("/embeddings", `{"input":"the"}`),
		probe{method: http.MethodHead, path: "/metrics"}, probe{method: http.MethodPut, path: "/metrics"},
		probe{method: http.MethodOptions, path: "/metrics"},
	)
	compare(t, r.URL(), sim, watch...)
}

func TestSameConnections(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1})
	_, sim := startSim(t, llamasim.Options{Slots: 1})
	closes := func(url string) (at []int) {
		tr := &http.Transport{MaxConnsPerHost: 1}
		defer tr.CloseIdleConnections()
		for i := range 250 {
			path := "/health"
			if i == 30 {
				path = "/nope" // errors close
			}
			answer, err := (&http.Client{Transport: tr}).Get(url + path)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, answer.Body)
			require.NoError(t, err)
			answer.Body.Close()
			if answer.Close {
				at = append(at, i)
			}
		}
		return at
	}
	want := closes(r.URL())
	assert.Equal(t, []int{30, 130, 230}, want)
	assert.Equal(t, want, closes(sim))
}

func TestSameWithAKey(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, APIKey: "A,B"})
	_, sim := startSim(t, llamasim.Options{Slots: 1, APIKey: "A,B"})
	metrics := get("/metrics")
	compare(t, r.URL(), sim,
		get("/health"), get("/v1/health"), metrics, get("/slots"), get("/props"), get("/models"), get("/nope"), post("/v1/chat/completions", chat),
		metrics.with("Authorization", "Bearer A"), metrics.with("Authorization", "Bearer B"), metrics.with("Authorization", "A"),
		metrics.with("X-Api-Key", "B"), metrics.with("Authorization", "Bearer C"), metrics.with("Authorization", "bearer A"),
		metrics.with("Authorization", "Bearer  A"), metrics.with("Authorization", "Basic QQ=="), get("/nope").with("X-Api-Key", "A"),
	)
}

func TestSameWithEndpointsOff(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, NoMetrics: true, NoSlots: true})
	_, sim := startSim(t, llamasim.Options{Slots: 1, NoMetrics: true, NoSlots: true})
	realBody, simBody := compare(t, r.URL(), sim, get("/metrics"), get("/slots"), get("/props"))
	for _, key := range []string{"endpoint_metrics", "endpoint_slots", "is_sleeping", "total_slots", "default_generation_settings.n_ctx"} {
		assert.Equal(t, gjson.Get(realBody, key).Raw, gjson.Get(simBody, key).Raw, key)
	}
}

// What /slots shows of a slot apart from the request's settings.
func slotState(t *testing.T, url string) []string {
	t.Helper()
	var out []string
	for _, s := range gjson.Parse(get("/slots").send(t, url).body).Array() {
		out = append(out, fmt.Sprint(s.Get("is_processing"), s.Get("n_prompt_tokens"), s.Get("n_prompt_tokens_processed"),
			s.Get("n_prompt_tokens_cache"), s.Get("next_token")))
	}
	return out
}

func counters(t *testing.T, url string, names ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for l := range strings.Lines(get("/metrics").send(t, url).body) {
		if name, v, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(l, "llamacpp:")), " "); ok && slices.Contains(names, name) {
			out[name] = v
		}
	}
	return out
}

func TestSameCounters(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 2, Context: 4096, Args: []string{"--cache-ram", "0"}})
	s, sim := startSim(t, llamasim.Options{Slots: 2})
	// said is what an answer says, without times and names.
	said := func(c *llamatest.Client, q llamatest.Request) completion.Result {
		t.Helper()
		res, err := c.Complete(within(t), q)
		require.NoError(t, err)
		timings := *res.Timings
		timings.Prompt, timings.Predicted = 0, 0
		return completion.Result{
			InputTokens: res.InputTokens, CachedTokens: res.CachedTokens, OutputTokens: res.OutputTokens, Chunks: res.Chunks,
			Timings: &timings, FinishReason: res.FinishReason, Outcome: res.Outcome,
		}
	}
	request := func(q llamatest.Request) {
		t.Helper()
		assert.Equal(t, said(r.Client(), q), said(&llamatest.Client{BaseURL: sim}, q))
	}
	equal := func(names ...string) {
		t.Helper()
		assert.Equal(t, counters(t, r.URL(), names...), counters(t, sim, names...))
		assert.Equal(t, slotState(t, r.URL()), slotState(t, sim))
	}
	sequential := []string{
		"prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total", "n_decode_total", "n_tokens_max",
		"requests_processing", "requests_deferred", "n_busy_slots_per_decode",
	}
	equal(sequential...)
	request(llamatest.Request{PromptWords: 40, MaxTokens: 7})
	equal(sequential...)
	request(llamatest.Request{PromptWords: 60, Seed: 1, MaxTokens: 30, Stream: true})
	equal(sequential...)
	request(llamatest.Request{PromptWords: 60, Seed: 1, MaxTokens: 1, Stream: true}) // all but one token cached
	equal(sequential...)
	request(llamatest.Request{PromptWords: 10, Seed: 2, MaxTokens: 0}) // makes one token nevertheless
	equal(sequential...)
	request(llamatest.Request{PromptWords: 1, Seed: 3, MaxTokens: 5})
	equal(sequential...)
	request(llamatest.Request{PromptWords: 100, Seed: 4, MaxTokens: -1}) // until the context is full
	equal(sequential...)
	request(llamatest.Request{Prompt: "Hello, world! Ünïcode 123\n  twice", MaxTokens: 3})
	equal(sequential...)

	// A request that is refused leaves its mark on a slot, but none on the counters.
	for _, words := range []int{2048, 2047, 2047} {
		for _, c := range []*llamatest.Client{r.Client(), {BaseURL: sim}} {
			_, err := c.Complete(within(t), llamatest.Request{PromptWords: words, Seed: 5})
			require.ErrorContains(t, err, "exceed_context_size_error")
		}
		equal(sequential...)
	}
	request(llamatest.Request{PromptWords: 2046, Seed: 5, MaxTokens: 9})
	equal(sequential...)

	// Which of two simultaneous requests gets which slot is chance, and with it
	// how much of a prompt is in the slot's cache; their sum is not.
	for _, c := range []*llamatest.Client{r.Client(), {BaseURL: sim}} {
		var wg sync.WaitGroup
		for i := range uint64(5) {
			wg.Go(func() {
				_, err := c.Complete(within(t), llamatest.Request{PromptWords: 20, Seed: 10 + i, MaxTokens: 50, Stream: true})
				assert.NoError(t, err)
			})
		}
		wg.Wait()
	}
	totals := []string{"tokens_predicted_total", "requests_processing", "requests_deferred", "n_tokens_max"}
	assert.Equal(t, counters(t, r.URL(), totals...), counters(t, sim, totals...))
	assert.Equal(t, s.Decoded(), s.Predicted())
}

func TestSameWhenAClientLeaves(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Context: 4096})
	_, sim := startSim(t, llamasim.Options{Slots: 1, ContextPerSlot: 4096, TokensPerSecond: 1000, PromptTokensPerSecond: 30000})
	for _, c := range []*llamatest.Client{r.Client(), {BaseURL: sim}} {
		res, err := c.Complete(within(t), llamatest.Request{PromptWords: 9, MaxTokens: 4000, Stream: true, CancelAfterTokens: 12})
		require.NoError(t, err)
		assert.Equal(t, completion.Cancelled, res.Outcome)
		require.Eventually(t, func() bool {
			return counters(t, c.BaseURL, "requests_processing")["requests_processing"] == "0"
		}, 30*time.Second, 10*time.Millisecond)
		var n int
		_, err = fmt.Sscan(counters(t, c.BaseURL, "tokens_predicted_total")["tokens_predicted_total"], &n)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, n, 12)
		assert.Less(t, n, 4000)
		slot := gjson.Get(get("/slots").send(t, c.BaseURL).body, "0")
		assert.EqualValues(t, 10+n-1, slot.Get("n_prompt_tokens").Int())
		assert.True(t, slot.Get("next_token.0.has_next_token").Bool(), "a cancelled request leaves has_next_token true")
	}
	compare(t, r.URL(), sim, get("/metrics"), get("/slots"))
}

func TestSameWhileBusy(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow, Slots: 1, Context: 4096})
	_, sim := startSim(t, llamasim.Options{Slots: 1, ContextPerSlot: 4096, TokensPerSecond: 100})
	servers := []*llamatest.Client{r.Client(), {BaseURL: sim}}
	waitFor := func(name, value string) {
		t.Helper()
		for _, c := range servers {
			require.Eventually(t, func() bool { return counters(t, c.BaseURL, name)[name] == value }, time.Minute, 10*time.Millisecond, "%s %s", c.BaseURL, name)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, leave := context.WithCancel(within(t))
	defer leave()
	send := func(q llamatest.Request) {
		for _, c := range servers {
			wg.Go(func() { c.Complete(ctx, q) }) // ends when it is left
		}
	}
	send(llamatest.Request{PromptWords: 5, MaxTokens: -1, Stream: true})
	waitFor("requests_processing", "1")
	waitFor("prompt_tokens_total", "6")
	compare(t, r.URL(), sim, get("/slots"), get("/metrics"), get("/props"), get("/health"), get("/slots?fail_on_no_slot=1"))
	for _, c := range servers {
		slot := gjson.Get(get("/slots").send(t, c.BaseURL).body, "0")
		decoded := slot.Get("next_token.0.n_decoded").Int()
		assert.Positive(t, decoded)
		assert.Equal(t, 6+decoded, slot.Get("n_prompt_tokens").Int())
		assert.EqualValues(t, 6, slot.Get("n_prompt_tokens_processed").Int())
		assert.True(t, slot.Get("next_token.0.has_next_token").Bool())
		n := counters(t, c.BaseURL, "tokens_predicted_total", "n_decode_total")
		assert.Equal(t, "0", n["tokens_predicted_total"], "counted only at the end")
		assert.NotEqual(t, "0", n["n_decode_total"])
	}

	send(llamatest.Request{PromptWords: 5, Seed: 1, MaxTokens: 2, Stream: true})
	waitFor("requests_deferred", "1")
	send(llamatest.Request{PromptWords: 5, Seed: 2, MaxTokens: 60})
	waitFor("requests_deferred", "2")
	// The stream is noticed to have been left, and the one that was not streamed
	// runs to its end.
	leave()
	waitFor("requests_processing", "0")
	waitFor("requests_deferred", "0")
	compare(t, r.URL(), sim, get("/slots"), get("/metrics"))
	for _, c := range servers {
		slot := gjson.Get(get("/slots").send(t, c.BaseURL).body, "0")
		assert.EqualValues(t, 6+60-1, slot.Get("n_prompt_tokens").Int())
		assert.False(t, slot.Get("next_token.0.has_next_token").Bool())
		assert.Equal(t, "16", counters(t, c.BaseURL, "prompt_tokens_total")["prompt_tokens_total"])
	}
}

func TestSameWhileLoading(t *testing.T) {
	_, sim := startSim(t, llamasim.Options{LoadTime: time.Hour})
	// The slow model takes a few tenths of a second to load; a busy machine may
	// need several starts to catch it.
	r := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow, WithoutWait: true, Slots: 1})
	for range 20 {
		for {
			q, err := client.Get(r.URL() + "/health")
			if err != nil {
				continue
			}
			q.Body.Close()
			if q.StatusCode == http.StatusOK {
				break
			}
			p := get("/nope")
			want, got := p.send(t, r.URL()), p.send(t, sim)
			if want.Status == http.StatusServiceUnavailable {
				same(t, p, want, got)
				return
			}
		}
		require.NoError(t, r.Restart(within(t)))
	}
	t.Fatal("the real server was never seen loading")
}

func TestSameAsleep(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Args: []string{"--sleep-idle-seconds", "1"}})
	_, sim := startSim(t, llamasim.Options{Slots: 1, SleepAfter: time.Second})
	compare(t, r.URL(), sim, post("/completion", native))
	asleep := func(url string) bool { return gjson.Get(get("/props").send(t, url).body, "is_sleeping").Bool() }
	for _, url := range []string{r.URL(), sim} {
		require.Eventually(t, func() bool { return asleep(url) }, time.Minute, 20*time.Millisecond)
	}
	compare(t, r.URL(), sim, get("/health"), get("/metrics"), get("/props"), get("/v1/models"))
	assert.True(t, asleep(r.URL()))
	assert.True(t, asleep(sim))
	names := []string{"prompt_tokens_total", "tokens_predicted_total", "n_decode_total"}
	assert.Equal(t, counters(t, r.URL(), names...), counters(t, sim, names...))
	compare(t, r.URL(), sim, get("/slots")) // wakes both
	assert.Equal(t, counters(t, r.URL(), names...), counters(t, sim, names...))
}

func TestSameRouter(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 2, Router: &llamatest.Router{
		Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny, "c": tinygguf.Tiny}, Broken: []string{"x"}, Max: 2,
	}})
	_, sim := startSim(t, llamasim.Options{Slots: 2, Router: &llamasim.RouterOptions{Models: []string{"a", "b", "c"}, Broken: []string{"x"}, MaxLoaded: 2}})
	settled := func(want string) {
		t.Helper()
		for _, url := range []string{r.URL(), sim} {
			state := ""
			require.Eventually(t, func() bool {
				var out []string
				for _, m := range gjson.Get(get("/models").send(t, url).body, "data").Array() {
					out = append(out, m.Get("id").String()+" "+m.Get("status.value").String()+m.Get("status.failed").Raw)
				}
				state = strings.Join(out, ", ")
				return state == want
			}, time.Minute, 20*time.Millisecond, "%s: want %s", url, want)
		}
	}
	settled("a unloaded, b unloaded, c unloaded, x unloaded")
	compare(t, r.URL(), sim,
		get("/health"), get("/props"), get("/models"), get("/v1/models"), get("/metrics"), get("/slots"), get("/metrics?model=nope"),
		get("/metrics?model=a&autoload=false"), get("/slots?model=a&autoload=0"), get("/props?model=a&autoload=false"),
		post("/v1/chat/completions", `{"model":"nope","messages":[]}`), post("/models/load", `{"model":"nope"}`),
		post("/models/unload", `{"model":"a"}`), post("/models/unload", `{"model":"nope"}`), get("/nope"),
	)
	settled("a unloaded, b unloaded, c unloaded, x unloaded")
	compare(t, r.URL(), sim, post("/models/load", `{"model":"a"}`))
	settled("a loaded, b unloaded, c unloaded, x unloaded")
	compare(t, r.URL(), sim,
		post("/models/load", `{"model":"a"}`), get("/metrics?model=a&autoload=false"), get("/slots?model=a&autoload=false"),
		get("/props?model=a&autoload=false"), get("/health?model=a"), get("/models"),
		post("/v1/chat/completions", strings.TrimSuffix(chat, "}")+`,"model":"a"}`), get("/slots?model=a&autoload=false"),
	)
	compare(t, r.URL(), sim, get("/metrics?model=b")) // loads it
	settled("a loaded, b loaded, c unloaded, x unloaded")
	compare(t, r.URL(), sim, post("/models/load", `{"model":"x"}`)) // fails, and evicts nevertheless
	for _, url := range []string{r.URL(), sim} {
		require.Eventually(t, func() bool {
			return gjson.Get(get("/models").send(t, url).body, `data.#(id=="x").status.failed`).Bool()
		}, time.Minute, 20*time.Millisecond)
	}
	settled("a unloaded, b loaded, c unloaded, x unloadedtrue")
	compare(t, r.URL(), sim, get("/models"), get("/metrics?model=x&autoload=false"), post("/models/unload", `{"model":"b"}`))
	settled("a unloaded, b unloaded, c unloaded, x unloadedtrue")
	compare(t, r.URL(), sim, get("/models"))
}

// Speculative decoding: which tokens are accepted is chance, what is counted is not.
func TestSameWithADraftModel(t *testing.T) {
	b, err := llamatest.Find()
	require.NoError(t, err)
	command, err := b.Command(tinygguf.Tiny)
	require.NoError(t, err)
	model := command[slices.Index(command, "-m")+1]
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Context: 1024, Args: []string{"-md", model, "--spec-type", "draft-simple"}})
	var log child.Output
	_, sim := startSim(t, llamasim.Options{Slots: 1, ContextPerSlot: 1024, Draft: 3, DraftAcceptance: 0.3, Log: &log})
	compare(t, r.URL(), sim, get("/metrics"), get("/slots"), get("/props"))
	sameLog(t, r, &log, "the start")

	const long = `{"prompt":"the of and to","n_predict":100}`
	for i, p := range []probe{
		post("/completion", long), post("/v1/chat/completions", strings.Replace(chat, ":4}", ":100}", 1)),
		post("/completion", streamed(long)), post("/completion", `{"prompt":"hello","n_predict":1}`),
	} {
		compare(t, r.URL(), sim, p, get("/metrics"), get("/slots"))
		sameLog(t, r, &log, p.String())
		for _, url := range []string{r.URL(), sim} {
			n := func(name string) (v int) {
				_, err := fmt.Sscan(counters(t, url, name)[name], &v)
				require.NoError(t, err, name)
				return v
			}
			rounds, accepted, drafted := n("spec_decode_num_drafts_total"), n("spec_decode_num_accepted_tokens_total"), n("spec_decode_num_draft_tokens_total")
			assert.LessOrEqual(t, accepted, drafted)
			assert.LessOrEqual(t, drafted, 3*rounds)
			assert.Positive(t, accepted)
			// Each request has one token of its prompt, and may have one that was not drafted, the last.
			requests, decodes := i+1, n("n_decode_total")
			assert.Equal(t, n("tokens_predicted_total"), decodes+accepted, url)
			assert.GreaterOrEqual(t, decodes, requests+rounds, url)
			assert.LessOrEqual(t, decodes, 2*requests+rounds, url)
		}
	}
}
