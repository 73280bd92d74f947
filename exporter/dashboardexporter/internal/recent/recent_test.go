// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// base is when invented requests begin.
var base = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// request returns the span of a server's request that ended a time after base.
func request(server string, id byte, end time.Duration) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.instance.id", server)
	s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetKind(ptrace.SpanKindServer)
	s.SetSpanID(pcommon.SpanID{id, server[0]})
	s.SetTraceID(pcommon.TraceID{id})
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(base.Add(end - 100*ms)))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(base.Add(end)))
	s.Attributes().PutStr("gen_ai.operation.name", "chat")
	return td
}

func spanOf(td ptrace.Traces) ptrace.Span {
	return td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
}

// numbers says which requests these are.
func numbers(all []Request) (n []int) {
	for _, r := range all {
		var id int
		_, _ = fmt.Sscanf(r.ID[:2], "%x", &id)
		n = append(n, id)
	}
	return n
}

// What the connector makes of a real server's log.
func TestAdd_ReadsTheSpansOfTheServersLog(t *testing.T) {
	files, err := filepath.Glob("../../../../connector/llamacpplogconnector/testdata/traces/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	outcomes, drafts := map[string]int{}, 0
	for _, f := range files {
		td, err := golden.ReadTraces(f)
		require.NoError(t, err)
		s := New(DefaultLimits())
		added := s.Add(td)
		all := s.Last("", 1000)
		assert.Len(t, all, added, f)
		assert.Zero(t, s.Add(td), "%s: once more", f)
		for _, r := range all {
			outcomes[r.Outcome]++
			assert.True(t, r.plausible(), "%s: %+v", f, r)
			assert.False(t, r.Client)
			assert.Equal(t, "localhost:8080", strings.Split(r.Server, "/")[0], f)
			if r.Outcome == completed && r.Generated > 0 {
				require.NotNil(t, r.First, f)
				require.NotNil(t, r.TTFT, f)
				assert.GreaterOrEqual(t, *r.First, r.Start, f)
				assert.LessOrEqual(t, *r.First, r.End, f)
				assert.Positive(t, r.Prompt, f)
				assert.GreaterOrEqual(t, r.Task, int64(0), f)
			}
			if r.Drafted != nil {
				drafts++
				assert.LessOrEqual(t, *r.Accepted, *r.Drafted, f)
			}
		}
	}
	assert.NotZero(t, outcomes[completed])
	assert.NotZero(t, outcomes[cancelled])
	assert.NotZero(t, outcomes[rejected])
	assert.NotZero(t, drafts)
}

// client returns the span that the load generator makes of a request.
func client(id byte, timings string) ptrace.Traces {
	td := request("run-7", id, 0)
	s := spanOf(td)
	s.SetKind(ptrace.SpanKindClient)
	a := s.Attributes()
	a.PutStr("gen_ai.request.model", "asked")
	a.PutStr("gen_ai.response.model", "tiny")
	a.PutStr("server.address", "localhost")
	a.PutInt("server.port", 8080)
	a.PutInt("gen_ai.usage.input_tokens", 10)
	a.PutInt("gen_ai.usage.cache_read.input_tokens", 4)
	a.PutInt("gen_ai.usage.output_tokens", 5)
	a.PutDouble("loadgen.server.queue.duration", 0.015)
	a.PutStr("llamacpp.request.timings", timings)
	chunk := s.Events().AppendEmpty()
	chunk.SetName("loadgen.first_chunk")
	chunk.SetTimestamp(pcommon.NewTimestampFromTime(base.Add(-80 * ms)))
	token := s.Events().AppendEmpty()
	token.SetName("loadgen.first_token")
	token.SetTimestamp(pcommon.NewTimestampFromTime(base.Add(-60 * ms)))
	return td
}

func TestAdd_ReadsTheSpansOfTheLoadGenerator(t *testing.T) {
	s := New(DefaultLimits())
	require.Equal(t, 1, s.Add(client(1, "")))
	data, err := json.Marshal(s.Last("localhost:8080", 1)[0])
	require.NoError(t, err)
	end := base.UnixMilli()
	assert.JSONEq(t, fmt.Sprintf(`{"id": "0172000000000000", "trace": "01000000000000000000000000000000", "server": "localhost:8080", "model": "tiny",
		"slot": -1, "task": -1, "start": %d, "first": %d, "end": %d, "outcome": "completed", "error": "", "prompt": 10, "cached": 4, "generated": 5,
		"drafted": null, "accepted": null, "ttft": 0.04, "duration": 0.1, "wait": 0.015, "client": true}`, end-100, end-60, end), string(data))
}

func TestAdd_JoinsTheTwoSpansOfARequest(t *testing.T) {
	own := func(id byte, end time.Duration) ptrace.Traces {
		td := request("localhost:8080/tiny", id, end)
		spanOf(td).Attributes().PutStr("llamacpp.request.timings", "6/25.00ms+5/40.00ms")
		return td
	}
	const timings = "6/25.00ms+5/40.00ms"
	for name, add := range map[string]func(s *Store){
		"the server's first": func(s *Store) { s.Add(own(1, 0)); s.Add(client(2, timings)) },
		"the client's first": func(s *Store) { s.Add(client(2, timings)); s.Add(own(1, 0)) },
	} {
		s := New(DefaultLimits())
		add(s)
		r := s.Last("localhost:8080/tiny", 10)
		require.NotEmpty(t, r, name)
		require.NotNil(t, r[len(r)-1].Wait, name)
		assert.InDelta(t, 0.015, *r[len(r)-1].Wait, 1e-9, name)
		assert.Empty(t, s.unjoined, name)
		assert.Len(t, r, 1, "%s: one request, although two tell of it", name)
		assert.False(t, r[0].Client, name)
		assert.Len(t, s.servers, 1, name)
		all := s.all()
		require.Len(t, all, 2, "%s: a page that has the one is told of the other", name)
		assert.NotEqual(t, all[0].Joined == all[1].ID, all[1].Joined == all[0].ID, name)
	}

	s := New(DefaultLimits())
	s.Add(own(1, time.Hour))
	s.Add(client(2, timings))
	assert.Nil(t, s.Last("localhost:8080/tiny", 1)[0].Wait, "the same timings by chance")
}

// proxied returns the spans that the proxy makes of a request: it waited for 40 ms,
// its prompt took 20 ms and its answer 40 ms.
func proxied() ptrace.Traces {
	td := request("localhost:8080", 1, 0)
	ss := td.ResourceSpans().At(0).ScopeSpans().At(0)
	ss.Scope().SetName("github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver")
	s := ss.Spans().At(0)
	s.SetParentSpanID(pcommon.SpanID{2, 'r'})
	s.Attributes().PutStr("gen_ai.response.model", "tiny")
	s.Attributes().PutDouble("llamacpp.request.queue.duration", 0.04)
	s.Attributes().PutStr("llamacpp.client.name", "alice")
	for i, name := range []string{"queue", "prompt", "generation"} {
		part := ss.Spans().AppendEmpty()
		part.SetKind(ptrace.SpanKindInternal)
		part.SetName(name)
		part.SetTraceID(s.TraceID())
		part.SetSpanID(pcommon.SpanID{1, byte(i + 1), 'p'})
		part.SetParentSpanID(ss.Spans().At(0).SpanID())
		part.SetStartTimestamp(pcommon.NewTimestampFromTime(base.Add([]time.Duration{-100, -60, -40}[i] * ms)))
		part.SetEndTimestamp(pcommon.NewTimestampFromTime(base.Add([]time.Duration{-60, -40, 0}[i] * ms)))
	}
	return td
}

// slotOf returns what the log says of a request that the proxy saw.
func slotOf(td ptrace.Traces, number int64) ptrace.Traces {
	parent := spanOf(td)
	own := request("localhost:8080", 200, 0)
	s := spanOf(own)
	s.SetKind(ptrace.SpanKindInternal)
	s.SetName("slot")
	s.SetTraceID(parent.TraceID())
	s.SetParentSpanID(parent.SpanID())
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(base.Add(-59 * ms)))
	s.Attributes().PutInt("llamacpp.slot.id", number)
	s.Attributes().PutInt("llamacpp.task.id", 17)
	return own
}

func TestAdd_ReadsTheSpansOfTheProxy(t *testing.T) {
	s := New(DefaultLimits())
	require.Equal(t, 1, s.Add(proxied()), "its parts are no requests")
	data, err := json.Marshal(s.Last("localhost:8080", 1)[0])
	require.NoError(t, err)
	end := base.UnixMilli()
	assert.JSONEq(t, fmt.Sprintf(`{"id": "016c000000000000", "trace": "01000000000000000000000000000000", "server": "localhost:8080", "model": "tiny",
		"slot": -1, "task": -1, "start": %d, "first": %d, "end": %d, "outcome": "completed", "error": "", "prompt": 0, "cached": 0, "generated": 0,
		"drafted": null, "accepted": null, "ttft": 0.06, "duration": 0.1, "wait": 0.04, "client": false, "proxied": true, "began": %d,
		"client_name": "alice"}`, end-100, end-40, end, end-60), string(data))

	var b strings.Builder
	require.NoError(t, WriteCSV(&b, s.Last("", 9)))
	assert.Contains(t, b.String(), "false,true,2026-01-02T03:04:04.940Z,alice,016c")

	t.Run("the wait is enough", func(t *testing.T) {
		td := proxied()
		td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().RemoveIf(func(s ptrace.Span) bool { return s.Kind() == ptrace.SpanKindInternal })
		s := New(DefaultLimits())
		s.Add(td)
		assert.Equal(t, end-60, *s.Last("", 1)[0].Began)
	})
	t.Run("one that never reached a server", func(t *testing.T) {
		td := proxied()
		spanOf(td).Attributes().Remove("llamacpp.request.queue.duration")
		spanOf(td).Attributes().PutStr("error.type", "502")
		s := New(DefaultLimits())
		s.Add(td)
		r := s.Last("", 1)[0]
		assert.Nil(t, r.Wait)
		assert.Nil(t, r.Began)
		assert.True(t, r.Proxied)
		assert.Equal(t, failed, r.Outcome)
	})
}

// The log's span of a request comes before the proxy's or after it.
func TestAdd_PutsTheSlotOnTheProxysRequest(t *testing.T) {
	td := proxied()
	both := proxied()
	slotOf(td, 3).ResourceSpans().MoveAndAppendTo(both.ResourceSpans())
	for name, order := range map[string][]ptrace.Traces{
		"the proxy's first": {td, slotOf(td, 3)}, "the log's first": {slotOf(td, 3), td}, "together": {both},
		"and once more": {td, slotOf(td, 3), slotOf(td, 3), td},
	} {
		folder := t.TempDir()
		s, err := Open(folder, DefaultLimits(), nopLog)
		require.NoError(t, err)
		added := 0
		for _, td := range order {
			added += s.Add(td)
		}
		assert.Equal(t, 1, added, name)
		assert.Empty(t, s.slots.waiting, name)
		check := func(s *Store) {
			all := s.Last("localhost:8080", 9)
			require.Len(t, all, 1, name)
			assert.Equal(t, int64(3), all[0].Slot, name)
			assert.Equal(t, int64(17), all[0].Task, name)
			assert.Equal(t, base.UnixMilli()-59, *all[0].Began, "%s: when it got its slot", name)
			assert.InDelta(t, 0.04, *all[0].Wait, 1e-9, name)
		}
		check(s)
		// A kill: the file is as it was written while it ran.
		killed, err := Open(folder, DefaultLimits(), nopLog)
		require.NoError(t, err)
		check(killed)
		require.NoError(t, killed.Close())
		require.NoError(t, s.Close())
	}

	t.Run("only the log knows what a client that left has used", func(t *testing.T) {
		left := proxied()
		spanOf(left).Attributes().Remove("llamacpp.request.queue.duration")
		spanOf(left).Attributes().PutStr("llamacpp.request.outcome", cancelled)
		log := slotOf(left, 3)
		spanOf(log).Attributes().PutInt("gen_ai.usage.input_tokens", 20)
		spanOf(log).Attributes().PutInt("gen_ai.usage.cache_read.input_tokens", 15)
		spanOf(log).Attributes().PutInt("gen_ai.usage.output_tokens", 7)
		s := New(DefaultLimits())
		s.Add(left)
		assert.Nil(t, s.Last("", 1)[0].Wait)
		s.Add(log)
		r := s.Last("", 1)[0]
		assert.Equal(t, []int64{20, 15, 7}, []int64{r.Prompt, r.Cached, r.Generated})
		assert.InDelta(t, 0.041, *r.Wait, 1e-9)
		assert.Equal(t, cancelled, r.Outcome)
	})

	s := New(DefaultLimits())
	s.Add(td)
	_, at := s.Since("", 0)
	s.Add(slotOf(td, 3))
	again, at := s.Since("", at)
	assert.Equal(t, []int{1}, numbers(again), "a page that has the request is told of its slot")
	s.Add(slotOf(td, 3))
	again, _ = s.Since("", at)
	assert.Empty(t, again, "nothing new")

	for n := range 3000 {
		td := proxied()
		spanOf(td).SetSpanID(pcommon.SpanID{9, byte(n), byte(n >> 8)})
		s.Add(slotOf(td, 1))
	}
	assert.LessOrEqual(t, len(s.slots.waiting), 1000, "what never comes is not waited for without end")
	assert.LessOrEqual(t, len(s.slots.order), 2000)
}

// A client that connects to the proxy names the proxy as its server.
func TestAdd_JoinsTheClientWithTheProxysSpanUnderIt(t *testing.T) {
	through := client(2, "")
	spanOf(through).Attributes().PutInt("server.port", 9467)
	for name, order := range map[string][]ptrace.Traces{
		"the proxy's first": {proxied(), through}, "the client's first": {through, proxied()},
	} {
		s := New(DefaultLimits())
		for _, td := range order {
			require.Equal(t, 1, s.Add(td), name)
		}
		all := s.Last("", 9)
		require.Len(t, all, 1, name)
		assert.True(t, all[0].Proxied, name)
		assert.InDelta(t, 0.04, *all[0].Wait, 1e-9, "%s: as the proxy measured it", name)
		assert.Len(t, s.servers, 1, "%s: the proxy is no server", name)
		assert.Empty(t, s.unjoined, name)
	}
}

// Requests of the same length take the same time on a server that is well.
func TestAdd_JoinsRequestsThroughTheProxyWhoseTimingsAreEqual(t *testing.T) {
	const timings = "6/25.00ms+5/40.00ms"
	var clients, servers []ptrace.Traces
	for id := range byte(4) {
		asked := client(10+id, timings)
		own := proxied()
		s := spanOf(own)
		s.SetSpanID(pcommon.SpanID{20 + id, 1})
		s.SetParentSpanID(spanOf(asked).SpanID())
		s.Attributes().PutStr("llamacpp.request.timings", timings)
		clients, servers = append(clients, asked), append(servers, own)
	}
	for name, order := range map[string][]ptrace.Traces{
		"one after the other": {clients[0], servers[1], clients[2], servers[0], servers[3], clients[1], servers[2], clients[3]},
		"the clients first":   append(slices.Clone(clients), servers...),
		"the proxy first":     append(slices.Clone(servers), clients...),
	} {
		s := New(DefaultLimits())
		for _, td := range order {
			s.Add(td)
		}
		all := s.Last("", 20)
		assert.Len(t, all, 4, name)
		for _, r := range all {
			assert.True(t, r.Proxied, name)
		}
		assert.Empty(t, s.unjoined, name)
	}
}

func TestOpen_ARequestIsStillOneAfterARestart(t *testing.T) {
	const timings = "6/25.00ms+5/40.00ms"
	own := request("localhost:8080", 1, 0)
	spanOf(own).Attributes().PutStr("llamacpp.request.timings", timings)
	for name, order := range map[string][]ptrace.Traces{
		"the server's first": {own, client(2, timings)}, "the client's first": {client(2, timings), own},
	} {
		folder := t.TempDir()
		for restarted := range 2 {
			s, err := Open(folder, DefaultLimits(), nopLog)
			require.NoError(t, err)
			if restarted == 0 {
				for _, td := range order {
					s.Add(td)
				}
			}
			r := s.Last("localhost:8080", 10)
			require.Len(t, r, 1, name)
			assert.False(t, r[0].Client, name)
			require.NoError(t, s.Close())
		}
	}
}

func TestAdd_TellsHowARequestEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		edit    func(ptrace.Span)
		outcome string
		reason  string
	}{
		"nothing said":          {func(ptrace.Span) {}, completed, ""},
		"the log's outcome":     {func(s ptrace.Span) { s.Attributes().PutStr("llamacpp.request.outcome", unknown) }, unknown, ""},
		"an outcome of others":  {func(s ptrace.Span) { s.Attributes().PutStr("llamacpp.request.outcome", "fine") }, completed, ""},
		"an error":              {func(s ptrace.Span) { s.Attributes().PutStr("error.type", "stream_cut") }, failed, "stream_cut"},
		"a status of a request": {func(s ptrace.Span) { s.Attributes().PutStr("error.type", "400") }, rejected, "400"},
		"a status of a server":  {func(s ptrace.Span) { s.Attributes().PutStr("error.type", "503") }, failed, "503"},
		"the load generator's":  {func(s ptrace.Span) { s.Attributes().PutStr("loadgen.outcome", "cancelled") }, cancelled, ""},
		"only a span's status": {func(s ptrace.Span) {
			s.Status().SetCode(ptrace.StatusCodeError)
			s.Status().SetMessage("it broke")
		}, failed, "it broke"},
	} {
		s := New(DefaultLimits())
		td := request("h:1", 1, 0)
		tt.edit(spanOf(td))
		require.Equal(t, 1, s.Add(td), name)
		r := s.Last("h:1", 1)[0]
		assert.Equal(t, tt.outcome, r.Outcome, name)
		assert.Equal(t, tt.reason, r.Error, name)
	}
}

func TestAdd_ReadsOtherServersAsFarAsItCan(t *testing.T) {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "vllm-server")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	add := func(id byte, kind ptrace.SpanKind, attributes map[string]any) {
		s := spans.AppendEmpty()
		s.SetKind(kind)
		s.SetSpanID(pcommon.SpanID{id})
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(base))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(base.Add(2 * time.Second)))
		require.NoError(t, s.Attributes().FromRaw(attributes))
	}
	add(1, ptrace.SpanKindServer, map[string]any{
		"gen_ai.response.model": "qwen", "gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": "9",
		"gen_ai.latency.time_to_first_token": 0.5,
	})
	add(2, ptrace.SpanKindClient, map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.request.model": "x"})
	add(3, ptrace.SpanKindInternal, map[string]any{"gen_ai.operation.name": "chat"})
	add(4, ptrace.SpanKindServer, map[string]any{"http.request.method": "GET"})
	add(0, ptrace.SpanKindServer, map[string]any{"gen_ai.operation.name": "chat"})
	add(5, ptrace.SpanKindServer, map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": -3, "gen_ai.usage.output_tokens": 1e300, "gen_ai.server.time_to_first_token": 60.0,
		"llamacpp.slot.id": "none",
	})
	backwards := spans.AppendEmpty()
	spans.At(0).CopyTo(backwards)
	backwards.SetSpanID(pcommon.SpanID{6})
	backwards.SetEndTimestamp(1)
	late := spans.AppendEmpty()
	spans.At(0).CopyTo(late)
	late.SetSpanID(pcommon.SpanID{7})
	late.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(48 * time.Hour)))

	s := New(DefaultLimits())
	assert.Equal(t, 2, s.Add(td))
	all := s.Last("vllm-server", 10)
	assert.Equal(t, []int{5, 1}, numbers(all))
	assert.Equal(t, int64(7), all[1].Prompt)
	assert.Equal(t, int64(9), all[1].Generated)
	assert.Equal(t, "qwen", all[1].Model)
	assert.Equal(t, base.UnixMilli()+500, *all[1].First)
	assert.Zero(t, all[0].Prompt)
	assert.Zero(t, all[0].Generated)
	assert.Equal(t, int64(-1), all[0].Slot)
	assert.Nil(t, all[0].First, "after its end")
}

func TestAdd_OrdersByTheEndAndTakesEachOnce(t *testing.T) {
	s := New(DefaultLimits())
	for _, n := range []byte{3, 1, 5, 2, 3, 4, 1} {
		s.Add(request("a:1", n, time.Duration(n)*time.Second))
	}
	assert.Equal(t, []int{5, 4, 3, 2, 1}, numbers(s.Last("a:1", 9)))
	assert.Equal(t, []int{5, 4}, numbers(s.Last("a:1", 2)))
	assert.Equal(t, []int{5, 4}, numbers(s.Last("", 2)))
	assert.Empty(t, s.Last("b:1", 2))
	assert.Empty(t, s.Last("a:1", -1))
	assert.Empty(t, s.Last("", -1))
}

func TestSince_ReturnsWhatWasAddedAfterwards(t *testing.T) {
	s := New(DefaultLimits())
	s.Add(request("a:1", 1, time.Second))
	s.Add(request("b:1", 2, 2*time.Second))
	all, at := s.Since("", 0)
	assert.Equal(t, []int{2, 1}, numbers(all))
	all, again := s.Since("", at)
	assert.Empty(t, all)
	assert.Equal(t, at, again)
	s.Add(request("a:1", 3, -time.Hour)) // late
	all, at = s.Since("a:1", at)
	assert.Equal(t, []int{3}, numbers(all))
	all, _ = s.Since("b:1", 0)
	assert.Equal(t, []int{2}, numbers(all))
	all, last := s.Since("", at+100)
	assert.Empty(t, all)
	assert.Equal(t, at, last)
}

func TestLimits_LetTheOldestGo(t *testing.T) {
	s := New(Limits{PerServer: 3, Servers: 2, Bytes: 1 << 20})
	for n := range byte(6) {
		s.Add(request("a:1", n+1, time.Duration(n)*time.Second))
	}
	assert.Equal(t, []int{6, 5, 4}, numbers(s.Last("a:1", 9)))
	assert.Zero(t, s.Add(request("a:1", 1, 0)), "one that went does not come back")
	assert.Zero(t, s.Add(request("a:1", 9, -time.Hour)), "older than all")
	s.Add(request("b:1", 1, time.Minute))
	s.Add(request("c:1", 1, 2*time.Minute))
	assert.Empty(t, s.Last("a:1", 9), "quiet for the longest")
	assert.Len(t, s.Last("", 9), 2)
	assert.Len(t, s.ids, 2)

	s = New(Limits{PerServer: 100, Servers: 100, Bytes: 5000})
	for n := range byte(100) {
		td := request([]string{"a:1", "b:1"}[n%2], n+1, time.Duration(n)*time.Second)
		spanOf(td).Attributes().PutStr("error.type", strings.Repeat("é", 10_000))
		spanOf(td).Attributes().PutStr("llamacpp.request.timings", fmt.Sprint(n))
		s.Add(td)
	}
	assert.LessOrEqual(t, s.bytes, 5000)
	kept := s.Last("", 100)
	assert.Len(t, s.unjoined, len(kept))
	assert.Equal(t, 100, numbers(kept)[0])
	for _, r := range kept {
		assert.LessOrEqual(t, len(r.Error), maxError)
		assert.True(t, strings.HasSuffix(r.Error, "é…"), r.Error)
	}

	s = New(Limits{})
	s.Add(request("a:1", 1, 0))
	s.Add(request("b:1", 2, 1))
	assert.Equal(t, []int{2}, numbers(s.Last("", 9)), "one is kept")
}

func TestStore_KeepsItsBooksWhateverComes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := New(Limits{PerServer: 5, Servers: 3, Bytes: 6000})
	for n := range 5000 {
		td := request(fmt.Sprintf("%d:1", random.IntN(5)), 1, time.Duration(random.IntN(3000))*ms)
		span := spanOf(td)
		span.SetSpanID(pcommon.SpanID{byte(random.IntN(60)), byte(random.IntN(4)), 1})
		span.Attributes().PutStr("llamacpp.request.timings", fmt.Sprint(random.IntN(20)))
		if random.IntN(2) == 0 {
			span.SetKind(ptrace.SpanKindClient)
			span.Attributes().PutStr("server.address", fmt.Sprint(random.IntN(5)))
		}
		s.Add(td)

		kept, bytes := map[*entry]bool{}, 0
		for name, in := range s.servers {
			require.NotEmpty(t, in.entries)
			require.LessOrEqual(t, len(in.entries), 5)
			for i, e := range in.entries {
				require.Equal(t, name, e.Server, n)
				require.Contains(t, s.ids, e.ID)
				require.Equal(t, i, in.at(e))
				kept[e] = true
				bytes += e.bytes()
			}
		}
		require.LessOrEqual(t, len(s.servers), 3)
		require.Len(t, s.ids, len(kept))
		require.Equal(t, bytes, s.bytes)
		require.LessOrEqual(t, bytes, 6000)
		for _, e := range s.unjoined {
			require.True(t, kept[e], "what waits for its other span is kept")
		}
	}
}

func TestStore_IsReadWhileItIsWritten(t *testing.T) {
	s, err := Open(t.TempDir(), Limits{PerServer: 20, Servers: 3, Bytes: 1 << 20}, nopLog)
	require.NoError(t, err)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := range byte(50) {
				s.Add(request(fmt.Sprintf("%d:1", w), n, time.Duration(n)*time.Second))
			}
		})
		all.Go(func() {
			at := Sequence(0)
			for range 50 {
				_, at = s.Since("", at)
				s.Last("0:1", 5)
			}
		})
	}
	all.Wait()
	assert.NoError(t, s.Close())
}

func TestWriteCSV_IsSafeInASpreadsheet(t *testing.T) {
	s := New(DefaultLimits())
	td := request("=HYPERLINK(\"http://evil.example\")", 1, 0)
	spanOf(td).Attributes().PutStr("gen_ai.request.model", "a, \"b\"\nc")
	spanOf(td).Attributes().PutStr("error.type", "＝1+1")
	s.Add(td)
	s.Add(client(2, ""))
	var b strings.Builder
	require.NoError(t, WriteCSV(&b, s.Last("", 9)))
	assert.Equal(t, 3, strings.Count(b.String(), "\r\n")-1, "a line ends with CR and LF, also within a field")
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 3)
	assert.Equal(t, columns, rows[0])
	field := func(row int, name string) string {
		for i, c := range columns {
			if c == name {
				return rows[row][i]
			}
		}
		return "no such column"
	}
	assert.Equal(t, "'=HYPERLINK(\"http://evil.example\")", field(2, "server"))
	assert.Equal(t, "a, \"b\"\nc", field(2, "model"))
	assert.Equal(t, "'＝1+1", field(2, "error"))
	assert.Empty(t, field(2, "slot"))
	assert.Empty(t, field(2, "first"))
	assert.Equal(t, "2026-01-02T03:04:05.000Z", field(1, "end"))
	assert.Equal(t, "0.04", field(1, "ttft"))
	assert.Equal(t, "true", field(1, "client"))
}

func BenchmarkAdd(b *testing.B) {
	for name, open := range map[string]func() (*Store, error){
		"memory": func() (*Store, error) { return New(DefaultLimits()), nil },
		"file":   func() (*Store, error) { return Open(b.TempDir(), DefaultLimits(), nopLog) },
	} {
		b.Run(name, func(b *testing.B) {
			s, err := open()
			require.NoError(b, err)
			td := request("localhost:8080", 1, 0)
			span := spanOf(td)
			b.ReportAllocs()
			var n uint64
			for b.Loop() {
				n++
				span.SetSpanID(pcommon.SpanID{1, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
				span.SetEndTimestamp(pcommon.NewTimestampFromTime(base) + pcommon.Timestamp(n)*1e6)
				s.Add(td)
			}
			require.NoError(b, s.Close())
		})
	}
}

// What a tick of the page reads, when nothing is new and when something is.
func BenchmarkSince(b *testing.B) {
	s := New(DefaultLimits())
	for n := range 1000 {
		td := request("localhost:8080", 1, time.Duration(n)*time.Second)
		spanOf(td).SetSpanID(pcommon.SpanID{1, byte(n), byte(n >> 8)})
		s.Add(td)
	}
	_, at := s.Since("", 0)
	for name, after := range map[string]Sequence{"nothing": at, "one": at - 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Since("localhost:8080", after)
			}
		})
	}
}
