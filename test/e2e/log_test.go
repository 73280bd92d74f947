// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// mixed makes requests of many lengths, one after the other and at once,
// streamed and not, some of which find their beginning in the cache.
func mixed(users *clients, n int) {
	q := func(i int) llamatest.Request {
		return llamatest.Request{PromptWords: 3 + 7*i%200, Seed: uint64(i % 5), MaxTokens: 1 + i*i%150, Stream: i%2 == 0}
	}
	for i := range n / 2 {
		users.send(q(i))
	}
	for i := n / 2; i < n; i++ {
		users.start(q(i))
	}
	users.wg.Wait()
}

func TestLog_EveryNumberIsTheOneInTheAnswer(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{})
	c := follow(t, s, "model: tiny")
	users := clientsOf(t, s)
	mixed(users, 120)
	requests := checkCompleted(t, c, users.answered())
	c.awaitOutcomes(map[string]int{"completed": 120})

	cached := 0
	for _, r := range requests {
		cached += r.answer.Timings.CachedTokens
		assert.Equal(t, "text_completion tiny", r.span.Name)
		assert.Equal(t, "tiny", r.span.Attributes["gen_ai.request.model"])
		assert.GreaterOrEqual(t, r.answer.End.Sub(r.answer.Sent)+rounding, r.answer.Timings.Prompt+r.answer.Timings.Predicted, "the client has waited for longer")
	}
	assert.Positive(t, cached, "the cache was of use")
	checkClock(t, requests)
	checkExemplars(t, c, requests)
}

// checkClock holds the ends of spans against the times at which clients had
// their answers.
func checkClock(t *testing.T, requests []request) {
	t.Helper()
	var off []time.Duration
	for _, r := range requests {
		off = append(off, r.span.End.Sub(r.answer.End).Abs())
	}
	slices.Sort(off)
	most := off[len(off)*90/100]
	t.Logf("spans end within %v of when the client had its answer (median), %v (90 %%), %v (all)", off[len(off)/2], most, off[len(off)-1])
	// The server writes its log in a thread of its own, late where the machine is busy with other tests.
	assert.Less(t, most, 500*time.Millisecond)
}

// checkExemplars holds what histograms link to against the spans.
func checkExemplars(t *testing.T, c *collector, requests []request) {
	t.Helper()
	points := c.Points(otlpsink.Metric("gen_ai.server.request.duration"))
	exemplars := points[len(points)-1].Distribution.Exemplars
	assert.NotEmpty(t, exemplars)
	for _, e := range exemplars {
		i := slices.IndexFunc(requests, func(r request) bool { return r.span.TraceID == e.TraceID && r.span.ID == e.SpanID })
		if !assert.GreaterOrEqual(t, i, 0, "an exemplar's span has arrived") {
			continue
		}
		of := requests[i]
		assert.InDelta(t, (of.answer.Timings.Prompt + of.answer.Timings.Predicted).Seconds(), e.Value, 1.1e-5)
		assert.WithinDuration(t, of.span.End, e.Time, 500*time.Millisecond) // each estimates it
		assert.Equal(t, of.span.Attributes["llamacpp.task.id"], e.Attributes["llamacpp.task.id"])
		assert.Equal(t, of.span.Attributes["llamacpp.slot.id"], e.Attributes["llamacpp.slot.id"])
	}
}

// A collector that starts late finds the time of what it has missed.
func TestLog_FromBeforeTheCollector(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{})
	users := clientsOf(t, s)
	for range 3 {
		mixed(users, 20)
		time.Sleep(500 * time.Millisecond)
	}
	c := follow(t, s)
	checkClock(t, checkCompleted(t, c, users.answered()))
}

func TestLog_OtherFormatsSayTheSame(t *testing.T) {
	for name, o := range map[string]struct {
		args     []string
		settings []string
	}{
		"JSON":                            {args: []string{"--log-jsonl"}},
		"neither times nor prefixes":      {args: []string{"--no-log-timestamps", "--no-log-prefix"}},
		"colours and exponential buckets": {args: []string{"--log-colors", "on"}, settings: []string{"histogram: {exponential: }"}},
		"more than usual":                 {args: []string{"-lv", "5"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := logged(t, llamatest.Options{Args: o.args})
			c := follow(t, s, o.settings...)
			users := clientsOf(t, s)
			mixed(users, 20)
			checkCompleted(t, c, users.answered())
			c.awaitOutcomes(map[string]int{"completed": 20})
		})
	}
}

func TestLog_RequestsEndInDifferentWays(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{Context: 4 * 4096})
	c := follow(t, s)
	users := clientsOf(t, s)
	users.send(llamatest.Request{PromptWords: 20, MaxTokens: 30, Stream: true})
	for i := range 3 {
		users.send(llamatest.Request{PromptWords: 40, Seed: uint64(i), MaxTokens: 3900, Stream: true, CancelAfterTokens: 20})
	}
	users.refused(llamatest.Request{PromptWords: 5000, MaxTokens: 5})
	for _, body := range []string{`{"prompt":`, `{"messages":3}`} {
		status, _ := post(t, s, "/v1/chat/completions", body)
		assert.Equal(t, 400, status)
	}
	// The log has no line of a value of the wrong type, of what is not found, and
	// of what is no request for tokens.
	for body, path := range map[string]string{`{"prompt":"a","n_predict":"x"}`: "/completion", `{}`: "/nothing", `{"content":"a"}`: "/tokenize"} {
		post(t, s, path, body)
	}
	users.send(llamatest.Request{PromptWords: 20, Seed: 9, MaxTokens: 30})

	c.awaitOutcomes(map[string]int{"completed": 2, "cancelled": 3, "rejected": 3})
	checkCompleted(t, c, users.answered())
	c.awaitSpans(8)
	for _, span := range c.requestSpans(otlpsink.SpanWith("llamacpp.request.outcome", "cancelled")) {
		assert.Equal(t, "cancelled", span.Attributes["error.type"])
		assert.Equal(t, "Unset", span.Status, "nothing is wrong with the server")
		assert.NotContains(t, span.Attributes, "gen_ai.usage.output_tokens", "the log does not say")
		assert.Positive(t, span.End.Sub(span.Start))
	}
	reasons := map[string]int{}
	for _, span := range c.requestSpans(otlpsink.SpanWith("llamacpp.request.outcome", "rejected")) {
		reasons[span.Attributes["error.type"]]++
	}
	assert.Equal(t, map[string]int{"exceed_context_size": 1, "invalid_request": 2}, reasons)
	c.await(3, "gen_ai.server.request.duration", otlpsink.With("error.type", "cancelled"))
	c.await(1, "llamacpp.log.records", otlpsink.With("llamacpp.log.severity", "error"))
}

// What an HTTP request asks for is a request in the log for each answer.
func TestLog_SeveralAnswersAreSeveralRequests(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{})
	c := follow(t, s)
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"of and to"}],"max_tokens":5,"n":3}`,
		"/completion":          `{"prompt":["of and","to in"],"n_predict":7}`,
	} {
		status, text := post(t, s, path, body)
		require.Equal(t, 200, status, text)
	}
	c.awaitOutcomes(map[string]int{"completed": 5})
	spans := c.awaitSpans(5)
	output := map[string]int{}
	for _, span := range spans {
		output[span.Attributes["gen_ai.usage.output_tokens"]]++
	}
	assert.Equal(t, map[string]int{"5": 3, "7": 2}, output)
}

// Embeddings take a slot and time, but the log says no more of them.
func TestLog_EmbeddingsAreCountedAndTimed(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{Args: []string{"--embeddings", "--pooling", "mean"}})
	c := follow(t, s)
	for _, input := range []string{`"of and to"`, `["of","to in"]`} {
		status, text := post(t, s, "/v1/embeddings", `{"input":`+input+`}`)
		require.Equal(t, 200, status, text)
	}
	status, _ := post(t, s, "/v1/embeddings", `{"input":"`+llamatest.Words(3000, 0)+`"}`)
	assert.NotEqual(t, 200, status)
	c.awaitOutcomes(map[string]int{"completed": 3, "rejected": 1})
	c.await(3, "gen_ai.server.request.duration", without("error.type"))
	c.await(0, "gen_ai.server.time_to_first_token")
	c.awaitSpans(4)
}

// A client that goes away while it waits for a slot is noticed when it gets one.
func TestLog_LeavingTheQueue(t *testing.T) {
	s := logged(t, llamatest.Options{Model: slow, Slots: 1})
	c := follow(t, s)
	users := clientsOf(t, s)
	users.start(llamatest.Request{PromptWords: 10, MaxTokens: 200, Stream: true})
	c.eventually(func() bool { return users.received(time.Now()) > 0 }, "the slot is taken")
	left := clientsOf(t, s)
	gone, leave := context.WithCancel(t.Context())
	left.wg.Go(func() {
		_, err := left.client.Complete(gone, llamatest.Request{PromptWords: 10, Seed: 1, MaxTokens: 1500, Stream: true})
		assert.ErrorIs(t, err, context.Canceled)
	})
	c.eventually(func() bool { return counted(t, s, "requests_deferred") == 1 }, "one waits")
	leave()
	users.wg.Wait()
	c.awaitOutcomes(map[string]int{"completed": 1, "cancelled": 1})
}

func TestLog_TheServerEndsDuringRequests(t *testing.T) {
	for name, end := range map[string]func(*llamatest.Server){
		"SIGTERM": func(s *llamatest.Server) {
			p, err := os.FindProcess(s.PID)
			require.NoError(t, err)
			require.NoError(t, p.Signal(syscall.SIGTERM))
		},
		"SIGKILL": (*llamatest.Server).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			s := logged(t, llamatest.Options{Model: slow, Slots: 2})
			c := follow(t, s)
			users := clientsOf(t, s)
			users.send(llamatest.Request{PromptWords: 10, MaxTokens: 20, Stream: true})
			cut := clientsOf(t, s)
			for i := range 2 {
				cut.cut(llamatest.Request{PromptWords: 10, Seed: uint64(i), MaxTokens: 1800})
			}
			c.eventually(func() bool { return cut.received(time.Now()) > 10 }, "both run")
			// This one waits for a slot, of which the log has no line.
			cut.cut(llamatest.Request{PromptWords: 10, Seed: 3, MaxTokens: 1800})
			c.eventually(func() bool { return counted(t, s, "requests_deferred") == 1 }, "one waits")
			end(s)
			if name == "SIGTERM" { // of SIGKILL the log has no line
				c.awaitOutcomes(map[string]int{"completed": 1, "failed": 2})
				s.Kill() // it would wait for the client that waits
			}
			cut.wg.Wait()

			require.NoError(t, s.Restart(t.Context()))
			for i := range 3 {
				users.send(llamatest.Request{PromptWords: 10, Seed: uint64(i), MaxTokens: 21 + i, Stream: true})
			}
			c.awaitOutcomes(map[string]int{"completed": 4, "failed": 2})
			checkCompleted(t, c, users.answered())
			failed := c.awaitSpans(2, otlpsink.SpanWith("llamacpp.request.outcome", "failed"))
			for _, span := range failed {
				assert.Equal(t, "Error", span.Status)
				assert.Equal(t, "server_stopped", span.Attributes["error.type"])
			}
			assert.Len(t, c.Points(otlpsink.Metric("llamacpp.requests"), outcome("completed")).Starts(), 1, "it counts on")
		})
	}
}

func TestLog_SleepAndWake(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{Args: []string{"--sleep-idle-seconds", "1"}})
	c := follow(t, s)
	load := otlpsink.Metric("llamacpp.model.load.duration")
	c.eventually(func() bool { return c.Points(load).Max() > 0 }, "the model was loaded")
	loaded, _ := c.Points(load).Last()
	users := clientsOf(t, s)
	for i := range 2 {
		users.send(llamatest.Request{PromptWords: 20, Seed: uint64(i), MaxTokens: 30 + i, Stream: true})
		c.eventually(func() bool { return strings.Contains(get(t, s.URL()+"/props"), `"is_sleeping":true`) }, "it sleeps")
	}
	users.send(llamatest.Request{PromptWords: 20, Seed: 2, MaxTokens: 40, Stream: true})
	checkCompleted(t, c, users.answered())
	c.awaitOutcomes(map[string]int{"completed": 3})
	woken, _ := c.Points(load).Last()
	assert.Positive(t, woken)
	assert.NotEqual(t, loaded, woken, "it was loaded again")
	assert.Less(t, woken, 5.0, "in seconds")
}

// A backend shows both as one server.
func TestLog_HasTheReceiversResource(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{})
	c := followAndWatch(t, s, "model: tiny")
	clientsOf(t, s).send(llamatest.Request{PromptWords: 20, MaxTokens: 30})
	c.awaitState("ok")
	c.awaitOutcomes(map[string]int{"completed": 1})
	sameResource(t, c, instance(s))
	assert.Equal(t, "tiny", c.awaitSpans(1)[0].Resource["llamacpp.model.name"])
}

// sameResource checks that the receiver and the connector name a server alike.
func sameResource(t *testing.T, c *collector, instance string) {
	t.Helper()
	of := func(metric string) map[string]string {
		points := c.Points(otlpsink.Metric(metric), otlpsink.Of(instance))
		if !assert.NotEmpty(t, points, "%s of %s", metric, instance) {
			return nil
		}
		return points[len(points)-1].Resource
	}
	watched, followed := of("llamacpp.server.status"), of("llamacpp.requests")
	for _, key := range []string{"service.name", "service.instance.id", "server.address", "server.port", "llamacpp.model.name"} {
		assert.Equal(t, watched[key], followed[key], key)
		assert.NotEmpty(t, followed[key], key)
	}
}

func TestLog_ModelsOfARouter(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{Slots: 2, Router: &llamatest.Router{
		Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny},
	}})
	c := followAndWatch(t, s)
	ask := func(model string, n, tokens int) {
		users := clientsOf(t, s)
		users.client.Model = model
		for i := range n {
			users.send(llamatest.Request{PromptWords: 10, Seed: uint64(i), MaxTokens: tokens + i, Stream: i%2 == 0})
		}
	}
	of := func(model string) otlpsink.Match { return otlpsink.Of(instance(s) + "/" + model) }
	ask("a", 3, 10)
	ask("b", 2, 20)
	c.awaitOutcomes(map[string]int{"completed": 3}, of("a"))
	c.awaitOutcomes(map[string]int{"completed": 2}, of("b"))
	for _, model := range []string{"a", "b"} {
		c.awaitState("ok", of(model))
		sameResource(t, c, instance(s)+"/"+model)
		assert.Positive(t, c.Points(otlpsink.Metric("llamacpp.model.load.duration"), of(model)).Max())
	}

	// Another process serves the same model later.
	unload(t, s, "a")
	c.eventually(func() bool { return modelStates(t, s)["a"] == "unloaded" }, "a is unloaded")
	ask("a", 2, 30)
	c.awaitOutcomes(map[string]int{"completed": 5}, of("a"))
	assert.Len(t, c.Points(otlpsink.Metric("llamacpp.requests"), of("a"), outcome("completed")).Starts(), 1)

	output := map[string]string{}
	for _, span := range c.awaitSpans(7) {
		output[span.Attributes["gen_ai.usage.output_tokens"]] = strings.TrimPrefix(span.Resource["service.instance.id"], instance(s)) + " " + span.Name
	}
	const a, b = "/a text_completion a", "/b text_completion b"
	assert.Equal(t, map[string]string{"10": a, "11": a, "12": a, "20": b, "21": b, "30": a, "31": a}, output)
}

func TestLog_Rotated(t *testing.T) {
	// Each round ends with a rotation right after its last lines, in a file of
	// which the beginning has been read: one that comes and goes between two
	// looks is never seen.
	rotate := func(t *testing.T, change func(*llamatest.Server, *collector, *clients)) {
		t.Parallel()
		s := logged(t, llamatest.Options{})
		c := follow(t, s)
		users := clientsOf(t, s)
		for range 5 {
			users.send(llamatest.Request{PromptWords: 5, MaxTokens: 20})
			c.awaitOutcomes(map[string]int{"completed": users.finished()})
			mixed(users, 10)
			change(s, c, users)
		}
		mixed(users, 10)
		checkCompleted(t, c, users.answered())
		c.awaitOutcomes(map[string]int{"completed": users.finished()})
	}
	t.Run("renamed and the server restarted", func(t *testing.T) {
		rotate(t, func(s *llamatest.Server, _ *collector, _ *clients) {
			s.Terminate()
			require.NoError(t, os.Rename(s.Log(), s.Log()+".1"))
			require.NoError(t, s.Restart(t.Context()))
		})
	})
	t.Run("renamed while the collector is away", func(t *testing.T) {
		rotate(t, func(s *llamatest.Server, c *collector, users *clients) {
			c.Terminate()
			mixed(users, 10)
			s.Terminate()
			require.NoError(t, os.Rename(s.Log(), s.Log()+".1"))
			require.NoError(t, s.Restart(t.Context()))
			c.Start()
		})
	})
	t.Run("deleted and made anew", func(t *testing.T) {
		rotate(t, func(s *llamatest.Server, _ *collector, _ *clients) {
			s.Terminate()
			require.NoError(t, os.Remove(s.Log()))
			require.NoError(t, s.Restart(t.Context()))
		})
	})
	t.Run("copied and emptied during requests", func(t *testing.T) {
		s := logged(t, llamatest.Options{Model: slow})
		c := follow(t, s)
		users := clientsOf(t, s)
		for i := range 3 {
			before := users.received(time.Now())
			users.start(llamatest.Request{PromptWords: 10, Seed: uint64(i), MaxTokens: 150 + i, Stream: true})
			c.eventually(func() bool { return users.received(time.Now()) > before+5 }, "a stream runs")
			copyAndEmpty(t, s.Log())
			users.wg.Wait()
			users.send(llamatest.Request{PromptWords: 10, Seed: uint64(i + 10), MaxTokens: 5 + i})
		}
		checkCompleted(t, c, users.answered())
		c.awaitOutcomes(map[string]int{"completed": 6})
	})
}

// copyAndEmpty is what logrotate's copytruncate does, but it loses no line that
// is written meanwhile.
func copyAndEmpty(t *testing.T, log string) {
	t.Helper()
	for {
		b, err := os.ReadFile(log)
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(log+".1"))
		require.NoError(t, os.WriteFile(log+".1", b, 0o600))
		info, err := os.Stat(log)
		require.NoError(t, err)
		if info.Size() == int64(len(b)) {
			require.NoError(t, os.Truncate(log, 0))
			return
		}
	}
}

func TestLog_TheCollectorEndsManyTimes(t *testing.T) {
	for name, end := range map[string]func(*collector){
		"SIGTERM": (*collector).Terminate,
		"SIGKILL": (*collector).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := logged(t, llamatest.Options{Context: 4 * 4096})
			c := follow(t, s)
			users := clientsOf(t, s)
			var cancelled, rejected atomic.Int64
			load, stop := context.WithCancel(t.Context())
			for worker := range 2 {
				users.wg.Go(func() {
					for i := worker; load.Err() == nil; i += 2 {
						switch i % 10 {
						case 3:
							users.send(llamatest.Request{PromptWords: 20, Seed: uint64(i), MaxTokens: 3900, Stream: true, CancelAfterTokens: 5})
							cancelled.Add(1)
						case 5:
							users.refused(llamatest.Request{PromptWords: 5000, MaxTokens: 5})
							rejected.Add(1)
						case 7:
							post(t, s, "/completion", "{")
							rejected.Add(1)
						default:
							users.send(llamatest.Request{PromptWords: 5 + i%50, Seed: uint64(i % 20), MaxTokens: 1 + i%211, Stream: i%4 == 0})
						}
					}
				})
			}
			for i := range 6 {
				// Before it is ready SIGTERM ends it as SIGKILL does.
				c.eventually(func() bool { return name == "SIGKILL" || len(c.lines("", "Everything is ready")) > i }, "the collector is ready")
				time.Sleep(100*time.Millisecond + rand.N(time.Second)) // at any moment
				end(c)
				c.Start()
			}
			stop()
			users.wg.Wait()

			answers := users.answered()
			t.Logf("%d completed, %d cancelled, %d rejected", len(answers), cancelled.Load(), rejected.Load())
			c.awaitOutcomes(map[string]int{"completed": len(answers), "cancelled": int(cancelled.Load()), "rejected": int(rejected.Load())})
			checkCompleted(t, c, answers)
			c.awaitSpans(len(answers) + int(cancelled.Load()+rejected.Load()))
			assert.Len(t, c.Points(otlpsink.Metric("llamacpp.requests"), outcome("completed")).Starts(), 1, "it counts on")
		})
	}
}

func TestLog_OfSomethingElse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "llama-server.log")
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "10.0.0.%d - - [10/Oct/2000:13:55:36 -0700] \"GET /apache_pb.gif HTTP/1.0\" 200 2326\n", i)
	}
	require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))
	c := followFile(t, path, "http://localhost:8080", "llamacpplog")
	c.eventually(func() bool { return len(c.complaints("llamacpplog")) == 2 }, "the log says so")

	// It is none the worse for it.
	s := llamatest.Start(t, llamatest.Options{LogFile: path})
	users := clientsOf(t, s)
	mixed(users, 10)
	checkCompleted(t, c, users.answered())
	c.awaitOutcomes(map[string]int{"completed": 10})
	// Metrics and traces each say so once.
	const complaint = "no line of these logs is one of llama-server's"
	for _, signal := range []string{"metrics", "traces"} {
		assert.Len(t, c.lines("llamacpplog", complaint, `"otelcol.signal.output":"`+signal+`"`), 1, signal)
	}
	assert.Len(t, c.complaints("llamacpplog"), 2)
}

// The server is told to write prompts and answers to its log.
func TestLog_TextIsNotPassedOn(t *testing.T) {
	t.Parallel()
	s := logged(t, llamatest.Options{Args: []string{"-lv", "5"}})
	c := follow(t, s)
	const secret = "zyxwvutsrq"
	// The server writes a bad grammar beside its log, amid lines if there are any.
	post(t, s, "/v1/completions", `{"prompt":"`+secret+`","max_tokens":5,"grammar":"root ::= `+secret+`("}`)
	users := clientsOf(t, s)
	users.send(llamatest.Request{Prompt: secret + " " + llamatest.Words(30, 0), MaxTokens: 50, Stream: true})
	for _, q := range []struct{ path, body string }{
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"` + secret + `"}],"max_tokens":5}`},
		{"/completion", `{"prompt":"` + secret + `","n_predict":` + secret},
	} {
		post(t, s, q.path, q.body)
	}
	c.awaitOutcomes(map[string]int{"completed": 2, "rejected": 2})
	c.awaitSpans(4)

	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	require.Contains(t, string(log), secret, "the server shows it")
	words := strings.Fields(llamatest.Words(30, 0))
	for _, text := range []string{secret, secret[:4], strings.Join(words[:3], " ")} {
		assert.False(t, c.Holds(text), "telemetry: %s", text)
		assert.NotContains(t, c.Log(), text, "log")
	}
}
