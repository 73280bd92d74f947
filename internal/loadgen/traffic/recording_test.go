// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func read(t *testing.T, content string, w Window) *Recording {
	t.Helper()
	r, err := Read(strings.NewReader(content), "file", w)
	require.NoError(t, err)
	return r
}

// serverSpan is a span as connector llamacpplog writes it, as far as it matters.
func serverSpan(id string, start time.Duration, slot, input, cached, output int) string {
	return spanOf(2, id, start, slot, input, cached, output)
}

func spanOf(kind int, id string, start time.Duration, slot, input, cached, output int) string {
	return fmt.Sprintf(`{"spanId":%q,"name":"text_completion m","kind":%d,"startTimeUnixNano":"%d","attributes":[`+
		`{"key":"gen_ai.operation.name","value":{"stringValue":"text_completion"}},{"key":"llamacpp.slot.id","value":{"intValue":"%d"}},`+
		`{"key":"gen_ai.usage.input_tokens","value":{"intValue":"%d"}},{"key":"gen_ai.usage.cache_read.input_tokens","value":{"intValue":"%d"}},`+
		`{"key":"gen_ai.usage.output_tokens","value":{"intValue":"%d"}}]}`, id, kind, time.Hour.Nanoseconds()+start.Nanoseconds(), slot, input, cached, output)
}

func batch(instance string, spans ...string) string {
	return fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.instance.id","value":{"stringValue":%q}}]},"scopeSpans":[{"spans":[%s]}]}]}`+"\n",
		instance, strings.Join(spans, ","))
}

func TestRead_WhatTheFileExporterWroteOfARealServer(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "file_exporter.jsonl"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	r, err := Read(f, f.Name(), Window{})
	require.NoError(t, err)
	assert.Equal(t, OTLP, r.Format)
	assert.Equal(t, 2, r.LeftOut, "one was cancelled, one rejected")
	var dues []time.Duration
	for i := range r.Requests {
		dues = append(dues, r.Requests[i].Due)
		r.Requests[i].Due = 0
	}
	// Six prompts of 100 tokens came five times a second, of which half were the same;
	// the chat template adds twenty tokens, and six of them at the start.
	assert.Equal(t, []Request{
		{Input: 120, Cached: 5, Output: 7, From: -1},
		{Input: 120, Cached: 57, Output: 7, From: 0, Shared: 57},
		{Input: 120, Cached: 57, Output: 5, From: 0, Shared: 57},
		{Input: 120, Cached: 57, Output: 6, From: 0, Shared: 57},
		{Input: 120, Cached: 57, Output: 6, From: 0, Shared: 57},
		{Input: 120, Cached: 57, Output: 5, From: 0, Shared: 57},
	}, r.Requests)
	for i, due := range dues {
		assert.InDelta(t, 0.2*float64(i), due.Seconds(), 0.005)
	}
}

func TestRead_OTLPIsPutInOrderOfTimeAndEachSpanTakenOnce(t *testing.T) {
	r := read(t, `{"resourceMetrics":[]}`+"\n"+
		batch("a", serverSpan("02", 5*time.Second, 0, 10, 0, 1), serverSpan("01", 2*time.Second, 1, 20, 0, 2))+"\n"+
		`{"resourceLogs":[{}]}`+"\n"+
		batch("a", serverSpan("01", 2100*time.Millisecond, 1, 20, 0, 2), spanOf(3, "07", 0, 0, 99, 0, 9), spanOf(1, "08", 0, 0, 99, 0, 9)), Window{})
	assert.Equal(t, []Request{{Input: 20, Output: 2, From: -1}, {Due: 3 * time.Second, Input: 10, Output: 1, From: -1}}, r.Requests,
		"the client's spans are those of the same requests")
	r = read(t, batch("a", spanOf(3, "07", 0, 0, 99, 0, 9)), Window{})
	assert.Len(t, r.Requests, 1, "where only clients recorded, theirs are taken")
}

func TestRead_CachedTokensCameFromTheLastRequestInTheSlotThatHadAsMany(t *testing.T) {
	at := func(i int) time.Duration { return time.Duration(i) * time.Second }
	r := read(t, batch("a",
		serverSpan("01", at(0), 0, 100, 0, 50),
		serverSpan("02", at(1), 1, 300, 0, 10),
		serverSpan("03", at(2), 0, 200, 149, 10),                                  // prompt and answer of 0: its prompt can be repeated
		serverSpan("04", at(3), 1, 320, 309, 10),                                  // likewise of 1
		serverSpan("05", at(4), 0, 250, 40, 10),                                   // the beginning of 2, which is that of 0
		serverSpan("06", at(5), 0, 400, 329, 10),                                  // none in this slot is so long: from memory, that of 3
		serverSpan("07", at(6), 2, 50, 20, 10),                                    // the first in this slot: the last that is long enough
		serverSpan("08", at(7), 0, 900, 899, 10),                                  // longer than any: the longest
		serverSpan("09", at(8), 0, 900, 1000, 10),                                 // nonsense
		strings.ReplaceAll(serverSpan("0a", at(9), 2, 0, 0, 0), "usage", "other"), // cancelled
		serverSpan("0b", at(10), 2, 90, 80, 10),                                   // of the cancelled one: what that had in common with 6
	)+batch("b", serverSpan("0c", at(11), 0, 100, 60, 1)), Window{})
	var got [][2]int32
	for _, q := range r.Requests {
		got = append(got, [2]int32{q.From, q.Shared})
	}
	assert.Equal(t, [][2]int32{{-1, 0}, {-1, 0}, {0, 100}, {1, 300}, {0, 40}, {3, 320}, {1, 20}, {5, 400}, {7, 900}, {6, 50}, {9, 60}}, got)
	for i, q := range r.Requests {
		if q.From >= 0 {
			assert.Less(t, int(q.From), i)
			assert.Less(t, r.Requests[q.From].Shared, q.Shared, "finding the beginning of %d takes few steps", i)
		}
	}
}

// The proxy's span begins when the request arrived, and has no slot; the log's is below it.
func TestRead_RequestsThroughAProxyHaveTheSlotOfTheLog(t *testing.T) {
	at := func(i int) time.Duration { return time.Duration(i) * time.Second }
	var direct, proxied []string
	request := func(id string, start time.Duration, slot, input, cached, output int) {
		direct = append(direct, serverSpan(id, start, slot, input, cached, output))
		proxied = append(proxied, strings.Replace(serverSpan(id, start, slot, input, cached, output), "llamacpp.slot.id", "other", 1))
		below := spanOf(1, "f"+id, start+time.Second, slot, input, cached, output)
		proxied = append(proxied, strings.Replace(below, `"name":"text_completion m"`, `"name":"slot","parentSpanId":"`+id+`"`, 1))
	}
	request("01", at(0), 0, 100, 0, 50)
	request("02", at(1), 1, 300, 0, 10)
	request("03", at(2), 0, 200, 149, 10)
	request("04", at(3), 0, 250, 40, 10)
	want := read(t, batch("a", direct...), Window{})
	assert.Equal(t, want, read(t, batch("a", proxied...), Window{}))

	proxied[4] = strings.ReplaceAll(proxied[4], "usage", "other")
	assert.Equal(t, want, read(t, batch("a", proxied...), Window{}), "a client that left does not know what it has used")
}

func TestRead_MooncakesBlocksAreSharedPrefixes(t *testing.T) {
	r := read(t, `{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2353, 2354]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2366]}
{"timestamp": 30535, "input_length": 100, "output_length": 0, "hash_ids": [7]}
{"timestamp": 30536.5, "input_length": 6955, "output_length": 1, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2353, 2354]}
{"timestamp": 30537, "input_length": 700, "output_length": 1}
{"timestamp": 30538, "input_length": 1024, "output_length": 1, "hash_ids": [46, 48]}`, Window{})
	assert.Equal(t, Mooncake, r.Format)
	assert.Equal(t, []Request{
		{Due: 27482 * time.Millisecond, Input: 6955, Output: 52, From: -1},
		{Due: 30535 * time.Millisecond, Input: 6472, Cached: 12 * 512, Output: 26, From: 0, Shared: 12 * 512},
		{Due: 30535 * time.Millisecond, Input: 100, Output: 1, From: -1},
		{Due: 30536500 * time.Microsecond, Input: 6955, Cached: 6954, Output: 1, From: 0, Shared: 6955},
		{Due: 30537 * time.Millisecond, Input: 700, Output: 1, From: -1},
		{Due: 30538 * time.Millisecond, Input: 1024, Cached: 512, Output: 1, From: 0, Shared: 512},
	}, r.Requests, "the last block of a prompt may be shorter")
}

func TestRead_TimesAreSecondsWithoutLengths(t *testing.T) {
	r := read(t, "0\n0.5\n\n2\n", Window{})
	assert.Equal(t, Times, r.Format)
	assert.Equal(t, []Request{{From: -1}, {Due: 500 * time.Millisecond, From: -1}, {Due: 2 * time.Second, From: -1}}, r.Requests)
}

func TestRead_AWindowBeginsAtZeroAndSharesOnlyWithin(t *testing.T) {
	w := Window{From: 10 * time.Second, To: 20 * time.Second}
	var spans []string
	var moon, times strings.Builder
	for i := range 4 {
		at := time.Duration(i) * 8 * time.Second
		spans = append(spans, serverSpan(fmt.Sprintf("%02x", i+1), at, 0, 1000, 100*i, 10))
		fmt.Fprintf(&moon, `{"timestamp":%d,"input_length":1000,"output_length":1,"hash_ids":[1,%d]}`+"\n", at.Milliseconds(), i+2)
		fmt.Fprintln(&times, at.Seconds())
	}
	for _, content := range []string{batch("a", spans...), moon.String(), times.String()} {
		r := read(t, content, w)
		require.Len(t, r.Requests, 1)
		assert.Equal(t, 6*time.Second, r.Requests[0].Due)
		assert.Equal(t, int32(-1), r.Requests[0].From)
	}
	for want, w := range map[string]Window{
		"no request at 1h0m0s or later: want an earlier start":     {From: time.Hour},
		"no request from 1h0m0s to 2h0m0s: want another window":    {From: time.Hour, To: 2 * time.Hour},
		"window from 2s to 1s: want from 0 on, and an end after":   {From: 2 * time.Second, To: time.Second},
		"window from -1s to 0s: want from 0 on, and an end after ": {From: -time.Second},
	} {
		_, err := Read(strings.NewReader(times.String()), "file", w)
		assert.ErrorContains(t, err, want)
	}
}

func TestRead_SaysFileLineCauseAndCure(t *testing.T) {
	const moon = `{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1,2]}` + "\n"
	for content, want := range map[string]string{
		"":                "file: empty: want a recording of requests",
		"hello":           "file:1: no recording of requests: want traces that the Collector's file exporter wrote",
		`{"prompt":"a"}`:  "file:1: no recording of requests",
		"0\n1h":           `file:2: "1h" is no number: want seconds from the start`,
		"2\n1\n":          "file:2: 1 s after 2 s: want times from 0 on, in order",
		"-1":              "file:1: -1 s after 0 s",
		"NaN":             "file:1: NaN s after 0 s",
		moon + moon + "{": "file:3: not JSON: is the line cut off?",
		moon + `{"a":1}`:  `file:2: no "timestamp": want milliseconds`,
		moon + `{"timestamp":4,"input_length":5,"output_length":5}`:                       "file:2: 0.004 s after 0.005 s",
		moon + `{"timestamp":6,"input_length":0,"output_length":5}`:                       `file:2: no "input_length": want 1 token or more`,
		moon + `{"timestamp":6,"input_length":1}`:                                         `file:2: no "output_length": want 0 tokens or more`,
		moon + `{"timestamp":6,"input_length":1024,"output_length":5,"hash_ids":[1,2,3]}`: "file:2: 3 hash_ids for 1024 tokens: want 2 at most, each of 512",
		`{"resourceSpans":[]}` + "\nx":                                                    "file:2: not JSON",
		`{"resourceSpans":[]}`:                                                            "file: no span of a request: want the traces of connector llamacpplog",
		batch("a", strings.ReplaceAll(serverSpan("01", 0, 0, 1, 0, 1), "usage", "other")): "file: none of its 1 requests has lengths: want spans with gen_ai.usage.input_tokens",
	} {
		_, err := Read(strings.NewReader(content), "file", Window{})
		assert.ErrorContains(t, err, want, content)
	}
	_, err := Read(io.MultiReader(strings.NewReader(moon), failing{}), "file", Window{})
	assert.EqualError(t, err, "file: unexpected EOF")
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRecording_ScalesAllLengths(t *testing.T) {
	r := read(t, batch("a", serverSpan("01", 0, 0, 100, 0, 50), serverSpan("02", 1, 0, 200, 100, 1)), Window{})
	assert.Equal(t, 1, r.Longest())
	r.Scale(0.1)
	assert.Equal(t, []Request{{Input: 10, Output: 5, From: -1}, {Due: 1, Input: 20, Cached: 10, Output: 1, From: 0, Shared: 10}}, r.Requests)
	r.Scale(1e9)
	assert.EqualValues(t, maxTokens, r.Requests[0].Input)
}

// generated is a file of n lines that is made while it is read.
type generated struct {
	n, i int
	line func(b []byte, i int) []byte
	buf  bytes.Buffer
}

func (g *generated) Read(p []byte) (int, error) {
	for g.buf.Len() < len(p) && g.i < g.n {
		g.buf.Write(g.line(g.buf.AvailableBuffer(), g.i))
		g.i++
	}
	return g.buf.Read(p)
}

var largeFiles = map[string]func(b []byte, i int) []byte{
	"OTLP": func(b []byte, i int) []byte {
		return append(b, batch("a", serverSpan(fmt.Sprintf("%016x", i+1), time.Duration(i)*time.Millisecond, i%8, 500+i%1000, i%500, 20))...)
	},
	"Mooncake": func(b []byte, i int) []byte {
		return fmt.Appendf(b, `{"timestamp":%d,"input_length":1500,"output_length":10,"hash_ids":[%d,%d,%d]}`+"\n", i, i%10, i%1000, i)
	},
	"times": func(b []byte, i int) []byte { return fmt.Appendf(b, "%d\n", i) },
}

func TestRead_KeepsFewBytesOfARequest(t *testing.T) {
	const n = 30_000
	for name, line := range largeFiles {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r, err := Read(&generated{n: n, line: line}, "file", Window{})
		require.NoError(t, err)
		runtime.GC()
		runtime.ReadMemStats(&after)
		require.Len(t, r.Requests, n)
		assert.Less(t, int(after.HeapAlloc)-int(before.HeapAlloc), 64*n, "%s: a million lines are 64 MB", name)
		runtime.KeepAlive(r)
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 30_000
	for name, line := range largeFiles {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r, err := Read(&generated{n: n, line: line}, "file", Window{})
				require.NoError(b, err)
				require.Len(b, r.Requests, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/request")
		})
	}
}

func FuzzRead(f *testing.F) {
	real, err := os.ReadFile(filepath.Join("testdata", "file_exporter.jsonl"))
	require.NoError(f, err)
	f.Add(real)
	f.Add([]byte("0\n1.5\n1e9"))
	f.Add([]byte(`{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1,"a"]}` + "\n" + `{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1]}`))
	f.Add([]byte(batch("a", serverSpan("01", 0, 0, 100, 0, 50), serverSpan("01", 1, 0, 200, 100, 1), spanOf(3, "x", -5, 1<<40, -1, 1, 2))))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Read(bytes.NewReader(data), "file", Window{})
		if err != nil {
			return
		}
		last := time.Duration(0)
		for i, q := range r.Requests {
			if q.Due < last {
				t.Fatalf("request %d is due at %s, after one at %s", i, q.Due, last)
			}
			last = q.Due
			if r.Format == Times {
				continue
			}
			if q.Input < 1 || q.Output < 1 || q.Cached < 0 || q.Cached > q.Input || q.Shared > q.Input || q.From >= int32(i) || (q.From < 0) != (q.Shared == 0) {
				t.Fatalf("request %d cannot be: %+v", i, q)
			}
			if q.From >= 0 && (q.Shared > r.Requests[q.From].Input || r.Requests[q.From].Shared >= q.Shared) {
				t.Fatalf("request %d does not begin like %d: %+v, %+v", i, q.From, q, r.Requests[q.From])
			}
		}
	})
}
