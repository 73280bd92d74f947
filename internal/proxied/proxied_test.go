// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxied

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	key   = serverresource.Key{Service: "llama-server", Instance: "localhost:8080"}
	other = serverresource.Key{Service: "llama-server", Instance: "localhost:8081"}
	zero  = time.Unix(1_700_000_000, 0)
)

func at(seconds float64) time.Time { return zero.Add(time.Duration(seconds * float64(time.Second))) }

// span names a request in tests.
func span(name string) (id pcommon.SpanID) {
	copy(id[:], name)
	return id
}

func nameOf(id pcommon.SpanID) string {
	b := id[:]
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}

// passed is a request of unknown tokens that a proxy passed on.
func passed(name string, arrived, ended float64, timings string, completed bool) Request {
	return Request{
		Arrived: at(arrived), Ended: at(ended), Timings: timings, Completed: completed,
		InputTokens: -1, OutputTokens: -1, Span: span(name),
	}
}

// tokens gives a request numbers of tokens.
func tokens(r Request, in, out int) Request {
	r.InputTokens, r.OutputTokens = in, out
	return r
}

func cancelled(launched, ended float64) Logged {
	return Logged{Launched: at(launched), Ended: at(ended), InputTokens: -1, OutputTokens: -1}
}

func answered(launched, ended float64, timings string, in, out int) Logged {
	return Logged{Launched: at(launched), Ended: at(ended), Timings: timings, InputTokens: in, OutputTokens: out, Completed: true}
}

// match takes a request without waiting, and returns its name, or "" for none.
func match(r *Reader, l Logged) string {
	found, ok := r.Match(context.Background(), key, l, time.Time{})
	if !ok {
		return ""
	}
	return nameOf(found.Span)
}

func TestMatch(t *testing.T) {
	for name, test := range map[string]struct {
		proxied []Request
		logged  []Logged
		want    []string // of each of logged, what it matches
	}{
		"equal timings, whatever the times are": {
			[]Request{passed("a", 0, 2, "1/1.00ms+1/1.00ms", true)},
			[]Logged{answered(40, 41, "1/1.00ms+1/1.00ms", 5, 1)},
			[]string{"a"},
		},
		"other timings at the same time": {
			[]Request{passed("a", 0, 2, "1/1.00ms+1/1.00ms", true)},
			[]Logged{answered(1, 2, "1/1.00ms+1/1.01ms", 1, 1)},
			[]string{""},
		},
		"each only once": {
			[]Request{passed("a", 0, 2, "x", true), passed("b", 1, 3, "", false)},
			[]Logged{answered(1, 2, "x", 1, 1), answered(1, 2, "x", 1, 1), cancelled(1, 3), cancelled(1, 3)},
			[]string{"a", "", "b", ""},
		},
		"of equal timings the nearest end": {
			[]Request{passed("a", 0, 2, "x", true), passed("b", 0, 3, "x", true), passed("c", 0, 4, "x", true)},
			[]Logged{answered(1, 3.02, "x", 1, 1), answered(1, 4.02, "x", 1, 1), answered(1, 2.02, "x", 1, 1)},
			[]string{"b", "c", "a"},
		},
		"of equal timings and ends not one that came after the launch": {
			[]Request{passed("late", 5, 6, "x", true), passed("a", 0, 6, "x", true)},
			[]Logged{answered(1, 6, "x", 1, 1)},
			[]string{"a"},
		},
		"timings go before times": {
			[]Request{passed("cut", 0, 3, "", false), passed("a", 0, 2, "x", true)},
			[]Logged{answered(1, 3, "x", 1, 1)},
			[]string{"a"},
		},
		"an answer without timings by its end": {
			[]Request{passed("a", 0, 2, "", true), passed("b", 0, 2.5, "", true)},
			[]Logged{answered(1, 2.51, "x", 1, 1), answered(1, 2.01, "y", 1, 1)},
			[]string{"b", "a"},
		},
		"an answer without timings by its tokens": {
			[]Request{tokens(passed("a", 0, 2, "", true), 7, 9), tokens(passed("b", 0, 2.2, "", true), 7, 8)},
			[]Logged{answered(1, 2.2, "x", 7, 9), answered(1, 2, "y", -1, 8)},
			[]string{"a", "b"},
		},
		"an answer with other tokens is another one": {
			[]Request{tokens(passed("a", 0, 2, "", true), 7, 9), tokens(passed("b", 0, 2, "", true), 6, 8)},
			[]Logged{answered(1, 2, "x", 7, 8)},
			[]string{""},
		},
		"an answer without timings that ended at another time": {
			[]Request{passed("a", 0, 2, "", true)},
			[]Logged{answered(1, 3.1, "x", 1, 1), answered(1, 0.9, "x", 1, 1)},
			[]string{"", ""},
		},
		"what came to the proxy after the launch": {
			[]Request{passed("a", 1.2, 2, "", false), passed("b", 1.2, 2, "", true)},
			[]Logged{cancelled(1, 2), answered(1, 2, "x", 1, 1)},
			[]string{"", ""},
		},
		"the log's file is a little old": {
			[]Request{passed("a", 1.05, 2, "", false)},
			[]Logged{cancelled(1, 2)},
			[]string{"a"},
		},
		"a client left during its prompt": {
			[]Request{passed("a", 0, 2, "", false)},
			[]Logged{cancelled(1, 30)},
			[]string{"a"},
		},
		"a client left before the slot was free": {
			[]Request{passed("a", 0, 2, "", false)},
			[]Logged{cancelled(20, 20.1)},
			[]string{"a"},
		},
		"a client left, and the server was done before it knew": {
			[]Request{passed("a", 0, 2, "", false)},
			[]Logged{answered(1, 2.9, "x", 1, 1)},
			[]string{"a"},
		},
		"a client that has left has not got another answer": {
			[]Request{passed("a", 0, 2, "", false)},
			[]Logged{answered(1, 3.1, "x", 1, 1), answered(1, 1.9, "y", 1, 1), answered(2.1, 2.9, "z", 1, 1)},
			[]string{"", "", ""},
		},
		"a request that ended in the log before it did at the proxy": {
			[]Request{passed("a", 0, 9, "", false)},
			[]Logged{cancelled(1, 5), cancelled(1, 8.5)},
			[]string{"", "a"},
		},
		"the outcome goes before the time": {
			[]Request{passed("left", 0, 2, "", false), passed("done", 0, 2.3, "", true)},
			[]Logged{cancelled(1, 2.4), answered(1, 2.2, "x", 1, 1)},
			[]string{"left", "done"},
		},
		"all clients left at once: the first to arrive had the slots": {
			[]Request{passed("c", 0.2, 5.002, "", false), passed("a", 0, 5.001, "", false), passed("b", 0.1, 5, "", false)},
			[]Logged{cancelled(1, 5.1), cancelled(2, 5.1), cancelled(6, 6)},
			[]string{"a", "b", "c"},
		},
		"timings of a part of the answer": {
			[]Request{passed("a", 0, 2, "1/1.00ms+3/1.00ms", false)},
			[]Logged{cancelled(1, 2.1)},
			[]string{"a"},
		},
		"an embedding has no answer's tokens": {
			[]Request{tokens(passed("answer", 0, 2, "", true), 5, 7), tokens(passed("vector", 0, 2.4, "", true), 5, 0)},
			[]Logged{answered(1, 2, "", -1, 0), answered(1, 2.4, "x", 5, 7)},
			[]string{"vector", "answer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reader{newRegistry()}
			for _, p := range test.proxied {
				r.in.begin(key, p.Arrived).End(p, true)
			}
			var got []string
			for _, l := range test.logged {
				got = append(got, match(r, l))
			}
			assert.Equal(t, test.want, got)
			reader := &Reader{r.in}
			for i, l := range test.logged { // the others' claims are not its own
				assert.Equal(t, test.want[i], match(reader, l))
			}
		})
	}
}

func TestMatch_OtherServersAndUnmeasuredRequestsAreNone(t *testing.T) {
	r := &Reader{newRegistry()}
	l := answered(1, 2, "x", 1, 1)
	r.in.begin(other, at(0)).End(passed("a", 0, 2, "x", true), true)
	assert.Empty(t, match(r, l))
	r.in.begin(key, at(0)).End(passed("b", 0, 2, "x", true), false)
	assert.Empty(t, match(r, l))
	moved := r.in.begin(other, at(0))
	moved.Move(key)
	moved.End(passed("c", 0, 2, "x", true), true)
	moved.End(passed("again", 0, 2, "x", true), true)
	moved.Move(other)
	assert.Equal(t, "c", match(r, l))
	assert.Empty(t, match(r, l))
}

// A proxy and two readers at once: each reader takes each request once, though
// all have as many tokens.
func TestMatch_ConcurrentRequestsOfEqualTokens(t *testing.T) {
	for name, test := range map[string]struct {
		timings func(i int) bool // the answer of i has some
		after   bool             // the log is read after the end
	}{
		"with timings":                  {func(int) bool { return true }, false},
		"without timings":               {func(int) bool { return false }, false},
		"with and without, a late log":  {func(i int) bool { return i%2 == 0 }, true},
		"without timings, and late too": {func(int) bool { return false }, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRegistry()
			readers := []*Reader{{g}, {g}}
			const n = 300
			var all sync.WaitGroup
			taken := make([]sync.Map, len(readers))
			start := time.Now()
			for i := range n {
				all.Go(func() {
					name := strconv.Itoa(i)
					r := Request{Arrived: start, InputTokens: 8, OutputTokens: 8, Completed: true, Span: span(name)}
					if test.timings(i) {
						r.Timings = name
					}
					o := g.begin(other, start)
					o.Move(key)
					time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
					r.Ended = time.Now()
					if test.after {
						o.End(r, true)
					}
					for j, reader := range readers {
						all.Go(func() {
							l := Logged{Launched: start, Ended: r.Ended, Timings: name, InputTokens: 8, OutputTokens: 8, Completed: true}
							found, ok := reader.Match(t.Context(), key, l, r.Ended.Add(10*time.Second))
							if !assert.True(t, ok, name) {
								return
							}
							_, twice := taken[j].LoadOrStore(found.Span, true)
							assert.False(t, twice, "%s was taken twice", nameOf(found.Span))
							if r.Timings != "" {
								assert.Equal(t, name, nameOf(found.Span))
							}
						})
					}
					o.End(r, true)
				})
			}
			all.Wait()
			assert.Empty(t, match(readers[0], Logged{Launched: start, Ended: time.Now(), InputTokens: -1, OutputTokens: -1, Completed: true}))
		})
	}
}

func TestMatch_WaitsForARequestThatIsOpen(t *testing.T) {
	l := Logged{Timings: "x", InputTokens: -1, OutputTokens: -1, Completed: true}
	// in is after how long Match came back, and with what.
	in := func(g *registry, ctx context.Context) (time.Duration, string) {
		start := time.Now()
		found, _ := (&Reader{g}).Match(ctx, key, l, start.Add(100*time.Millisecond))
		return time.Since(start), nameOf(found.Span)
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, g *registry)
		took   time.Duration
		want   string
	}{
		"until it ends": {func(_ *testing.T, g *registry) {
			o, not := g.begin(key, l.Launched), g.begin(key, l.Launched)
			time.AfterFunc(20*time.Millisecond, func() { not.End(Request{Timings: "y", Completed: true}, true) })
			time.AfterFunc(30*time.Millisecond, func() { o.End(Request{Timings: "x", Span: span("a")}, true) })
		}, 30 * time.Millisecond, "a"},
		"though there is another one that may be it": {func(_ *testing.T, g *registry) {
			o, doubtful := g.begin(key, l.Launched), g.begin(key, l.Launched)
			doubtful.End(Request{Arrived: l.Launched, Ended: l.Ended.Add(500 * time.Millisecond), Completed: true, Span: span("b")}, true)
			time.AfterFunc(30*time.Millisecond, func() { o.End(Request{Timings: "x", Span: span("a")}, true) })
		}, 30 * time.Millisecond, "a"},
		"and takes that one at last": {func(t *testing.T, g *registry) {
			t.Helper()
			o, doubtful := g.begin(key, l.Launched), g.begin(key, l.Launched)
			doubtful.End(Request{Arrived: l.Launched, Ended: l.Ended.Add(500 * time.Millisecond), InputTokens: -1, OutputTokens: -1, Completed: true, Span: span("b")}, true)
			t.Cleanup(func() { o.End(Request{}, false) })
		}, 100 * time.Millisecond, "b"},
		"not where another one surely is it": {func(t *testing.T, g *registry) {
			t.Helper()
			o, sure := g.begin(key, l.Launched), g.begin(key, l.Launched)
			sure.End(Request{Arrived: l.Launched, Ended: l.Ended, InputTokens: -1, OutputTokens: -1, Completed: true, Span: span("b")}, true)
			t.Cleanup(func() { o.End(Request{}, false) })
		}, 0, "b"},
		"but not for ever": {func(t *testing.T, g *registry) {
			t.Helper()
			o := g.begin(key, l.Launched)
			t.Cleanup(func() { o.End(Request{}, false) })
		}, 100 * time.Millisecond, ""},
		"until none is open that can be it": {func(t *testing.T, g *registry) {
			t.Helper()
			ends, moves := g.begin(key, l.Launched), g.begin(key, l.Launched)
			later := g.begin(key, l.Launched.Add(time.Second))
			time.AfterFunc(10*time.Millisecond, func() { ends.End(Request{}, false) })
			time.AfterFunc(20*time.Millisecond, func() { moves.Move(other) })
			t.Cleanup(func() { moves.End(Request{}, false); later.End(Request{}, false) })
		}, 20 * time.Millisecond, ""},
		"not for one that arrived after the launch": {func(t *testing.T, g *registry) {
			t.Helper()
			o := g.begin(key, l.Launched.Add(time.Second))
			t.Cleanup(func() { o.End(Request{}, false) })
		}, 0, ""},
		"not for one of another server": {func(t *testing.T, g *registry) {
			t.Helper()
			o := g.begin(other, l.Launched)
			t.Cleanup(func() { o.End(Request{}, false) })
		}, 0, ""},
		"not where nothing is open": {func(_ *testing.T, g *registry) {
			g.begin(key, l.Launched).End(Request{Timings: "y", Completed: true}, true)
		}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRegistry()
				l.Launched, l.Ended = time.Now(), time.Now()
				test.before(t, g)
				took, got := in(g, t.Context())
				assert.Equal(t, test.took, took)
				assert.Equal(t, test.want, got)
			})
		})
	}
	t.Run("nor after its caller gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newRegistry()
			l.Launched = time.Now()
			o := g.begin(key, l.Launched)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			took, _ := in(g, ctx)
			assert.Equal(t, 5*time.Millisecond, took)
			o.End(Request{}, false)
		})
	})
}

// kept is how many requests are remembered, the same in all lists.
func kept(t *testing.T, g *registry) (n int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, s := range g.servers {
		require.Equal(t, k, s.key)
		timed := 0
		for _, same := range s.timed {
			require.NotEmpty(t, same)
			timed += len(same)
		}
		require.GreaterOrEqual(t, timed+s.whole.Len()+s.cut.Len(), s.ended.Len())
		require.LessOrEqual(t, max(timed, s.whole.Len()+s.cut.Len()), s.ended.Len())
		n += s.ended.Len()
	}
	require.Equal(t, g.ended.Len(), n)
	return n
}

func TestMemory_IsForgottenAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRegistry()
		g.begin(other, time.Now()).End(Request{Timings: "x", Completed: true}, true)
		open := g.begin(key, time.Now())
		for range 3 {
			g.begin(key, time.Now()).End(Request{}, true)
			time.Sleep(25 * time.Second)
		}
		synctest.Wait()
		assert.Equal(t, 2, kept(t, g))
		assert.NotContains(t, g.servers, other)
		time.Sleep(memory)
		synctest.Wait()
		assert.Zero(t, kept(t, g))
		assert.Contains(t, g.servers, key, "a request is open")
		open.End(Request{}, false)
		assert.Empty(t, g.servers)
		time.Sleep(memory)
		synctest.Wait()
		assert.False(t, g.armed)
	})
}

func TestMemory_IsBounded(t *testing.T) {
	g := newRegistry()
	for i := range maxOfServer + 10 {
		g.begin(key, zero).End(passed("", 0, 1, strconv.Itoa(i), true), true)
	}
	assert.Equal(t, maxOfServer, kept(t, g))
	r := &Reader{g}
	_, old := r.Match(t.Context(), key, answered(0, 1, "8", 1, 1), time.Time{})
	assert.False(t, old, "the oldest go first")
	for i := range 2 * maxOfAll {
		k := serverresource.Key{Service: "s", Instance: strconv.Itoa(i % 100)}
		g.begin(k, zero).End(passed("", 0, 1, "", true), true)
	}
	assert.Equal(t, maxOfAll, kept(t, g))
	assert.NotContains(t, g.servers, key)
	for i := range maxOfAll {
		g.begin(serverresource.Key{Instance: strconv.Itoa(i)}, zero).End(Request{}, false)
	}
	assert.Len(t, g.servers, 100, "nothing stays of servers without requests")
}

func TestProcess_IsOne(t *testing.T) {
	mine := serverresource.Key{Service: "s", Instance: strconv.FormatInt(time.Now().UnixNano(), 10)} // of this run
	assert.False(t, Knows(mine))
	o := Begin(mine, at(0))
	assert.True(t, Knows(mine))
	o.End(passed("a", 0, 1, "x", true), true)
	assert.True(t, Knows(mine))
	for range 2 {
		found, ok := NewReader().Match(t.Context(), mine, answered(0, 1, "x", 1, 1), time.Time{})
		assert.True(t, ok)
		assert.Equal(t, span("a"), found.Span)
	}
}

func BenchmarkBeginEnd(b *testing.B) {
	for _, timings := range []string{"24/1.38ms+8/1.42ms", ""} {
		b.Run("timings="+strconv.FormatBool(timings != ""), func(b *testing.B) {
			g := newRegistry()
			r := passed("a", 0, 1, timings, true)
			for range 100 { // as many are under way
				g.begin(key, zero)
			}
			b.ReportAllocs()
			for i := range b.N {
				if timings != "" {
					r.Timings = strconv.Itoa(i)
				}
				g.begin(key, zero).End(r, true)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, bb := range []struct {
		name, timings string
		key           serverresource.Key
		found         bool
	}{
		{"no_proxy", "2000", other, false},
		{"by_timings", "2000", key, true},
		{"by_times", "none", key, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			g := newRegistry()
			for i := range maxOfServer { // in a minute
				r := passed("a", 0, float64(i)*60/maxOfServer, strconv.Itoa(i), true)
				if i%2 == 1 {
					r.Timings = ""
				}
				g.begin(key, zero).End(r, true)
			}
			l := answered(10, 40, bb.timings, 1, 1)
			b.ReportAllocs()
			r := &Reader{g}
			for b.Loop() {
				e, _ := r.try(bb.key, &l, false)
				if (e != nil) != bb.found {
					b.Fatal(e)
				}
				if e != nil {
					e.claimed = e.claimed[:0]
				}
			}
		})
	}
}
