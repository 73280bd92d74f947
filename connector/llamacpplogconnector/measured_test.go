// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamalog"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// latencies are what a proxy measures better.
var latencies = []string{"gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"}

// server writes a log, in a bubble of its own, where time passes as it is told.
type server struct {
	*llamalog.Log
	cfg     *Config
	key     serverresource.Key
	began   time.Time
	exact   bool // the log says when lines were written, as a journal does
	written bytes.Buffer
}

// newServer has a name of its own: what proxies know is known in all tests.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{cfg: newDefaultConfig(), began: time.Now(), exact: true}
	s.cfg.ServiceName = fmt.Sprintf("%s %d", t.Name(), rand.Int())
	s.cfg.Model = "tiny"
	s.cfg.MetricsFlushInterval = time.Hour // at shutdown
	s.key = serverresource.Key{Service: s.cfg.ServiceName, Instance: "localhost:8080"}
	s.Log = llamalog.New(&s.written, 0)
	return s
}

// clock is the process's.
func (s *server) clock() time.Duration { return time.Since(s.began) }

// at is when the clock shows what it shows after some milliseconds.
func (s *server) at(ms float64) time.Time { return s.began.Add(milliseconds(ms)) }

// milliseconds are whole microseconds, as the server's are.
func milliseconds(ms float64) time.Duration { return time.Duration(ms*1e3) * time.Microsecond }

// logged is what was written since it was last called, read now.
func (s *server) logged() plog.Logs {
	ld := logs(s.written.String(), nil)
	s.written.Reset()
	if !s.exact {
		return ld
	}
	for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		var minutes, seconds, thousandths, millionths int
		_, err := fmt.Sscanf(r.Body().Str(), "%d.%d.%d.%d", &minutes, &seconds, &thousandths, &millionths)
		if err != nil {
			panic(err)
		}
		clock := time.Duration(minutes*60+seconds)*time.Second + time.Duration(thousandths*1000+millionths)*time.Microsecond
		r.SetTimestamp(pcommon.NewTimestampFromTime(s.began.Add(clock)))
	}
	return ld
}

// answer logs a request of 24 tokens that is answered with 8, and returns its
// timings. Times are in milliseconds.
func (s *server) answer(slot int, task int64, launched, prompt, generation float64) string {
	r := llamalog.Request{Slot: slot, Task: task}
	s.Launch(milliseconds(launched), r, llamalog.Slot{Prompt: 24, LastUsed: -1})
	s.Finish(milliseconds(launched+prompt+generation), r, llamalog.Timings{
		PromptTokens: 24, Tokens: 8, Prompt: milliseconds(prompt), Generation: milliseconds(generation), Sequence: 31,
	})
	return timings.String(24, milliseconds(prompt), 8, milliseconds(generation))
}

// cancel logs a request whose client goes away.
func (s *server) cancel(slot int, task int64, launched, ended float64) {
	r := llamalog.Request{Slot: slot, Task: task}
	s.Launch(milliseconds(launched), r, llamalog.Slot{Prompt: 24, LastUsed: -1})
	s.Cancel(milliseconds(ended), task)
	s.Release(milliseconds(ended), r, 25)
}

// pass says what a proxy saw of a request, whose trace is named after a number, or
// that has none if that is 0.
func (s *server) pass(arrived, ended float64, completed bool, timings string, trace byte) {
	proxied.Begin(s.key, s.at(arrived)).End(request(s.at(arrived), s.at(ended), completed, timings, trace), true)
}

func request(arrived, ended time.Time, completed bool, timings string, trace byte) proxied.Request {
	return proxied.Request{
		Arrived: arrived, Ended: ended, Completed: completed, Timings: timings,
		InputTokens: -1, OutputTokens: -1, Counted: true,
		Trace: pcommon.TraceID{trace}, Span: pcommon.SpanID{trace},
	}
}

// count of a histogram, by error.type.
func count(md pmetric.Metrics, name string) map[string]int {
	n := map[string]int{}
	m, _ := points.Metric(md, name)
	for _, p := range m.Histogram().DataPoints().All() {
		reason, _ := p.Attributes().AsRaw()["error.type"].(string)
		if p.Count() > 0 {
			n[reason] += int(p.Count())
		}
	}
	return n
}

// ended is llamacpp.requests by outcome.
func ended(md pmetric.Metrics) map[string]int {
	n := map[string]int{}
	m, _ := points.Metric(md, "llamacpp.requests")
	for _, p := range points.Numbers(m).All() {
		outcome, _ := p.Attributes().Get("llamacpp.request.outcome")
		if p.IntValue() > 0 {
			n[outcome.Str()] += int(p.IntValue())
		}
	}
	return n
}

// spansByTask are those with a task, by it, and how many there are in all.
func spansByTask(t *testing.T, td ptrace.Traces) (byTask map[int64]ptrace.Span, n int) {
	t.Helper()
	byTask = map[int64]ptrace.Span{}
	for _, rs := range td.ResourceSpans().All() {
		for _, span := range rs.ScopeSpans().At(0).Spans().All() {
			n++
			if task, ok := span.Attributes().Get(attributeTask); ok {
				assert.NotContains(t, byTask, task.Int())
				byTask[task.Int()] = span
			}
		}
	}
	return byTask, n
}

func TestMetrics_LatenciesAreLeftToAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.pass(1000, 2010, true, s.answer(0, 1, 1500, 100, 400), 1)
		s.pass(1000, 3000, false, "", 2)
		s.cancel(1, 2, 1500, 3001)
		s.answer(0, 3, 2500, 100, 401)
		s.cancel(1, 4, 5000, 6000)
		s.pass(6500, 7600, true, s.answer(2, 5, 7000, 100, 402), 0)
		time.Sleep(8 * time.Second)
		md := metricsOf(t, s.cfg, s.logged())
		for _, name := range latencies {
			want := map[string]int{"": 1}
			if name == "gen_ai.server.request.duration" {
				want["cancelled"] = 1
			}
			assert.Equal(t, want, count(md, name), "%s of requests around the proxy", name)
		}
		assert.Equal(t, map[string]int{"completed": 3, "cancelled": 2}, ended(md))
		assert.Equal(t, map[string]int{"": 6}, count(md, "llamacpp.request.tokens"), "input and output")
		for _, name := range []string{"llamacpp.request.prompt.speed", "llamacpp.request.generation.speed"} {
			assert.Equal(t, map[string]int{"": 3}, count(md, name))
		}
	})
}

// The proxy knows no prompt's time of Anthropic's messages, nor of a request whose client
// has left. The log does, or at least when it got its slot.
func TestMetrics_WaitThatTheAnswerDoesNotTellIsFromTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		timed, completed bool
		first            float64
		want             float64 // seconds; 0 is none
	}{
		"the proxy has it":     {true, true, 1605, 0},
		"streamed":             {false, true, 1605, 0.505},
		"not streamed":         {false, true, 0, 0.51},
		"left, after a token":  {false, false, 1605, 0.5},
		"left, before a token": {false, false, 0, 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				timings := ""
				if c.completed {
					timings = s.answer(0, 1, 1500, 100, 400)
				} else {
					s.cancel(0, 1, 1500, 2000)
				}
				if !c.timed {
					timings = ""
				}
				r := request(s.at(1000), s.at(2010), c.completed, timings, 7)
				if c.first > 0 {
					r.FirstToken = s.at(c.first)
				}
				proxied.Begin(s.key, s.at(1000)).End(r, true)
				time.Sleep(3 * time.Second)
				ld := s.logged()
				m, ok := points.Metric(metricsOf(t, s.cfg, ld), "llamacpp.request.queue.duration")
				require.True(t, ok, "it begins at 0")
				assert.InDelta(t, c.want, m.Histogram().DataPoints().At(0).Sum(), 1e-9)
				spans, _ := spansByTask(t, tracesOf(t, s.cfg, ld))
				wait, ok := spans[1].Attributes().Get("llamacpp.request.queue.duration")
				assert.Equal(t, c.want > 0, ok)
				assert.InDelta(t, c.want, wait.Double(), 1e-9)
			})
		})
	}
}

func TestMetrics_LatenciesStayWithTheLogWhereTheProxyCountsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		r := request(s.at(1000), s.at(2010), true, s.answer(0, 1, 1500, 100, 400), 7)
		r.Counted = false
		proxied.Begin(s.key, s.at(1000)).End(r, true)
		time.Sleep(3 * time.Second)
		md := metricsOf(t, s.cfg, s.logged())
		for _, name := range latencies {
			assert.Equal(t, map[string]int{"": 1}, count(md, name))
		}
	})
}

func TestMetrics_ExemplarsOfProxiedRequestsLinkToTheProxysSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for trace, want := range map[byte]bool{7: true, 0: false} {
			s := newServer(t)
			s.pass(1000, 2010, true, s.answer(0, 1, 1500, 100, 400), trace)
			time.Sleep(3 * time.Second)
			ld := s.logged()
			m, _ := points.Metric(metricsOf(t, s.cfg, ld), "llamacpp.request.generation.speed")
			e := m.Histogram().DataPoints().At(0).Exemplars().At(0)
			assert.Equal(t, want, e.TraceID() == pcommon.TraceID{trace} && e.SpanID() == pcommon.SpanID{trace})
			spans, _ := spansByTask(t, tracesOf(t, s.cfg, ld))
			assert.Equal(t, e.TraceID(), spans[1].TraceID())
			assert.Equal(t, map[string]any{"llamacpp.slot.id": int64(0), "llamacpp.task.id": int64(1)}, e.FilteredAttributes().AsRaw())
		}
	})
}

func TestTraces_ARequestIsTheSlotInTheProxysTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		r := llamalog.Request{Slot: 2, Task: 9}
		s.Launch(milliseconds(1500), r, llamalog.Slot{Prompt: 24, LastUsed: -1})
		s.PromptProgress(milliseconds(1550), r, 12, 0.5, milliseconds(50))
		s.GenerationProgress(milliseconds(1800), r, 4, milliseconds(200), 4, milliseconds(200))
		s.Finish(milliseconds(2000), r, llamalog.Timings{PromptTokens: 24, Tokens: 8, Prompt: milliseconds(100), Generation: milliseconds(400), Sequence: 31})
		time.Sleep(3 * time.Second)
		ld := s.logged()
		alone, n := spansByTask(t, tracesOf(t, s.cfg, ld))
		require.Equal(t, 3, n, "with prompt and generation")

		timings := timings.String(24, milliseconds(100), 8, milliseconds(400))
		s.pass(1000, 2010, true, timings, 0)
		untraced, n := spansByTask(t, tracesOf(t, s.cfg, ld))
		require.Equal(t, 3, n, "the proxy makes no traces")
		assert.Equal(t, alone[9].TraceID(), untraced[9].TraceID())
		assert.True(t, untraced[9].ParentSpanID().IsEmpty())

		s.pass(1000, 2020, true, timings, 0)
		s.pass(1000, 2002, true, timings, 7)
		spans, n := spansByTask(t, tracesOf(t, s.cfg, ld))
		require.Equal(t, 1, n)
		span := spans[9]
		assert.Equal(t, "slot", span.Name())
		assert.Equal(t, ptrace.SpanKindInternal, span.Kind())
		assert.Equal(t, pcommon.TraceID{7}, span.TraceID())
		assert.Equal(t, pcommon.SpanID{7}, span.ParentSpanID())
		assert.Equal(t, alone[9].SpanID(), span.SpanID(), "that of the log, so that it can come twice")
		assert.Equal(t, alone[9].Attributes().AsRaw(), span.Attributes().AsRaw())
		assert.Equal(t, s.at(1500), span.StartTimestamp().AsTime().Local())
		assert.Equal(t, s.at(2000), span.EndTimestamp().AsTime().Local())
		var events []string
		for _, e := range span.Events().All() {
			events = append(events, e.Name())
		}
		assert.Equal(t, []string{"prompt progress", "generation progress"}, events)
	})
}

func TestTraces_ARequestWithoutASlotIsTheProxysAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.pass(1000, 2000, false, "", 1)
		s.Cancel(milliseconds(2500), 1)
		s.Cancel(milliseconds(2600), 2)
		time.Sleep(3 * time.Second)
		ld := s.logged()
		spans, _ := spansByTask(t, tracesOf(t, s.cfg, ld))
		assert.NotContains(t, spans, int64(1))
		assert.Contains(t, spans, int64(2), "around the proxy")
		assert.Equal(t, map[string]int{"cancelled": 2}, ended(metricsOf(t, s.cfg, ld)))
	})
}

func TestMetrics_RefusedRequestsStayWithTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.pass(1000, 2000, false, "", 1) // another one
		r := llamalog.Request{Task: 1}
		s.Launch(milliseconds(1500), r, llamalog.Slot{Prompt: 602, LastUsed: -1})
		s.Refuse(milliseconds(1600), r.Task, "request (602 tokens) exceeds the available context size (256 tokens), try increasing it")
		s.Release(milliseconds(1601), r, 0)
		time.Sleep(3 * time.Second)
		md := metricsOf(t, s.cfg, s.logged())
		assert.Equal(t, map[string]int{"rejected": 1}, ended(md))
		assert.Equal(t, map[string]int{"exceed_context_size": 1}, count(md, "gen_ai.server.request.duration"))
	})
}

func TestMetrics_ModelsOfARouterHaveTheirOwnRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		timings := s.answer(0, 1, 1500, 100, 400)
		lines := s.written.String()
		s.written.Reset()
		s.exact = false
		s.Spawn(milliseconds(100), "tiny", 9999, nil)
		for line := range strings.Lines(lines) {
			s.written.WriteString("[9999] " + line)
		}
		time.Sleep(2 * time.Second)
		ld := s.logged()
		s.cfg.Model = ""
		s.pass(1000, 2010, true, timings, 1)
		assert.Equal(t, map[string]int{"": 1}, count(metricsOf(t, s.cfg, ld), latencies[0]), "the router's own is another instance")
		o := proxied.Begin(s.key, s.at(1000))
		o.Move(serverresource.Key{Service: s.key.Service, Instance: s.key.Instance + "/tiny"})
		o.End(request(s.at(1000), s.at(2010), true, timings, 1), true)
		md := metricsOf(t, s.cfg, ld)
		assert.Empty(t, count(md, latencies[0]))
		assert.Equal(t, map[string]int{"completed": 1}, ended(md))
	})
}

func TestConnector_WaitsALittleForAProxyThatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		set, _ := settings()
		sink := new(consumertest.MetricsSink)
		c := startMetrics(t, s.cfg, set, sink)
		takes := func(ld plog.Logs) time.Duration {
			start := time.Now()
			require.NoError(t, c.ConsumeLogs(t.Context(), ld))
			return time.Since(start)
		}

		time.Sleep(time.Second)
		late, open := proxied.Begin(s.key, s.at(0)), proxied.Begin(s.key, s.at(0))
		timings := s.answer(0, 1, 400, 100, 400)
		time.AfterFunc(30*time.Millisecond, func() { late.End(request(s.at(0), time.Now(), true, timings, 1), true) })
		assert.Equal(t, 30*time.Millisecond, takes(s.logged()), "until the proxy has seen the end")

		time.Sleep(time.Second)
		for task := range 3 {
			s.answer(0, int64(task)+2, 1500, 100, 401)
		}
		assert.Equal(t, batchPatience, takes(s.logged()), "however many of a batch came around the proxy")
		var waited time.Duration
		for task := range 100 {
			s.answer(0, int64(task)+100, float64(s.clock().Milliseconds()-150), 50, 100)
			waited += takes(s.logged())
			time.Sleep(time.Millisecond)
		}
		assert.InDelta(t, float64(2*maxCredit), float64(waited), float64(maxCredit)/5, "a log that is read at once, not for ever")
		time.Sleep(time.Second)
		s.answer(0, 12, 1700, 100, 401)
		assert.Zero(t, takes(s.logged()), "a request that ended long ago")
		s.answer(0, 13, float64(s.clock().Milliseconds()-400), 100, 200)
		open.End(proxied.Request{}, false)
		assert.Zero(t, takes(s.logged()), "nothing is open at the proxy")

		require.NoError(t, c.Shutdown(t.Context()))
		md := sink.AllMetrics()[len(sink.AllMetrics())-1]
		assert.Equal(t, map[string]int{"": 105}, count(md, latencies[0]), "all but the first")
		assert.Equal(t, map[string]int{"completed": 106}, ended(md))
	})
}

// Thirty clients at once and four slots, for some time: some go around the proxy,
// some leave. All answers have as many tokens.
func TestConnector_ManyRequestsAtOnceAreToldApart(t *testing.T) {
	for name, exact := range map[string]bool{"journal": true, "file": false} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { crowd(t, exact, rand.New(rand.NewPCG(seed, 0))) })
			})
		}
	}
}

func crowd(t *testing.T, exact bool, random *rand.Rand) {
	t.Helper()
	s := newServer(t)
	s.exact = exact
	const clients, slots, n = 30, 4, 120
	// An answer that went around the proxy, and ended just after a proxy's client
	// had left, may be taken for the one of that client.
	const mistaken = 2

	// First what happens, then it happens.
	type client struct {
		task                               int64
		slot                               int
		arrived, launched, prompt, answers float64 // ms
		around, leaves                     bool
	}
	var all []client
	free := make([]float64, slots) // when
	for i := range n {
		c := client{
			task: int64(i), arrived: float64(i/clients*4000) + random.Float64()*10,
			prompt: 20 + random.Float64()*200, answers: 100 + random.Float64()*300,
			around: random.IntN(4) == 0, leaves: random.IntN(5) == 0,
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b client) int { return cmp.Compare(a.arrived, b.arrived) })
	want := map[bool]map[string]int{true: {}, false: {}} // ended, by whether it went around the proxy
	for i := range all {
		c := &all[i]
		c.slot = slices.Index(free, slices.Min(free))
		c.launched = max(free[c.slot], c.arrived) + 0.3
		free[c.slot] = c.launched + c.prompt + c.answers + 0.1
		if c.leaves {
			want[c.around]["cancelled"]++
		} else {
			want[c.around]["completed"]++
		}
	}
	type step struct {
		at float64
		do func()
	}
	var steps []step
	for i := range all {
		c := &all[i]
		end := c.launched + c.prompt + c.answers
		seen := end + random.Float64()*20
		if c.leaves {
			seen = end - random.Float64()*20
		}
		var o *proxied.Open
		answer := ""
		steps = append(steps, step{c.arrived, func() {
			if !c.around {
				o = proxied.Begin(s.key, time.Now())
			}
		}}, step{end, func() {
			if c.leaves {
				s.cancel(c.slot, c.task, c.launched, end)
			} else {
				answer = s.answer(c.slot, c.task, c.launched, c.prompt, c.answers)
			}
		}}, step{seen, func() {
			if o != nil {
				o.End(request(s.at(c.arrived), time.Now(), !c.leaves, answer, byte(c.task)+1), true)
			}
		}})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })

	set, _ := settings()
	spans := new(consumertest.TracesSink)
	traces := startTraces(t, s.cfg, set, spans)
	var sinks []*consumertest.MetricsSink
	var metrics []*metricsConnector
	for range 2 {
		sink := new(consumertest.MetricsSink)
		sinks, metrics = append(sinks, sink), append(metrics, startMetrics(t, s.cfg, set, sink))
	}
	// The lines of one moment are written in one go: nothing needs a lock.
	done := make(chan struct{})
	pieces := make(chan plog.Logs, n*10)
	go func() {
		defer close(done)
		for ld := range pieces {
			assert.NoError(t, traces.ConsumeLogs(t.Context(), ld))
			for _, c := range metrics {
				assert.NoError(t, c.ConsumeLogs(t.Context(), ld))
			}
		}
	}()
	poll := 0.0
	read := func() {
		if s.written.Len() > 0 {
			pieces <- s.logged()
		}
	}
	for _, step := range steps {
		for ; poll <= step.at; poll += 200 {
			time.Sleep(time.Until(s.at(poll)))
			if !exact { // file_log polls
				read()
			}
		}
		time.Sleep(time.Until(s.at(step.at)))
		step.do()
		if exact { // journalctl follows
			read()
		}
	}
	read()
	close(pieces)
	<-done

	require.NoError(t, traces.Shutdown(t.Context()))
	for i, c := range metrics {
		require.NoError(t, c.Shutdown(t.Context()))
		md := sinks[i].AllMetrics()[len(sinks[i].AllMetrics())-1]
		total := map[string]int{}
		for _, part := range want {
			for outcome, n := range part {
				total[outcome] += n
			}
		}
		assert.Equal(t, total, ended(md))
		got, around := count(md, latencies[0]), want[true]
		assert.Equal(t, around["completed"]+around["cancelled"], got[""]+got["cancelled"], "around the proxy")
		assert.InDelta(t, around["completed"], got[""], mistaken)
		assert.InDelta(t, around["completed"], count(md, latencies[1])[""], mistaken)
	}

	everything := ptrace.NewTraces()
	for _, td := range spans.AllTraces() {
		td.ResourceSpans().MoveAndAppendTo(everything.ResourceSpans())
	}
	byTask, _ := spansByTask(t, everything)
	require.Len(t, byTask, n)
	parents, wrong := map[pcommon.SpanID]bool{}, 0
	for _, c := range all {
		span := byTask[c.task]
		parent := span.ParentSpanID()
		if !parent.IsEmpty() {
			assert.False(t, parents[parent], "two requests with one parent")
			parents[parent] = true
		}
		switch {
		case c.leaves:
		case !c.around:
			assert.Equal(t, pcommon.SpanID{byte(c.task) + 1}, parent, "task %d", c.task)
		case !parent.IsEmpty():
			wrong++
			assert.True(t, all[slices.IndexFunc(all, func(c client) bool { return byte(c.task)+1 == parent[0] })].leaves)
		}
	}
	assert.LessOrEqual(t, wrong, mistaken)
	assert.Len(t, parents, want[false]["completed"]+want[false]["cancelled"])
}
