// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

const (
	users = 30
	slots = 4
)

// medium generates some 800 tokens/s on one core, so that hundreds of requests take
// seconds, and each waits long.
var medium = tinygguf.Model{Name: "medium", Embd: 256, Layers: 4, Heads: 4, FF: 1024, Ctx: 4096, Seed: 1}

// crowded starts a server for a crowd, which leaves the processor to the proxy and its
// clients when they need it: on few cores, they would wait for it otherwise.
func crowded(t testing.TB, args ...string) *llamatest.Server {
	t.Helper()
	s := llamatest.Start(t, llamatest.Options{Model: medium, Slots: slots, Context: slots * 512, Args: args})
	require.NoError(t, setPriority(s.PID, 10))
	return s
}

// echo is the variable that makes this program a server that sends back what comes.
const echo = "PROXY_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(echo) == "" {
		flag.Parse()
		// Most of the time they wait, such as for the first metrics.
		if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	conn, err := l.Accept()
	if err != nil {
		panic(err)
	}
	io.Copy(conn, conn)
}

// metronome measures how late the machine lets two processes have what they send each
// other, until it is stopped: on one that is busy, that is no fault of a proxy's.
func metronome(t testing.TB) (stop func() []time.Duration) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), echo+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	conn := dial(t, strings.TrimSpace(address))
	var took []time.Duration
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1)
		for {
			began := time.Now()
			if _, err := conn.Write(b); err != nil {
				return
			}
			if _, err := io.ReadFull(conn, b); err != nil {
				return
			}
			took = append(took, time.Since(began))
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() []time.Duration {
		close(done)
		<-ended
		conn.Close()
		return took
	}
}

// asked is a request that a client has made through the proxy, what it has got, and
// the trace that it belongs to.
type asked struct {
	completion.Request
	completion.Result
	trace, span string
}

// waited is how long the client itself would say that the request was not worked on,
// where the answer allows it.
func (a *asked) waited() (time.Duration, bool) {
	t := a.Timings
	switch {
	case t == nil || a.Outcome != completion.OK:
		return 0, false
	case a.Stream:
		return a.FirstToken.Sub(a.Sent) - t.Prompt, true
	}
	return a.End.Sub(a.Sent) - t.Prompt - t.Predicted, true
}

type traceKey struct{}

// crowd has clients ask one request after the other, all of them at the same time.
// Each request belongs to a trace of its own.
func crowd(t testing.TB, url string, requests [][]completion.Request) []asked {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	client, err := completion.New(url, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, completion.Options{
		Prepare: func(ctx context.Context, h http.Header) {
			ids := ctx.Value(traceKey{}).(*asked)
			h.Set("Traceparent", "00-"+ids.trace+"-"+ids.span+"-01")
		},
	})
	require.NoError(t, err)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all []asked
	)
	for i, list := range requests {
		wg.Go(func() {
			// Not in one moment: what two cores need to take thirty connections is no wait
			// that the proxy could know of.
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			for _, q := range list {
				a := asked{Request: q, trace: id(16), span: id(8)}
				a.Result = client.Do(context.WithValue(ctx, traceKey{}, &a), &q, time.Now())
				mu.Lock()
				all = append(all, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, a := range all {
		if a.Outcome != completion.Cancelled {
			require.NoError(t, a.Err, "%s", a.Endpoint)
		}
	}
	return all
}

func id(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// mixed are requests of each kind of endpoint, streamed and not, and some that are
// left within their answer; each client begins with another one.
func mixed(seed uint64) [][]completion.Request {
	var kinds []completion.Request
	for _, e := range []completion.Endpoint{completion.Chat, completion.Completions, completion.Native, completion.Responses, completion.Messages} {
		kinds = append(kinds, completion.Request{Endpoint: e, Stream: true, MaxTokens: 8}, completion.Request{Endpoint: e, MaxTokens: 8})
	}
	kinds = append(kinds,
		completion.Request{Endpoint: completion.Chat, Stream: true, MaxTokens: 200, CancelAfter: 3},
		completion.Request{Endpoint: completion.Native, Stream: true, MaxTokens: 200, CancelAfter: 2},
	)
	out := make([][]completion.Request, users)
	for i := range out {
		for j := range kinds {
			q := kinds[(i+j)%len(kinds)]
			seed++
			q.Prompt = llamatest.Words(5+(i+7*j)%20, seed)
			q.IgnoreEOS = true
			out[i] = append(out[i], q)
		}
	}
	return out
}

// spanOf waits for the proxy's span of each request.
func (p *proxy) spansOf(all []asked) map[string]otlpsink.Span {
	p.t.Helper()
	out := map[string]otlpsink.Span{}
	p.eventually(func() bool {
		for _, s := range p.Spans(otlpsink.Kind("Server")) {
			out[s.TraceID] = s
		}
		return !slices.ContainsFunc(all, func(a asked) bool { _, ok := out[a.trace]; return !ok })
	}, "each request has a span of kind SERVER")
	return out
}

// number is an attribute's value in seconds, tokens and so on.
func number(t testing.TB, s otlpsink.Span, key string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s.Attributes[key], 64)
	require.NoError(t, err, "%s of %v", key, s.Attributes)
	return v
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

// quantile gives the q-quantile of durations.
func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
}

const (
	firstToken = "gen_ai.response.time_to_first_chunk"
	queued     = "llamacpp.request.queue.duration"
)

// Thirty clients ask a server with four slots, all at once and in every way. What the
// proxy says of each request is what its client has measured itself.
func TestQueue_IsWhatClientsWait(t *testing.T) {
	s := crowded(t)
	p := start(t, s.URL(), settings{})
	var all []asked
	// The clients, the proxy and the server share the machine with whatever else runs.
	// What that costs is measured, and a round in which it was worse than that is not
	// held against the proxy.
	const rounds, within = 3, 5 * time.Millisecond
	for round := 1; ; round++ {
		stop := metronome(t)
		now := crowd(t, p.URL(), mixed(uint64(round*1000)))
		machine := quantile(stop(), 0.99)
		all = append(all, now...)
		spans := p.spansOf(now)
		var firsts, waits, longest []time.Duration
		for _, a := range now {
			span := spans[a.trace]
			if !a.FirstToken.IsZero() {
				firsts = append(firsts, (a.FirstToken.Sub(a.Sent) - seconds(number(t, span, firstToken))).Abs())
			}
			if d, ok := a.waited(); ok {
				waits = append(waits, (d - seconds(number(t, span, queued))).Abs())
				longest = append(longest, d)
			}
		}
		require.Greater(t, len(firsts), 150)
		require.Greater(t, len(waits), 180)
		require.Greater(t, quantile(longest, 0.5), 200*time.Millisecond, "there is a queue")
		worst := max(quantile(firsts, 0.99), quantile(waits, 0.99))
		t.Logf("of %d requests, which waited %s (P50) and %s (P99): the proxy differs from its clients in the time to the first token by %s (P50), %s (P99) and in the wait by %s, %s; the machine's own delay is %s (P99)",
			len(now), quantile(longest, 0.5), quantile(longest, 0.99), quantile(firsts, 0.5), quantile(firsts, 0.99), quantile(waits, 0.5), quantile(waits, 0.99), machine)
		require.Less(t, max(quantile(firsts, 0.5), quantile(waits, 0.5)), within)
		// The answer is handed on three times: to the proxy, within it, and to the client.
		if worst <= within+3*machine {
			break
		}
		require.Less(t, round, rounds, "P99 of the difference is %s", worst)
	}
	for range 3 {
		status, _ := do(t, oneShot(), "POST", p.URL()+chatPath, "{")
		require.Equal(t, 400, status)
	}
	checkSums(t, p, all)
}

// checkSums holds what the proxy's metrics say of requests against their answers, and
// against its own spans.
func checkSums(t *testing.T, p *proxy, all []asked) {
	t.Helper()
	want := map[string]int{"rejected": 3}
	spans := p.spansOf(all)
	var sums struct{ queue, first, input, output float64 }
	var counts struct{ queue, first, taken int }
	for _, a := range all {
		span := spans[a.trace]
		assert.Equal(t, a.span, span.Parent, "the client's own span is the parent")
		how := "completed"
		if a.Outcome == completion.Cancelled {
			how = "cancelled"
		}
		want[how]++
		assert.Equal(t, how, span.Attributes["llamacpp.request.outcome"])
		assert.Equal(t, fmt.Sprint(a.Stream), span.Attributes["gen_ai.request.stream"])
		if how == "completed" {
			assert.InDelta(t, a.InputTokens, number(t, span, "gen_ai.usage.input_tokens"), 0, "%s", a.Endpoint)
			assert.InDelta(t, a.OutputTokens, number(t, span, "gen_ai.usage.output_tokens"), 0, "%s", a.Endpoint)
			assert.Equal(t, 8, a.OutputTokens)
		}
		add := func(key string, sum *float64, n *int) {
			if _, ok := span.Attributes[key]; ok {
				*sum += number(t, span, key)
				*n++
			}
		}
		add(queued, &sums.queue, &counts.queue)
		add(firstToken, &sums.first, &counts.first)
		add("gen_ai.usage.input_tokens", &sums.input, &counts.taken)
		add("gen_ai.usage.output_tokens", &sums.output, &counts.taken)
	}
	p.awaitOutcomes(want)
	// The spans' times are whole nanoseconds, as the histograms' values are.
	p.checkHistogram(queued, counts.queue, sums.queue)
	p.checkHistogram("gen_ai.server.time_to_first_token", counts.first, sums.first)
	p.awaitTotal(float64(len(all)+3), "gen_ai.server.request.duration")
	p.awaitTotal(float64(len(all)+3), "http.server.request.duration")
	p.awaitTotal(sums.input, "llamacpp.proxy.tokens", otlpsink.With("gen_ai.token.type", "input"))
	p.awaitTotal(sums.output, "llamacpp.proxy.tokens", otlpsink.With("gen_ai.token.type", "output"))
	p.awaitTotal(0, "llamacpp.proxy.requests.active")
	p.awaitTotal(0, "llamacpp.proxy.spans.dropped")
	p.awaitTotal(0, "llamacpp.proxy.answers.unread")
	assert.Empty(t, p.Points().Faults())
}

// checkHistogram waits for the count of all series of a histogram, and checks the sum.
func (p *proxy) checkHistogram(metric string, count int, sum float64) {
	p.t.Helper()
	p.awaitTotal(float64(count), metric)
	assert.InDelta(p.t, sum, p.sum(metric), 1e-6*float64(count), metric)
}

// sum is that of all series of a histogram.
func (p *proxy) sum(metric string) float64 {
	last := map[string]float64{}
	for _, point := range p.Points(otlpsink.Metric(metric)) {
		last[point.Series()] = point.Distribution.Sum
	}
	var sum float64
	for _, v := range last {
		sum += v
	}
	return sum
}

var deferred = regexp.MustCompile(`(?m)^llamacpp:requests_deferred (\S+)$`)

// deferredAt asks a server how many requests wait for a slot.
func deferredAt(url string) (float64, error) {
	r, err := oneShot().Get(url + "/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	m := deferred.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no requests_deferred in %q", text)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// Little's law: on average as many requests wait as begin to wait in a second, times
// how long each does. The server says how many wait, the proxy how long.
func TestQueue_FollowsLittlesLaw(t *testing.T) {
	// As many threads as clients: by default most of them wait for a thread to read
	// their request, and the server does not know of them yet.
	s := crowded(t, "--threads-http", "40")
	p := start(t, s.URL(), settings{})
	requests := make([][]completion.Request, users)
	for i := range requests {
		for j := range 8 {
			requests[i] = append(requests[i], completion.Request{
				Endpoint: completion.Native, Stream: true, MaxTokens: 8, Prompt: llamatest.Words(10, uint64(i*8+j)),
				Extra: map[string]json.RawMessage{"ignore_eos": []byte("true")},
			})
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	type sample struct {
		at time.Time
		n  float64
	}
	samples := make(chan []sample, 1)
	go func() {
		var list []sample
		for ctx.Err() == nil {
			if n, err := deferredAt(s.URL()); err == nil {
				list = append(list, sample{time.Now(), n})
			}
			time.Sleep(20 * time.Millisecond)
		}
		samples <- list
	}()
	all := crowd(t, p.URL(), requests)
	stop()
	list := <-samples

	var began, ended time.Time
	for _, a := range all {
		if began.IsZero() || a.Sent.Before(began) {
			began = a.Sent
		}
		if a.End.After(ended) {
			ended = a.End
		}
	}
	var area float64
	for i := 1; i < len(list); i++ {
		area += (list[i].n + list[i-1].n) / 2 * list[i].at.Sub(list[i-1].at).Seconds()
	}
	took := ended.Sub(began).Seconds()
	waiting := area / took
	p.awaitTotal(float64(len(all)), queued)
	mean, rate := p.sum(queued)/float64(len(all)), float64(len(all))/took
	t.Logf("%.2f requests wait by %d readings of the server; by the proxy, %.2f a second wait %.3f s each: %.2f", waiting, len(list), rate, mean, rate*mean)
	assert.InEpsilon(t, waiting, rate*mean, 0.1)
	assert.Greater(t, waiting, 10.0)
}

// In router mode, each model is an instance of its own.
func TestRouter_ModelsAreInstances(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{Slots: 2, Router: &llamatest.Router{
		Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny},
	}})
	p := start(t, s.URL(), settings{receivers: []string{"llamacpp: {endpoint: \"" + s.URL() + "\", scrapers: {server: {collection_interval: 500ms}}}"}})
	address := strings.TrimPrefix(s.URL(), "http://")
	ask := map[string]int{"a": 3, "b": 5}
	for model := range ask { // loaded, and known to the receiver
		client := s.Client()
		client.Model = model
		_, err := client.Complete(t.Context(), llamatest.Request{PromptWords: 3, MaxTokens: 1})
		require.NoError(t, err)
		p.eventually(func() bool {
			return len(p.Points(otlpsink.Of(address+"/"+model), otlpsink.Metric("llamacpp.server.status"))) > 0
		}, "the receiver sees %s", model)
	}
	for model, n := range ask {
		var list []completion.Request
		for range n {
			list = append(list, completion.Request{Endpoint: completion.Chat, Model: model, Prompt: "one two", MaxTokens: 10, Stream: true, IgnoreEOS: true})
		}
		for _, a := range crowd(t, p.URL(), [][]completion.Request{list}) {
			assert.Equal(t, 10, a.OutputTokens)
		}
	}
	for model, n := range ask {
		of := otlpsink.Of(address + "/" + model)
		p.awaitTotal(float64(10*n), "llamacpp.proxy.tokens", of, otlpsink.With("gen_ai.token.type", "output"))
		p.awaitTotal(float64(n), "llamacpp.proxy.requests", of, outcome("completed"), otlpsink.With("gen_ai.request.model", model))
		p.awaitTotal(float64(n), queued, of)
		var spans otlpsink.Spans
		p.eventually(func() bool {
			spans = p.Spans(otlpsink.Kind("Server"), otlpsink.SpanWith("gen_ai.request.model", model))
			return len(spans) == n
		}, "each request of %s has a span", model)
		for _, span := range spans {
			assert.Equal(t, address+"/"+model, span.Resource["service.instance.id"])
			assert.Equal(t, "chat "+model, span.Name)
		}
	}
	// Pages of the router itself go through, too.
	status, text := do(t, oneShot(), "GET", p.URL()+"/models", "")
	assert.Equal(t, 200, status)
	_, direct := do(t, oneShot(), "GET", s.URL()+"/models", "")
	assert.JSONEq(t, direct, text)
	status, _ = do(t, oneShot(), "POST", p.URL()+"/models/unload", `{"model":"a"}`)
	assert.Equal(t, 200, status)
}

// A client without a trace gets one.
func TestTrace_BeginsAtTheProxy(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	p := start(t, s.URL(), settings{})
	for range 3 {
		status, text := do(t, oneShot(), "POST", p.URL()+"/completion", `{"prompt":"one two three","n_predict":12,"stream":true}`)
		require.Equal(t, 200, status)
		require.Contains(t, text, `"stop":true`)
	}
	p.eventually(func() bool { return len(p.Spans(otlpsink.Kind("Server"))) == 3 }, "each request has a span")
	all := p.Spans()
	traces := map[string]bool{}
	for _, span := range all.Where(otlpsink.Kind("Server")) {
		traces[span.TraceID] = true
		assert.Empty(t, span.Parent)
		children := all.Children(span)
		require.Len(t, children, 3)
		queue, prompt, generation := children["queue"], children["prompt"], children["generation"]
		assert.Equal(t, span.Start, queue.Start)
		assert.Equal(t, queue.End, prompt.Start)
		assert.Equal(t, prompt.End, generation.Start)
		assert.False(t, generation.End.After(span.End))
		assert.Equal(t, "12", generation.Attributes["llamacpp.tokens"])
		assert.Equal(t, "Internal", queue.Kind)
	}
	assert.Len(t, traces, 3, "each has a trace of its own")
}
