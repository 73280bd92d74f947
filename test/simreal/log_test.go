// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package simreal

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

var masks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`'[^']*\.gguf'`), "'MODEL'"},
	{regexp.MustCompile(`parse_error.101\].*`), "parse_error.101]…"},
	{regexp.MustCompile(` *\b-?\d+(\.\d+)*\b`), " N"},
}

// lines are those of a log without their numbers, and without those of a
// child's command line, which test/llamatest gives more arguments. The line of
// an HTTP thread that stops a request comes before the one in which the slot is
// released: in the log it is chance which of the two threads is first.
func lines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, " load:   ") {
			continue
		}
		for _, m := range masks {
			line = m.pattern.ReplaceAllString(line, m.with)
		}
		line = strings.TrimSpace(line)
		if n := len(out); n > 0 && strings.Contains(line, " stop: cancel task") && strings.Contains(out[n-1], " release: ") {
			out = append(out[:n-1], line, out[n-1])
			continue
		}
		out = append(out, line)
	}
	return out
}

// byProcess are the lines in another order: those of a router, those of each
// child, and how the children ended. How they lie between one another is chance.
func byProcess(text string) string {
	var router, ends []string
	var ports []string
	children := map[string][]string{}
	for line := range strings.Lines(text) {
		port, rest, isChild := strings.Cut(strings.TrimPrefix(line, "["), "] ")
		switch {
		case strings.HasPrefix(line, "[") && isChild:
			if children[port] == nil {
				ports = append(ports, port)
			}
			children[port] = append(children[port], rest)
		case strings.Contains(line, " run: instance name="):
			ends = append(ends, line)
		default:
			router = append(router, line)
		}
	}
	for _, port := range ports {
		router = append(router, children[port]...)
	}
	return strings.Join(append(router, ends...), "")
}

// realLog is what the real server has logged so far.
func realLog(t *testing.T, s *llamatest.Server) string {
	t.Helper()
	b, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	return string(b)
}

// sameLog waits until both logs have the same lines.
func sameLog(t *testing.T, r *llamatest.Server, sim *child.Output, after string) {
	t.Helper()
	var want, got []string
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		want, got = lines(byProcess(realLog(t, r))), lines(byProcess(sim.String()))
		if assert.ObjectsAreEqual(want, got) || time.Now().After(end) {
			break
		}
	}
	require.Equal(t, strings.Join(want, "\n"), strings.Join(got, "\n"), after)
}

func TestSameLog(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 2, Context: 2 * 512})
	var log child.Output
	s, sim := startSim(t, llamasim.Options{Slots: 2, ContextPerSlot: 512, Log: &log})
	sameLog(t, r, &log, "the start")

	for _, p := range []probe{
		get("/health"), get("/metrics"), get("/slots"), get("/props"), get("/models"), get("/nope"),
		post("/completion", native), post("/completion", native), post("/v1/chat/completions", chat), post("/completion", streamed(native)),
		post("/completion", `{"prompt":`), post("/completion", `{}`), post("/v1/chat/completions", `{}`), post("/v1/chat/completions", `{"messages":7}`),
		post("/tokenize", `{`), post("/embeddings", `{"input":"the"}`),
		post("/completion", `{"prompt":"`+llamatest.Words(600, 0)+`"}`),
		post("/completion", `{"prompt":"`+llamatest.Words(100, 7)+`","n_predict":-1}`),
	} {
		p.send(t, r.URL())
		p.send(t, sim)
		sameLog(t, r, &log, p.String())
	}
	r.Terminate()
	s.Close()
	sameLog(t, r, &log, "the end")
}

func TestSameLogWithAKey(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, APIKey: "A"})
	var log child.Output
	_, sim := startSim(t, llamasim.Options{Slots: 1, APIKey: "A", Log: &log})
	for _, url := range []string{r.URL(), sim} {
		post("/completion", native).send(t, url) // unauthorized
		post("/completion", native).with("Authorization", "Bearer A").send(t, url)
	}
	sameLog(t, r, &log, "a request without the key and one with it")
}

func TestSameLogWhenAClientLeaves(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Context: 4096})
	var log child.Output
	_, sim := startSim(t, llamasim.Options{Slots: 1, ContextPerSlot: 4096, TokensPerSecond: 1000, PromptTokensPerSecond: 30000, Log: &log})
	for _, c := range []*llamatest.Client{r.Client(), {BaseURL: sim}} {
		_, err := c.Complete(within(t), llamatest.Request{PromptWords: 9, MaxTokens: 4000, Stream: true, CancelAfterTokens: 12})
		require.NoError(t, err)
	}
	sameLog(t, r, &log, "a stream whose client left")
}

// A prompt and an answer that take longer have lines about their progress, one
// every three seconds. How many is a matter of the machine's speed.
func TestSameLogOfProgress(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Model: tinygguf.Slow, Slots: 1, Context: 8192, Args: []string{"-b", "64"}})
	var log child.Output
	_, sim := startSim(t, llamasim.Options{Slots: 1, ContextPerSlot: 8192, TokensPerSecond: 200, PromptTokensPerSecond: 300, BatchTokens: 64, Log: &log})
	done := make(chan struct{})
	for _, c := range []*llamatest.Client{r.Client(), {BaseURL: sim}} {
		go func() {
			defer func() { done <- struct{}{} }()
			// Several seconds each on an idle machine, minutes on a busy one.
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			_, err := c.Complete(ctx, llamatest.Request{PromptWords: 1600, MaxTokens: 800})
			assert.NoError(t, err)
		}()
	}
	<-done
	<-done
	progress := func(text string) map[string]int {
		found := map[string]int{}
		for _, line := range lines(text) {
			if strings.Contains(line, "progress = ") || strings.Contains(line, "tg_3s = ") {
				found[line]++
			}
		}
		return found
	}
	want, got := progress(realLog(t, r)), progress(log.String())
	require.Len(t, got, 2, log.String())
	for line, n := range got {
		assert.Positive(t, want[line], "%s, %d times", line, n)
	}
	assert.Len(t, want, 2)
}

func TestSameLogAsleep(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Args: []string{"--sleep-idle-seconds", "1"}})
	var log child.Output
	s, sim := startSim(t, llamasim.Options{Slots: 1, SleepAfter: time.Second, Log: &log})
	require.Eventually(t, s.Sleeping, time.Minute, 20*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(realLog(t, r), "entering sleeping state") }, time.Minute, 20*time.Millisecond)
	sameLog(t, r, &log, "asleep")
	for _, url := range []string{r.URL(), sim} {
		post("/completion", native).send(t, url)
	}
	// Before both sleep again.
	awake := func(text string) string {
		text, _, _ = strings.Cut(text, "stop processing")
		return text
	}
	require.Equal(t, lines(awake(realLog(t, r))), lines(awake(log.String())))
}

func TestSameLogOfARouter(t *testing.T) {
	r := llamatest.Start(t, llamatest.Options{Slots: 1, Router: &llamatest.Router{
		Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny}, Broken: []string{"x"}, Max: 1,
	}})
	var log child.Output
	s, sim := startSim(t, llamasim.Options{Slots: 1, Log: &log, Router: &llamasim.RouterOptions{Models: []string{"a", "b"}, Broken: []string{"x"}, MaxLoaded: 1}})
	sameLog(t, r, &log, "the start")
	state := func(url, model, field string) string {
		return gjson.Get(get("/models").send(t, url).body, `data.#(id=="`+model+`").status.`+field).String()
	}
	both := func(model, field, want string, p probe) {
		t.Helper()
		for _, url := range []string{r.URL(), sim} {
			p.send(t, url)
			require.Eventually(t, func() bool { return state(url, model, field) == want }, time.Minute, 20*time.Millisecond)
		}
		sameLog(t, r, &log, p.String())
	}
	both("a", "value", "loaded", post("/models/load", `{"model":"a"}`))
	both("a", "value", "loaded", get("/metrics?model=a&autoload=false"))
	both("a", "value", "loaded", post("/v1/chat/completions", strings.TrimSuffix(chat, "}")+`,"model":"a"}`))
	both("b", "value", "loaded", post("/completion", strings.TrimSuffix(native, "}")+`,"model":"b"}`)) // evicts a
	both("x", "failed", "true", post("/completion", strings.TrimSuffix(native, "}")+`,"model":"x"}`))  // evicts b
	both("a", "value", "unloaded", get("/metrics?model=nope"))
	both("a", "value", "loaded", post("/models/load", `{"model":"a"}`))
	both("b", "value", "loaded", post("/models/load", `{"model":"b"}`)) // evicts a
	both("b", "value", "unloaded", post("/models/unload", `{"model":"b"}`))
	both("a", "value", "loaded", post("/models/load", `{"model":"a"}`))
	r.Terminate()
	s.Close()
	sameLog(t, r, &log, "the end")
}
