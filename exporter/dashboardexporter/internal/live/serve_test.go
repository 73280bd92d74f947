// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
)

// watched returns a store that has points until some time from now, and a server of
// the Hub on it.
func watched(t *testing.T, change func(*Settings)) (*prometheus, *Hub, string) {
	t.Helper()
	p := newPrometheus(t)
	now := time.Now().Truncate(time.Second)
	p.add(t, status, now.Add(-time.Minute), time.Second, repeat(1, 120)...)
	p.add(t, queue, now.Add(-time.Minute), time.Second, repeat(3, 120)...)
	h := newHub(t, p, change)
	server := httptest.NewServer(h)
	// The Hub first: the server waits for its streams.
	t.Cleanup(server.Close)
	t.Cleanup(h.Close)
	return p, h, server.URL
}

func get(t *testing.T, url string) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.Get(url)
	require.NoError(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, r.Header, body
}

// event is one of a stream.
type event struct{ name, id, data string }

// stream reads events of a stream until the test ends.
type stream struct {
	tb     testing.TB
	lines  *bufio.Scanner
	header http.Header
}

func open(t *testing.T, url string, header http.Header) *stream {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	for name := range header {
		q.Header.Set(name, header.Get(name))
	}
	r, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Body.Close() })
	require.Equal(t, http.StatusOK, r.StatusCode)
	s := &stream{tb: t, lines: bufio.NewScanner(r.Body), header: r.Header}
	s.lines.Buffer(nil, 1<<20)
	return s
}

// next returns the next event, and an empty one at the end.
func (s *stream) next() event {
	var e event
	for s.lines.Scan() {
		name, text, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "event":
			e.name = text
		case "id":
			e.id = text
		case "data":
			e.data = text
		case "":
			return e
		}
	}
	return event{}
}

func (s *stream) frame() frame {
	s.tb.Helper()
	e := s.next()
	require.Equal(s.tb, "frame", e.name)
	var one frame
	require.NoError(s.tb, json.Unmarshal([]byte(e.data), &one))
	require.Equal(s.tb, strconv.FormatUint(one.Seq, 10), e.id)
	return one
}

func TestCatalogue(t *testing.T) {
	_, _, url := watched(t, func(s *Settings) { s.Loadgen = true })
	status, header, body := get(t, url+"/live/catalogue")
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "application/json", header.Get("Content-Type"))
	var c map[string]any
	require.NoError(t, json.Unmarshal(body, &c))
	assert.Equal(t, "v1", c["version"])
	assert.Equal(t, true, c["loadgen"])
	assert.InEpsilon(t, 1000, c["tick_ms"], 0)
	assert.Len(t, c["panels"], 5)
}

func TestServers(t *testing.T) {
	_, _, url := watched(t, nil)
	status, _, body := get(t, url+"/live/servers")
	assert.Equal(t, http.StatusOK, status)
	var s struct{ Servers []shownServer }
	require.NoError(t, json.Unmarshal(body, &s))
	require.Len(t, s.Servers, 1)
	assert.Equal(t, "a:1", s.Servers[0].ID)
	assert.Equal(t, map[string]any{"state": "ok", "queue": 3.}, s.Servers[0].Values)
}

func TestSnapshot_IsCompressedForThoseWhoCanTakeIt(t *testing.T) {
	_, _, url := watched(t, nil)
	for accept, want := range map[string]string{
		"gzip": "gzip", "deflate, GZIP;q=0.5": "gzip", "gzip;q=0": "", "": "", "identity": "",
	} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/live/snapshot", http.NoBody)
		require.NoError(t, err)
		q.Header.Set("Accept-Encoding", accept)
		r, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		assert.Equal(t, want, r.Header.Get("Content-Encoding"), accept)
		assert.Equal(t, "Accept-Encoding", r.Header.Get("Vary"))
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		if want == "" {
			decodeWindow(t, body)
		} else {
			assert.Equal(t, []byte{0x1f, 0x8b}, body[:2])
		}
	}
}

func TestServe_BadParameters(t *testing.T) {
	_, _, url := watched(t, nil)
	for path, want := range map[string]string{
		"/live/snapshot?window=1":   `window is "1": want a whole number from 10 to 86400`,
		"/live/snapshot?seq=1":      `"seq": there is no such parameter here: want server, gpu, window, points, end, panels`,
		"/live/stream?end=1":        `"end": there is no such parameter here: want server, gpu, window, points, seq`,
		"/live/catalogue?version=1": `"version": there is no such parameter here: want none`,
		"/live/servers?server=a":    `"server": there is no such parameter here: want none`,
	} {
		status, _, body := get(t, url+path)
		assert.Equal(t, http.StatusBadRequest, status)
		var problem problemJSON
		require.NoError(t, json.Unmarshal(body, &problem))
		assert.Equal(t, want, problem.Error)
	}
}

func TestStream_GoesOnFromASnapshot(t *testing.T) {
	requests := recentRequests{{ID: "1", Server: "a:1", End: time.Now().UnixMilli()}}
	_, _, url := watched(t, func(s *Settings) {
		s.Tick = 20 * time.Millisecond
		s.Requests = requests
	})
	_, _, body := get(t, url+"/live/snapshot?window=60")
	s := decodeWindow(t, body)
	assert.Equal(t, "v1", s.Version)
	require.Len(t, s.Requests, 1)
	time.Sleep(100 * time.Millisecond)

	live := open(t, fmt.Sprintf("%s/live/stream?window=60&seq=%d", url, s.Seq), nil)
	assert.Equal(t, "text/event-stream", live.header.Get("Content-Type"))
	assert.Empty(t, live.header.Get("Content-Encoding"))
	hello := live.next()
	assert.Equal(t, "hello", hello.name)
	assert.Contains(t, hello.data, `"version":"v1"`)
	for i := range uint64(10) {
		one := live.frame()
		assert.Equal(t, s.Seq+1+i, one.Seq, "no frame is left out")
		assert.Equal(t, new(3.), one.Panels["queue"][0].Value)
		assert.GreaterOrEqual(t, one.Bucket, s.Start+int64(s.Points-1)*s.Step)
	}
}

// recentRequests are there from the beginning.
type recentRequests []recent.Request

func (r recentRequests) Since(string, recent.Sequence) ([]recent.Request, recent.Sequence) {
	return nil, recent.Sequence(len(r))
}
func (r recentRequests) Last(_ string, n int) []recent.Request { return r[:min(n, len(r))] }

func TestStream_ABrowserThatComesBackGoesOnWhereItWas(t *testing.T) {
	_, _, url := watched(t, func(s *Settings) { s.Tick = 20 * time.Millisecond })
	one := open(t, url+"/live/stream", nil)
	one.next()
	seen := one.frame().Seq
	for range 5 {
		one.frame()
	}
	again := open(t, url+"/live/stream?seq=1", http.Header{"Last-Event-Id": {strconv.FormatUint(seen, 10)}})
	again.next()
	assert.Equal(t, seen+1, again.frame().Seq)
}

func TestStream_WhoIsLostFetchesANewSnapshot(t *testing.T) {
	_, _, url := watched(t, func(s *Settings) { s.Tick = 20 * time.Millisecond })
	for _, seq := range []string{"17", "9007199254740992"} {
		s := open(t, url+"/live/stream?seq="+seq, nil)
		s.next()
		assert.Equal(t, event{name: "resync", data: "{}"}, s.next())
		s.frame() // and goes on
	}
}

// slowClient takes nothing until it is released.
type slowClient struct {
	*httptest.ResponseRecorder
	blocked, released chan struct{}
	once              sync.Once

	mu        sync.Mutex
	deadlines int
	text      strings.Builder
}

func (s *slowClient) SetWriteDeadline(time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadlines++
	return nil
}

func (s *slowClient) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "event: frame") {
		s.once.Do(func() { close(s.blocked) })
		<-s.released
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func TestStream_ASlowClientHoldsNobodyUp(t *testing.T) {
	_, h, url := watched(t, func(s *Settings) { s.Tick = 5 * time.Millisecond })
	slow := &slowClient{ResponseRecorder: httptest.NewRecorder(), blocked: make(chan struct{}), released: make(chan struct{})}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		h.ServeHTTP(slow, httptest.NewRequestWithContext(ctx, http.MethodGet, "/live/stream", http.NoBody))
	}()
	<-slow.blocked
	quick := open(t, url+"/live/stream", nil)
	quick.next()
	for range 2 * ringSize {
		quick.frame()
	}
	close(slow.released)
	require.Eventually(t, func() bool {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return strings.Contains(slow.text.String(), "event: resync") && strings.HasSuffix(slow.text.String(), "\n\n")
	}, 10*time.Second, 5*time.Millisecond)
	leave()
	<-left
	slow.mu.Lock()
	defer slow.mu.Unlock()
	assert.Positive(t, slow.deadlines)
	assert.Equal(t, 1, strings.Count(strings.Split(slow.text.String(), "event: resync")[0], "event: frame"), "nothing was kept for it")
}

func TestStream_FiftyViewersCostWhatOneCosts(t *testing.T) {
	p, _, url := watched(t, func(s *Settings) { s.Tick = 50 * time.Millisecond })
	count := func(viewers int) (perFrame float64) {
		var all sync.WaitGroup
		ctx, leave := context.WithCancel(t.Context())
		defer all.Wait()
		defer leave()
		first := open(t, url+"/live/stream", nil)
		for range viewers - 1 {
			all.Go(func() {
				q, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/live/stream", http.NoBody)
				if r, err := http.DefaultClient.Do(q); assert.NoError(t, err) {
					_, _ = io.Copy(io.Discard, r.Body)
					_ = r.Body.Close()
				}
			})
		}
		first.next()
		first.frame()
		from, began := p.instants.Load()+p.ranges.Load(), first.frame().Seq
		var last uint64
		for range 20 {
			last = first.frame().Seq
		}
		return float64(p.instants.Load()+p.ranges.Load()-from) / float64(last-began)
	}
	one := count(1)
	fifty := count(50)
	assert.Positive(t, one)
	assert.InDelta(t, one, fifty, 0.2*one)
}

func TestSnapshot_IsEvaluatedOnceBetweenTwoFrames(t *testing.T) {
	p, h, url := watched(t, func(s *Settings) { s.Tick = time.Hour })
	get(t, url+"/live/snapshot")
	before := p.ranges.Load()
	for range 20 {
		get(t, url+"/live/snapshot")
	}
	assert.Equal(t, before, p.ranges.Load())
	assert.Len(t, h.feeds, 1)
}

func TestSnapshot_ACostlyOneIsGoodForSomeFrames(t *testing.T) {
	p, _, url := watched(t, func(s *Settings) { s.Tick = 50 * time.Millisecond })
	live := open(t, url+"/live/stream?window=60", nil)
	live.next()
	live.frame()
	p.delay.Store(int64(4 * time.Millisecond))
	_, _, body := get(t, url+"/live/snapshot?window=60")
	p.delay.Store(0)
	one := decodeWindow(t, body)
	for seq := uint64(0); seq <= one.Seq; {
		seq = live.frame().Seq
	}
	live.frame()
	_, _, body = get(t, url+"/live/snapshot?window=60")
	assert.Equal(t, one.Seq, decodeWindow(t, body).Seq)

	again := open(t, fmt.Sprintf("%s/live/stream?window=60&seq=%d", url, one.Seq), nil)
	again.next()
	assert.Equal(t, one.Seq+1, again.frame().Seq)
}

// A file has no frames that would bring it up to date.
func TestSnapshot_OfAFileIsOfNow(t *testing.T) {
	rules := &firing{}
	_, h, url := watched(t, func(s *Settings) { s.Tick, s.Rules = time.Hour, rules })
	get(t, url+"/live/snapshot?window=60") // is kept, as there are no frames
	rules.set(Rule{Name: "Queue", Labels: map[string]string{"kind": "bottleneck", "instance": "a:1"}, Since: noon})
	body, err := h.Snapshot(t.Context(), "window=60")
	require.NoError(t, err)
	assert.Contains(t, string(body), `"Queue"`)
	_, err = h.Snapshot(t.Context(), "window=x")
	assert.True(t, IsBadQuery(err))
}

func TestSnapshot_TheFirstPanelsCanComeFirst(t *testing.T) {
	p, h, url := watched(t, func(s *Settings) { s.Tick = time.Hour })
	_, _, body := get(t, url+"/live/snapshot?window=3600")
	whole := decodeWindow(t, body)
	assert.NotContains(t, string(body), `"partial"`)
	before := p.ranges.Load()
	_, _, body = get(t, url+"/live/snapshot?window=3600&panels=1")
	part := decodeWindow(t, body)
	assert.Contains(t, string(body), `"partial":true`)
	require.Greater(t, len(h.settings.Catalogue.Panels), 1)
	first := h.settings.Catalogue.Panels[0].ID
	assert.Len(t, part.Panels, 1)
	assert.Equal(t, whole.Panels[first].Series, part.Panels[first].Series)
	assert.Equal(t, whole.Seq, part.Seq)
	for id, tile := range part.Tiles {
		assert.Equal(t, whole.Tiles[id].Value, tile.Value, id)
		assert.Empty(t, tile.Spark, id)
	}
	assert.LessOrEqual(t, p.ranges.Load()-before, int64(3), "what is not asked for is not evaluated")
}

func TestSnapshot_OfThePast(t *testing.T) {
	p := newPrometheus(t)
	p.add(t, status, noon, time.Second, repeat(1, 600)...)
	p.add(t, queue, noon, time.Second, ramp(600)...)
	h := newHub(t, p, nil)
	server := httptest.NewServer(h)
	defer server.Close()
	_, _, body := get(t, fmt.Sprintf("%s/live/snapshot?window=60&end=%d", server.URL, after(5*time.Minute).UnixMilli()))
	s := decodeWindow(t, body)
	assert.Equal(t, "a:1", s.Server)
	assert.Equal(t, after(4*time.Minute).UnixMilli(), s.Start)
	assert.Equal(t, 60, s.Points)
	values := s.Panels["queue"].Series[0].Values
	require.Len(t, values, 60)
	assert.Equal(t, new(241.), values[0])
	assert.Equal(t, new(300.), values[59])
	assert.Equal(t, new(300.), s.Tiles["queue"].Value)
	assert.Empty(t, h.feeds)
}

func ramp(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = float64(i)
	}
	return values
}

func TestServe_Limits(t *testing.T) {
	_, h, url := watched(t, func(s *Settings) { s.Views, s.Streams = 2, 3 })
	open(t, url+"/live/stream?server=a", nil)
	open(t, url+"/live/stream?server=b", nil)
	code, header, body := get(t, url+"/live/stream?server=c")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Equal(t, "10", header.Get("Retry-After"))
	assert.Contains(t, string(body), "too many views")
	code, _, body = get(t, url+"/live/snapshot?server=c")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Contains(t, string(body), "too many views")
	open(t, url+"/live/stream?server=a", nil)
	code, _, body = get(t, url+"/live/stream?server=a")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Contains(t, string(body), "3 pages are watching")
	assert.Len(t, h.feeds, 2)
}

func TestServe_AViewThatNobodyWatchesGivesWay(t *testing.T) {
	_, h, url := watched(t, func(s *Settings) { s.Views = 2 })
	for _, server := range []string{"a", "b", "c", "d"} {
		code, _, _ := get(t, url+"/live/snapshot?server="+server)
		assert.Equal(t, http.StatusOK, code)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	assert.Len(t, h.feeds, 2)
	assert.Contains(t, h.feeds, viewKey{"d", "", time.Second})
}

func TestFeed_EndsAfterItsLastViewer(t *testing.T) {
	_, h, _ := watched(t, nil)
	f, err := h.acquire(wish{step: time.Second})
	require.NoError(t, err)
	assert.False(t, f.abandoned(time.Now().Add(time.Hour)), "somebody watches")
	h.release(f)
	assert.False(t, f.abandoned(time.Now().Add(linger-time.Second)))
	assert.True(t, f.abandoned(time.Now().Add(linger+time.Second)))
	assert.Empty(t, h.feeds)
}

func TestClose_SaysGoodbye(t *testing.T) {
	_, h, url := watched(t, nil)
	s := open(t, url+"/live/stream", nil)
	s.next()
	h.Close()
	e := s.next()
	for e.name == "frame" {
		e = s.next()
	}
	assert.Equal(t, event{name: "gone", data: "{}"}, e)
	assert.Equal(t, event{}, s.next(), "the stream has ended")
	for _, path := range []string{"/live/stream", "/live/snapshot", "/live/snapshot?end=1"} {
		code, _, body := get(t, url+path)
		assert.Equal(t, http.StatusServiceUnavailable, code)
		assert.Contains(t, string(body), errClosed.Error())
	}
}

func TestFeed_SlowEvaluationSkipsTicks(t *testing.T) {
	p, h, url := watched(t, func(s *Settings) { s.Tick = 10 * time.Millisecond })
	s := open(t, url+"/live/stream", nil)
	s.next()
	s.frame()
	p.delay.Store(int64(5 * time.Millisecond))
	s.frame()
	from, before := p.instants.Load(), s.frame()
	next := s.frame()
	for next.Seq < before.Seq+3 {
		next = s.frame()
	}
	assert.Less(t, p.instants.Load()-from, int64(200), "ticks do not pile up")
	assert.Greater(t, next.Now-before.Now, int64(30), "ticks are skipped")
	assert.LessOrEqual(t, len(h.evaluating), evaluations)
}

func TestStream_APointIsShownWithoutWaitingForTheClock(t *testing.T) {
	p, h, url := watched(t, func(s *Settings) { s.Tick = time.Hour })
	live := open(t, url+"/live/stream?window=60", nil)
	live.next()
	var waited []time.Duration
	for i := range 10 {
		now := time.Now()
		p.add(t, `hw_temperature_celsius{hw_id="GPU-1"}`, now, 0, float64(i))
		h.Arrived(map[string]int64{"hw_temperature_celsius": now.UnixMilli()})
		one := live.frame()
		waited = append(waited, time.Since(now))
		require.Len(t, one.Panels["gpu"], 1)
		assert.Equal(t, new(float64(i)), one.Panels["gpu"][0].Value)
		assert.NotContains(t, one.Panels, "queue", "it does not depend on what arrived")
	}
	slices.Sort(waited)
	t.Log(waited)
	assert.Less(t, waited[5], 250*time.Millisecond)
}

func TestStream_ARequestThatEndsIsShownAtOnce(t *testing.T) {
	store := recent.New(recent.DefaultLimits())
	_, h, url := watched(t, func(s *Settings) { s.Tick, s.Requests = time.Hour, store })
	live := open(t, url+"/live/stream?window=60&server=a:1", nil)
	live.next()
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "llama-server")
	rs.Resource().Attributes().PutStr("service.instance.id", "a:1")
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetSpanID([8]byte{1})
	span.SetName("chat")
	span.Attributes().PutStr("gen_ai.operation.name", "chat")
	span.SetKind(ptrace.SpanKindServer)
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Second)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	require.Equal(t, 1, store.Add(td))
	h.Arrived(nil)
	one := live.frame()
	require.Len(t, one.Requests, 1)
	assert.Empty(t, one.Panels)
}

func TestStream_TwoHundredViewersCostWhatOneCosts(t *testing.T) {
	p, h, url := watched(t, func(s *Settings) { s.Tick = time.Hour })
	first := open(t, url+"/live/stream", nil)
	first.next()
	count := func() int64 {
		before := p.instants.Load() + p.ranges.Load()
		h.Arrived(map[string]int64{"llamacpp_requests_deferred": time.Now().UnixMilli()})
		assert.Equal(t, new(3.), first.frame().Panels["queue"][0].Value)
		return p.instants.Load() + p.ranges.Load() - before
	}
	count() // what is evaluated once
	one := count()
	assert.Positive(t, one)
	var all sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	defer all.Wait()
	defer leave()
	var got atomic.Int64
	for range 199 {
		all.Go(func() {
			q, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/live/stream", http.NoBody)
			r, err := http.DefaultClient.Do(q)
			if !assert.NoError(t, err) {
				return
			}
			defer r.Body.Close()
			for lines := bufio.NewScanner(r.Body); lines.Scan(); {
				if lines.Text() == "event: frame" {
					got.Add(1)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return h.Viewers() == 200 }, 10*time.Second, 5*time.Millisecond)
	assert.Equal(t, one, count())
	require.Eventually(t, func() bool { return got.Load() == 199 }, 10*time.Second, 5*time.Millisecond)
}
