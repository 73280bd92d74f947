// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that only moves when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_700_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func start(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	s := Start(t, o)
	url := s.URL()
	return s, url
}

// client makes a connection for each request, so that none outlives its test.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	Timeout:       20 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := client.Get(url)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

// post sends a body as it is: how the simulator reads it and what it answers, to
// the byte, is what the tests are about.
func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	r, err := client.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

// metric is a value of /metrics as printed, "" where it is missing.
func metric(t *testing.T, url, name string) string {
	t.Helper()
	_, body := get(t, url+"/metrics")
	return sampleOf(body, name)
}

func sampleOf(body, name string) string {
	for l := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(l, "llamacpp:"+name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestOstream_PrintsSixDigitsAsCPlusPlusDoes(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 20: "20", 100000: "100000", 999792: "999792", 1001792: "1.00179e+06", 1008500: "1.0085e+06",
		0.000504: "0.000504", 0.000001: "1e-06", 22693.17: "22693.2", 3.1532258: "3.15323", 1e6: "1e+06",
	} {
		assert.Equal(t, want, ostream(v))
	}
}

// The figures are those of the real server's recorded timeline: a prompt of 4501
// tokens and 150 generated ones.
func TestEngine_CountersMoveAsTheRealServersDo(t *testing.T) {
	c := newClock()
	s, url := start(t, Options{Slots: 2, ContextPerSlot: 8192, TokensPerSecond: 10, PromptTokensPerSecond: 1000, Now: c.Now})
	e := s.e
	tk := &task{nPrompt: 4501, nPredict: 150, params: params{maxTokens: 150}}
	for range 3 { // polls use up task numbers
		get(t, url+"/metrics")
		get(t, url+"/slots")
	}
	e.post(tk)

	slot := func() gjson.Result {
		_, b := get(t, url+"/slots")
		return gjson.Get(b, "0")
	}
	c.Add(time.Second) // first batch of 2048
	first := slot()
	assert.True(t, first.Get("is_processing").Bool())
	assert.EqualValues(t, 6, first.Get("id_task").Int())
	assert.EqualValues(t, 2048, first.Get("n_prompt_tokens").Int())
	assert.EqualValues(t, 0, first.Get("n_prompt_tokens_processed").Int())
	assert.EqualValues(t, 150, first.Get("next_token.0.n_remain").Int())
	c.Add(2 * time.Second)
	assert.EqualValues(t, 4096, slot().Get("n_prompt_tokens").Int())
	assert.EqualValues(t, 2048, slot().Get("n_prompt_tokens_processed").Int())
	_, body := get(t, url+"/metrics")
	assert.Equal(t, "0", sampleOf(body, "prompt_tokens_total"))
	assert.Equal(t, "1", sampleOf(body, "n_decode_total"))
	assert.Equal(t, "2048", sampleOf(body, "n_tokens_max"))

	c.Add(1501*time.Millisecond + 250*time.Millisecond) // prompt done and two steps
	live := slot()
	assert.EqualValues(t, 3, live.Get("next_token.0.n_decoded").Int())
	assert.EqualValues(t, 147, live.Get("next_token.0.n_remain").Int())
	assert.EqualValues(t, 4504, live.Get("n_prompt_tokens").Int())
	assert.EqualValues(t, 4501, live.Get("n_prompt_tokens_processed").Int())
	_, body = get(t, url+"/metrics")
	assert.Equal(t, "4501", sampleOf(body, "prompt_tokens_total"))
	assert.Equal(t, "4.501", sampleOf(body, "prompt_seconds_total"))
	assert.Equal(t, "5", sampleOf(body, "n_decode_total"))
	assert.Equal(t, "4503", sampleOf(body, "n_tokens_max"))
	assert.Equal(t, "0", sampleOf(body, "tokens_predicted_total"))
	assert.Equal(t, "1000", sampleOf(body, "prompt_tokens_seconds"))
	assert.EqualValues(t, 3, s.Decoded())

	c.Add(time.Minute)
	end := slot()
	assert.False(t, end.Get("is_processing").Bool())
	assert.EqualValues(t, 4650, end.Get("n_prompt_tokens").Int())
	assert.EqualValues(t, 0, end.Get("next_token.0.n_decoded").Int())
	assert.EqualValues(t, -1, end.Get("next_token.0.n_remain").Int())
	_, body = get(t, url+"/metrics")
	assert.Equal(t, "150", sampleOf(body, "tokens_predicted_total"))
	assert.Equal(t, "14.9", sampleOf(body, "tokens_predicted_seconds_total"))
	assert.Equal(t, "152", sampleOf(body, "n_decode_total"))
	assert.Equal(t, "10", sampleOf(body, "predicted_tokens_seconds"))
	assert.Equal(t, "0", metric(t, url, "predicted_tokens_seconds"), "every GET resets the gauge")
}

func TestEngine_WaitingRequestsAreServedInOrder(t *testing.T) {
	c := newClock()
	s, url := start(t, Options{Slots: 1, TokensPerSecond: 10, PromptTokensPerSecond: 1e6, Now: c.Now})
	var tasks []*task
	for range 3 {
		tk := &task{nPrompt: 10, nPredict: 11}
		s.e.post(tk)
		tasks = append(tasks, tk)
	}
	c.Add(500 * time.Millisecond)
	assert.Equal(t, "2", metric(t, url, "requests_deferred"))
	assert.Equal(t, 2, s.Deferred())
	c.Add(time.Second)
	s.Decoded()
	assert.True(t, tasks[0].finished)
	assert.False(t, tasks[1].finished)
	assert.Equal(t, "1", metric(t, url, "requests_deferred"))
	c.Add(2 * time.Second)
	assert.EqualValues(t, 33, s.Predicted())
	assert.Equal(t, "0", metric(t, url, "requests_processing"))
}

func TestEngine_LoadIsTheSameHoweverOftenOneLooks(t *testing.T) {
	run := func(o Options, step time.Duration) (int64, int64) {
		c := newClock()
		o.Slots, o.Now = 4, c.Now
		s := New(o)
		defer s.Close()
		s.AddLoad(Load{Concurrency: 6, PromptTokens: 100, MaxTokens: 50, ThinkTime: 30 * time.Millisecond})
		for d := time.Duration(0); d < time.Minute; d += step {
			c.Add(step)
			s.Decoded()
		}
		return s.Decoded(), s.Predicted()
	}
	least := int64(5000)
	for _, o := range []Options{{}, {Draft: 3}} {
		d1, p1 := run(o, time.Millisecond)
		d2, p2 := run(o, time.Minute)
		assert.Equal(t, d1, d2)
		assert.Equal(t, p1, p2)
		assert.Greater(t, p1, least)
		least = p1 + p1/4 // what is drafted comes on top
	}
}

func TestEngine_DraftsAreAcceptedWithTheChanceThatIsAsked(t *testing.T) {
	for _, want := range []float64{0.2, 0.9} {
		c := newClock()
		s, url := start(t, Options{Draft: 1, DraftAcceptance: want, Now: c.Now})
		s.AddLoad(Load{Concurrency: 4, PromptTokens: 10, MaxTokens: 500})
		c.Add(time.Minute)
		number := func(name string) float64 {
			v, err := strconv.ParseFloat(metric(t, url, name), 64)
			require.NoError(t, err)
			return v
		}
		accepted, drafted := number("spec_decode_num_accepted_tokens_total"), number("spec_decode_num_draft_tokens_total")
		assert.InDelta(t, want, accepted/drafted, 0.05)
		_, text := get(t, url+"/metrics")
		assert.Contains(t, text, `spec_decode_num_accepted_tokens_per_pos_total{position="0"}`)
	}
}

func TestEngine_LoadThatDoesNotFitIsRefused(t *testing.T) {
	c := newClock()
	s := New(Options{ContextPerSlot: 50, Now: c.Now})
	defer s.Close()
	s.AddLoad(Load{Concurrency: 1, PromptTokens: 50})
	c.Add(time.Minute)
	assert.Zero(t, s.Decoded())
}

func TestServer_StreamGivesEveryTokenAndCloses(t *testing.T) {
	s, url := start(t, Options{TokensPerSecond: 2000})
	r, err := client.Post(url+"/completion", "application/json", strings.NewReader(`{"prompt":"the of and","n_predict":20,"stream":true}`))
	require.NoError(t, err)
	defer r.Body.Close()
	events := 0
	var last string
	for sc := bufio.NewScanner(r.Body); sc.Scan(); {
		if d, ok := strings.CutPrefix(sc.Text(), "data: "); ok {
			events, last = events+1, d
		}
	}
	assert.Equal(t, 21, events)
	assert.True(t, gjson.Get(last, "stop").Bool())
	assert.EqualValues(t, 20, gjson.Get(last, "timings.predicted_n").Int())
	assert.EqualValues(t, 4, gjson.Get(last, "tokens_evaluated").Int())
	assert.EqualValues(t, 20, s.Predicted())

	status, body := post(t, url+"/v1/chat/completions", `{"messages":[{"role":"user","content":"go"}],"max_tokens":5}`)
	assert.Equal(t, 200, status)
	assert.EqualValues(t, 5, gjson.Get(body, "usage.completion_tokens").Int())

	_, body = post(t, url+"/v1/chat/completions", `{"messages":[{"role":"user","content":"go"}],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}`)
	assert.True(t, strings.HasSuffix(body, "data: [DONE]\n\n"))
	assert.Contains(t, body, `"usage":{"completion_tokens":5`)
}

func TestServer_ClientThatLeavesAStreamIsCounted(t *testing.T) {
	s, url := start(t, Options{TokensPerSecond: 200})
	_, err := (&llamatest.Client{BaseURL: url}).Complete(t.Context(), llamatest.Request{Prompt: "the", MaxTokens: 1000, Stream: true, CancelAfterTokens: 20})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Processing() == 0 }, 10*time.Second, 5*time.Millisecond)
	n := s.Predicted()
	assert.GreaterOrEqual(t, n, int64(10))
	assert.Less(t, n, int64(1000))
	assert.Equal(t, n, s.Decoded())
	_, _, cancelled := s.Requests()
	assert.EqualValues(t, 1, cancelled)
}

func TestServer_RestartForgetsCountersAndCutsStreams(t *testing.T) {
	s, url := start(t, Options{TokensPerSecond: 500})
	r1, err := client.Get(url + "/metrics")
	require.NoError(t, err)
	r1.Body.Close()
	post(t, url+"/completion", `{"prompt":"the","n_predict":5}`)
	r, err := client.Post(url+"/completion", "application/json", strings.NewReader(`{"prompt":"of","n_predict":2000,"stream":true}`))
	require.NoError(t, err)
	s.Restart()
	_, err = io.ReadAll(r.Body)
	assert.Error(t, err)
	r.Body.Close()
	r2, err := client.Get(url + "/metrics")
	require.NoError(t, err)
	b, err := io.ReadAll(r2.Body)
	r2.Body.Close()
	require.NoError(t, err)
	assert.Equal(t, "0", sampleOf(string(b), "tokens_predicted_total"))
	h := "Process-Start-Time-Unix"
	assert.NotEqual(t, r1.Header.Get(h), r2.Header.Get(h))
	assert.GreaterOrEqual(t, s.PastDecoded(), int64(5))
}

func TestServer_SleepsAndWakes(t *testing.T) {
	c := newClock()
	s, url := start(t, Options{SleepAfter: time.Minute, WakeTime: time.Second, Now: c.Now})
	c.Add(30 * time.Second)
	get(t, url+"/slots") // keeps it awake
	c.Add(45 * time.Second)
	assert.False(t, s.Sleeping())
	c.Add(20 * time.Second)
	assert.True(t, s.Sleeping())
	_, body := get(t, url+"/props")
	assert.True(t, gjson.Get(body, "is_sleeping").Bool())
	get(t, url+"/metrics")
	get(t, url+"/health")
	assert.True(t, s.Sleeping(), "watching must not wake it")

	woken := make(chan string)
	go func() {
		r, err := client.Get(url + "/slots")
		if err != nil {
			woken <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		woken <- string(b)
	}()
	require.Eventually(t, func() bool { return s.Hits("/slots") == 2 }, 10*time.Second, time.Millisecond)
	for {
		c.Add(100 * time.Millisecond)
		select {
		case b := <-woken:
			assert.Len(t, gjson.Get(b, "0").Map(), 4)
			assert.False(t, s.Sleeping())
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestServer_Endpoints(t *testing.T) {
	_, url := start(t, Options{APIKey: "A,B", NoMetrics: true, NoSlots: true, Prefix: "/llama"})
	for name, c := range map[string]struct {
		path, key string
		status    int
		kind      string
	}{
		"health is open":  {"/health", "", 200, ""},
		"no key":          {"/metrics", "", 401, "authentication_error"},
		"unknown, no key": {"/nope", "", 401, "authentication_error"},
		"lower case":      {"/metrics", "bearer A", 401, "authentication_error"},
		"metrics off":     {"/metrics", "Bearer B", 501, "not_supported_error"},
		"slots off":       {"/slots", "A", 501, "not_supported_error"},
		"unknown":         {"/nope", "A", 404, "not_found_error"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := http.NewRequest(http.MethodGet, url+c.path, nil)
			require.NoError(t, err)
			if c.key != "" {
				q.Header.Set("Authorization", c.key)
			}
			r, err := client.Do(q)
			require.NoError(t, err)
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			assert.Equal(t, c.status, r.StatusCode)
			assert.Equal(t, c.kind, gjson.GetBytes(b, "error.type").String())
			assert.Equal(t, "llama.cpp", r.Header.Get("Server"))
		})
	}
}

func TestServer_LoadingAnswers503Everywhere(t *testing.T) {
	c := newClock()
	_, url := start(t, Options{LoadTime: time.Minute, Now: c.Now})
	for _, p := range []string{"/health", "/metrics", "/nope"} {
		status, body := get(t, url+p)
		assert.Equal(t, 503, status)
		assert.Equal(t, "Loading model", gjson.Get(body, "error.message").String())
	}
	c.Add(time.Minute)
	status, _ := get(t, url+"/health")
	assert.Equal(t, 200, status)
}

func TestServer_BuildsDiffer(t *testing.T) {
	for b, c := range map[Build]struct {
		families int
		next     string
	}{Current: {15, "next_token.0.n_decoded"}, Old: {11, "next_token.n_decoded"}, Future: {16, "next_token.0.n_decoded"}} {
		_, url := start(t, Options{Build: b, TokensPerSecond: 5000})
		post(t, url+"/completion", `{"prompt":"the","n_predict":3}`)
		_, m := get(t, url+"/metrics")
		assert.Equal(t, c.families, strings.Count(m, "# TYPE"), b)
		_, slots := get(t, url+"/slots")
		assert.True(t, json.Valid([]byte(slots)))
		assert.True(t, gjson.Get(slots, "0."+c.next).Exists(), b)
		_, props := get(t, url+"/props")
		assert.Equal(t, b.String(), gjson.Get(props, "build_info").String())
	}
}

func TestServer_AnswerHundredClosesTheConnection(t *testing.T) {
	s, url := start(t, Options{})
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for i := range 101 {
		r, err := (&http.Client{Transport: tr}).Get(url + "/health")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r.Body)
		require.NoError(t, err)
		r.Body.Close()
		assert.Equal(t, i == 99, r.Close, i)
	}
	_, opened := s.Conns()
	assert.Equal(t, 2, opened)
}

func TestRouter_LoadsEvictsAndFails(t *testing.T) {
	c := newClock()
	s, url := start(t, Options{Now: c.Now, Router: &RouterOptions{Models: []string{"a", "b", "c"}, Broken: []string{"x"}, MaxLoaded: 2, LoadTime: time.Second}})
	states := func() string {
		_, b := get(t, url+"/models")
		var out []string
		for _, m := range gjson.Get(b, "data").Array() {
			out = append(out, m.Get("id").String()+"="+m.Get("status.value").String())
		}
		return strings.Join(out, " ")
	}
	assert.Equal(t, "a=unloaded b=unloaded c=unloaded x=unloaded", states())
	for path, want := range map[string]string{
		"/metrics":                        "model name is missing from the request",
		"/metrics?model=nope":             "model 'nope' not found",
		"/metrics?model=a&autoload=false": "model is not loaded",
	} {
		status, body := get(t, url+path)
		assert.Equal(t, 400, status)
		assert.Equal(t, want, gjson.Get(body, "error.message").String())
	}
	_, body := post(t, url+"/models/load", `{"model":"a"}`)
	assert.JSONEq(t, `{"success":true}`, body)
	assert.Equal(t, "a=loading b=unloaded c=unloaded x=unloaded", states())
	status, _ := get(t, url+"/metrics?model=a&autoload=false")
	assert.Equal(t, 500, status)
	c.Add(700 * time.Millisecond)
	status, _ = get(t, url+"/metrics?model=a&autoload=false")
	assert.Equal(t, 503, status)
	c.Add(time.Second)
	status, _ = get(t, url+"/metrics?model=a&autoload=false")
	assert.Equal(t, 200, status)
	post(t, url+"/models/load", `{"model":"b"}`)
	post(t, url+"/models/load", `{"model":"x"}`)
	c.Add(time.Second)
	assert.Equal(t, "a=unloaded b=loaded c=unloaded x=unloaded", states())
	_, body = get(t, url+"/models")
	assert.True(t, gjson.Get(body, `data.#(id=="x").status.failed`).Bool())
	_, body = get(t, url+"/props")
	assert.Equal(t, "router", gjson.Get(body, "role").String())
	assert.Zero(t, s.Decoded())
}

func TestServer_OldBuildWakesForMetrics(t *testing.T) {
	s, url := start(t, Options{Build: Old, SleepAfter: time.Hour, WakeTime: time.Millisecond})
	assert.True(t, s.Sleep())
	assert.True(t, s.Sleeping())
	get(t, url+"/metrics")
	assert.False(t, s.Sleeping())
}

func TestServer_BlockedEndpointsWaitForTheBatch(t *testing.T) {
	c := newClock()
	s, url := start(t, Options{BlockDuringDecode: true, PromptTokensPerSecond: 100, Now: c.Now})
	s.e.post(&task{nPrompt: 1000, nPredict: 1})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if r, err := client.Get(url + "/metrics"); err == nil {
			r.Body.Close()
		}
	}()
	require.Eventually(t, func() bool { return s.Hits("/metrics") == 1 }, 10*time.Second, time.Millisecond)
	status, _ := get(t, url+"/health")
	assert.Equal(t, 200, status, "health never waits")
	select {
	case <-answered:
		t.Error("answered during the batch")
	case <-time.After(50 * time.Millisecond):
	}
	c.Add(10 * time.Second)
	<-answered
}

func TestServer_LargeCountersLoseDigits(t *testing.T) {
	s, url := start(t, Options{TokensPerSecond: 5000})
	s.SetCounters(1_234_567, 999_792)
	assert.Equal(t, "1.23457e+06", metric(t, url, "tokens_predicted_total"))
	assert.Equal(t, "999792", metric(t, url, "prompt_tokens_total"))
	post(t, url+"/completion", `{"prompt":"the","n_predict":3}`)
	assert.Equal(t, "1.23457e+06", metric(t, url, "tokens_predicted_total"))
	assert.EqualValues(t, 1_234_570, s.Predicted())
}

func TestServer_UsersTextShowsOnlyWithSlotsDebug(t *testing.T) {
	for _, debug := range []bool{false, true} {
		_, url := start(t, Options{SlotsDebug: debug, TokensPerSecond: 5000})
		post(t, url+"/completion", `{"prompt":"the secret of","n_predict":3}`)
		_, body := get(t, url+"/slots")
		assert.Equal(t, debug, strings.Contains(body, "secret"))
		assert.True(t, json.Valid([]byte(body)))
	}
}

func BenchmarkServer_Metrics(b *testing.B) {
	s := New(Options{})
	defer s.Close()
	s.AddLoad(Load{Concurrency: 6})
	b.ReportAllocs()
	for b.Loop() {
		s.e.mu.Lock()
		s.e.advance()
		s.e.metricsText()
		s.e.mu.Unlock()
	}
}
