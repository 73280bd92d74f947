// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience of one look in tests: long against a loaded machine's hiccups where
// an answer is expected, and short where none is.
const (
	patience = 5 * time.Second
	short    = 400 * time.Millisecond
)

type fixture struct {
	*Server
	sim  *llamasim.Server
	logs *observer.ObservedLogs
}

func watched(t *testing.T, o llamasim.Options, timeout time.Duration) *fixture {
	t.Helper()
	sim := llamasim.Start(t, o)
	client, err := llamaserver.New(sim.URL(), &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}, "", 64<<10)
	require.NoError(t, err)
	core, logs := observer.New(zapcore.InfoLevel)
	s := New(client, timeout, zap.New(core))
	t.Cleanup(func() {
		s.End()
		s.Wait()
	})
	return &fixture{s, sim, logs}
}

// lookOnce looks with patience.
func (f *fixture) lookOnce(t *testing.T) Observation {
	t.Helper()
	o, ok := f.Look(t.Context(), patience)
	require.True(t, ok)
	return o
}

// until looks again and again, until the server is in a state.
func (f *fixture) until(t *testing.T, want State) Observation {
	t.Helper()
	var o Observation
	require.Eventually(t, func() bool {
		o, _ = f.Look(t.Context(), patience)
		return o.Server.State == want
	}, 20*time.Second, 10*time.Millisecond, "never %s", want)
	return o
}

// logged returns the log lines that hold a text.
func (f *fixture) logged(text string) (lines []string) {
	for _, e := range f.logs.All() {
		line := e.Message
		for k, v := range e.ContextMap() {
			line += fmt.Sprintf(" %s=%v", k, v)
		}
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// complete starts a request and does not wait for its end. Cancelling the
// context, which the test's end does too, ends it.
func complete(t *testing.T, url string, tokens int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It fails where the test ends it, or the server.
		_, _ = (&llamatest.Client{BaseURL: url}).Complete(ctx, llamatest.Request{Prompt: "one two three", MaxTokens: tokens, Stream: true})
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func TestLook_IdleServer(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	o := f.lookOnce(t)
	assert.Equal(t, OK, o.Server.State)
	assert.Equal(t, 4, o.Server.Props.Slots)
	require.NotNil(t, o.Server.Snapshot)
	assert.True(t, o.Server.Snapshot.Idle)
	assert.False(t, o.Server.Snapshot.Active)
	assert.Nil(t, o.Models)
	f.lookOnce(t)
	assert.Len(t, f.logged("state=ok"), 1)
	assert.Zero(t, f.sim.Hits("/health"), "an answer of /metrics is proof of life")
	assert.Equal(t, 1, f.sim.Hits("/props"))
}

func TestLook_FaultsHaveAStateAndOneLogLine(t *testing.T) {
	for _, tt := range []struct {
		name  string
		path  string
		fault llamasim.Fault
		state State
		log   string // of the one line at the change
	}{
		{"refuses", "", llamasim.Refuse, Unreachable, "connection refused: is llama-server running there?"},
		{"hangs at connect", "", llamasim.HangConnect, Unreachable, "no answer in time"},
		{"hangs mid-body", "", llamasim.HangBody, Unreachable, "no answer in time"},
		{"drips bytes", "", llamasim.Drip(time.Second), Unreachable, "no answer in time"},
		{"closes early", "", llamasim.CloseEarly, Unreachable, "answer cut short"},
		{"answers HTML", "", llamasim.HTML, Error, "not in Prometheus' text format: is endpoint llama-server's address?"},
		{"answers too much", "", llamasim.Huge(1), Error, "raise max_response_size if this is a llama-server"},
		{"redirects elsewhere", "", llamasim.Redirect("http://127.0.0.1:1/login"), Error, "302: redirects to http://127.0.0.1:1/login"},
		{"fails", "", llamasim.Status(500), Error, "500"},
		{"wants a key", "", llamasim.Status(401), Unauthorized, "401: set api_key"},

		// The same of /metrics alone: the server is up, and the rest is read.
		{"garbage in /metrics", "/metrics", llamasim.Garbage, OK, "not in Prometheus' text format"},
		{"HTML from /metrics", "/metrics", llamasim.HTML, OK, "not in Prometheus' text format"},
		{"too much from /metrics", "/metrics", llamasim.Huge(1), OK, "raise max_response_size"},
		{"/metrics hangs mid-body", "/metrics", llamasim.HangBody, OK, "no answer in time"},
		{"/metrics drips bytes", "/metrics", llamasim.Drip(time.Second), OK, "no answer in time"},
		{"/metrics closes early", "/metrics", llamasim.CloseEarly, OK, "answer cut short"},
		{"/metrics fails", "/metrics", llamasim.Status(500), OK, "500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			timeout := patience
			if tt.log == "no answer in time" {
				timeout = short
			}
			f := watched(t, llamasim.Options{}, timeout)
			f.until(t, OK)
			f.sim.SetFault(tt.path, tt.fault)
			require.Eventually(t, func() bool {
				o, _ := f.Look(t.Context(), timeout/2)
				return o.Server.State == tt.state && len(f.logged(tt.log)) > 0
			}, 20*time.Second, time.Millisecond, "log: %v", f.logged(""))
			for range 5 {
				o, _ := f.Look(t.Context(), timeout/2)
				assert.Equal(t, tt.state, o.Server.State)
			}
			assert.Len(t, f.logged(tt.log), 1, "once, not at every look")
			open, _ := f.sim.Conns()
			assert.LessOrEqual(t, open, 3, "calls do not pile up")

			f.sim.ClearFault(tt.path)
			f.until(t, OK)
			require.Eventually(t, func() bool {
				o, _ := f.Look(t.Context(), patience)
				return o.Server.Snapshot != nil
			}, 20*time.Second, time.Millisecond)
			recovered := f.logged("before=")
			if tt.state == OK {
				recovered = f.logged("again")
			}
			assert.NotEmpty(t, recovered, "logs that it is over")
		})
	}
}

func TestLook_SlowIsNotDown(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	f.until(t, OK)
	f.sim.SetFault("/metrics", llamasim.Delay(3*short))

	before := f.sim.Hits("/metrics")
	o, _ := f.Look(t.Context(), short)
	assert.Equal(t, OK, o.Server.State, "/health says so")
	assert.Nil(t, o.Server.Snapshot)
	assert.NoError(t, o.Server.Err)

	require.Eventually(t, func() bool {
		o, _ = f.Look(t.Context(), short)
		return o.Server.Snapshot != nil
	}, 20*time.Second, time.Millisecond, "a later look finds the answer")
	assert.Equal(t, before+2, f.sim.Hits("/metrics"), "and it is the answer to one call, after the one made in a hurry")
	assert.Zero(t, f.logs.FilterLevelExact(zapcore.WarnLevel).Len())
}

func TestLook_OneStallOfEverythingIsNoise(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	f.until(t, OK)
	f.sim.SetFault("", llamasim.HangConnect)
	for range 3 {
		o, _ := f.Look(t.Context(), short)
		assert.Equal(t, OK, o.Server.State, "nothing is known to have changed")
	}
	f.sim.ClearFault("")
	f.until(t, OK)
	assert.Len(t, f.logged("llama-server is"), 1, "the line of the start")
}

func TestLook_LoadingThenOK(t *testing.T) {
	f := watched(t, llamasim.Options{LoadTime: 500 * time.Millisecond}, patience)
	assert.Equal(t, Loading, f.lookOnce(t).Server.State)
	f.until(t, OK)
	assert.Len(t, f.logged("state=loading"), 1)
	assert.Len(t, f.logged("state=ok"), 1)
}

func TestLook_MetricsSwitchedOff(t *testing.T) {
	f := watched(t, llamasim.Options{NoMetrics: true}, patience)
	for range 3 {
		o := f.lookOnce(t)
		assert.Equal(t, OK, o.Server.State)
		assert.Nil(t, o.Server.Snapshot)
		assert.ErrorContains(t, o.Server.Err, "501: start llama-server with --metrics")
		assert.Equal(t, 4, o.Server.Props.Slots, "the rest is read")
	}
	assert.Len(t, f.logged("start llama-server with --metrics"), 1)
}

func TestLook_RestartStartsNewCounters(t *testing.T) {
	for _, build := range []llamasim.Build{llamasim.Current, llamasim.Old} {
		t.Run(build.String(), func(t *testing.T) {
			f := watched(t, llamasim.Options{Build: build}, patience)
			f.sim.SetCounters(1000, 100)
			before := f.until(t, OK).Server.Snapshot
			again := f.lookOnce(t).Server.Snapshot
			assert.Equal(t, before.Process, again.Process)
			assert.Equal(t, before.Since, again.Since)

			f.sim.Restart()
			f.until(t, OK)
			after := f.lookOnce(t).Server.Snapshot
			assert.NotEqual(t, before.Process, after.Process)
			assert.Zero(t, before.Since, "nobody saw the first one start")
			assert.False(t, after.Since.IsZero())
			assert.False(t, after.Since.After(after.Began), "the new counters were at zero when the old ones were last read")
		})
	}
}

func TestLook_SleepingServerIsLeftAsleep(t *testing.T) {
	for _, build := range []llamasim.Build{llamasim.Current, llamasim.Old} {
		t.Run(build.String(), func(t *testing.T) {
			f := watched(t, llamasim.Options{Build: build, SleepAfter: time.Hour}, patience)
			f.until(t, OK)
			require.True(t, f.sim.Sleep())
			f.self.propsRead = time.Time{} // as if the next read were due
			f.until(t, Sleeping)
			for range 5 {
				assert.Equal(t, Sleeping, f.lookOnce(t).Server.State)
				f.LookAtSlots(t.Context(), true, time.Hour, patience)
			}
			assert.True(t, f.sim.Sleeping())
			assert.Zero(t, f.sim.Hits("/slots"), "would wake it")

			f.sim.Wake()
			f.until(t, OK)
			assert.Len(t, f.logged("state=sleeping"), 1)
		})
	}
}

func TestLook_SleepingServerThatEndsIsNotTakenToSleepOn(t *testing.T) {
	f := watched(t, llamasim.Options{Build: llamasim.Old, SleepAfter: time.Hour}, patience)
	f.until(t, OK)
	require.True(t, f.sim.Sleep())
	f.self.propsRead = time.Time{} // as if the next read were due
	f.until(t, Sleeping)
	f.sim.SetFault("", llamasim.Refuse)
	f.until(t, Unreachable)
}

func TestLook_ModelLoadedAgainIsAnotherProcess(t *testing.T) {
	f := watched(t, llamasim.Options{Router: &llamasim.RouterOptions{Models: []string{"a"}, LoadTime: time.Millisecond}}, patience)
	f.until(t, OK)
	load := func() *Snapshot {
		ask(t, f.sim.URL()+"/models/load")
		var o Observation
		require.Eventually(t, func() bool {
			o = f.lookOnce(t)
			return len(o.Children) == 1 && o.Children[0].Snapshot != nil
		}, 20*time.Second, 10*time.Millisecond)
		return o.Children[0].Snapshot
	}
	first := load()
	ask(t, f.sim.URL()+"/models/unload")
	require.Eventually(t, func() bool { return len(f.lookOnce(t).Children) == 0 }, 20*time.Second, 10*time.Millisecond)
	assert.NotEqual(t, first.Process, load().Process, "also for a scraper that did not look in between")
}

func TestLook_RouterModelsAreWatchedAndNeverLoaded(t *testing.T) {
	f := watched(t, llamasim.Options{Router: &llamasim.RouterOptions{Models: []string{"a", "b"}, LoadTime: 300 * time.Millisecond}}, patience)
	o := f.until(t, OK)
	assert.True(t, o.Server.Props.Router)
	assert.Empty(t, o.Children)
	assert.Equal(t, []llamaserver.Model{{ID: "a", State: llamaserver.ModelUnloaded}, {ID: "b", State: llamaserver.ModelUnloaded}}, o.Models)

	ask(t, f.sim.URL()+"/models/load")
	o = f.lookOnce(t)
	require.Len(t, o.Children, 1)
	assert.Equal(t, Loading, o.Children[0].State)
	require.Eventually(t, func() bool {
		o = f.lookOnce(t)
		return len(o.Children) == 1 && o.Children[0].Snapshot != nil
	}, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, "a", o.Children[0].Model)
	assert.Equal(t, OK, o.Children[0].State)
	assert.Equal(t, 4, o.Children[0].Props.Slots)
	assert.False(t, o.Children[0].Snapshot.Since.IsZero(), "it was seen unloaded before")

	views := f.LookAtSlots(t.Context(), true, time.Hour, patience)
	require.Len(t, views, 1)
	require.NotNil(t, views[0].Reading)
	assert.Len(t, views[0].Reading.Slots, 4)

	ask(t, f.sim.URL()+"/models/unload")
	require.Eventually(t, func() bool { return len(f.lookOnce(t).Children) == 0 }, 20*time.Second, 10*time.Millisecond)
	for range 5 {
		for _, m := range f.lookOnce(t).Models {
			assert.Equal(t, llamaserver.ModelUnloaded, m.State)
		}
		assert.Empty(t, f.LookAtSlots(t.Context(), true, time.Hour, patience))
	}
	for _, e := range f.logs.All() {
		assert.Equal(t, zapcore.InfoLevel, e.Level, "%v", e)
	}
}

// ask has the router do something with the model a.
func ask(t *testing.T, url string) {
	t.Helper()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{"model":"a"}`))
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: tr}).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestLookAtSlots_IdleServerIsNotAsked(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	f.until(t, OK)
	for range 3 {
		views := f.LookAtSlots(t.Context(), false, time.Hour, patience)
		require.Len(t, views, 1)
		assert.Nil(t, views[0].Reading)
	}
	assert.Zero(t, f.sim.Hits("/slots"))

	views := f.LookAtSlots(t.Context(), true, time.Hour, patience)
	require.NotNil(t, views[0].Reading, "but always means always")

	complete(t, f.sim.URL(), 1000)
	require.Eventually(t, func() bool {
		f.lookOnce(t)
		views = f.LookAtSlots(t.Context(), false, time.Hour, patience)
		return views[0].Reading != nil && views[0].Reading.Slots[0].Decoded > 0
	}, 20*time.Second, 10*time.Millisecond, "a busy one is asked")
}

func TestLookAtSlots_LooksAtTheServerItselfWhenNobodyElseDoes(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	require.Eventually(t, func() bool {
		views := f.LookAtSlots(t.Context(), true, time.Millisecond, patience)
		return len(views) == 1 && views[0].Reading != nil
	}, 20*time.Second, time.Millisecond)
	assert.Positive(t, f.sim.Hits("/metrics"))
}

func TestLookAtSlots_ReadingOfTheNextProcessIsNotJoinedToTheLastOnesTotals(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	f.sim.SetCounters(5000, 100)
	f.until(t, OK)
	f.sim.Restart() // unnoticed: no look until the slots are read
	complete(t, f.sim.URL(), 1000)
	require.Eventually(t, func() bool { return f.sim.Decoded() > 0 }, 20*time.Second, time.Millisecond)

	var v SlotsView
	require.Eventually(t, func() bool {
		v = f.LookAtSlots(t.Context(), true, time.Hour, patience)[0]
		return v.Reading != nil
	}, 20*time.Second, time.Millisecond)
	total, _ := v.Snapshot.Value("tokens_predicted_total")
	assert.Less(t, total, 5000.0, "the reading came with the totals of its own process")
}

func TestWatch_TakesTurnsOnOneConnection(t *testing.T) {
	f := watched(t, llamasim.Options{}, patience)
	f.until(t, OK)
	f.sim.SetFault("/metrics", llamasim.Delay(5*time.Millisecond))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			f.LookAtSlots(t.Context(), true, time.Hour, patience)
		}
	}()
	for range 20 {
		f.lookOnce(t)
	}
	<-done
	_, opened := f.sim.Conns()
	assert.LessOrEqual(t, opened, 3)
}

func TestEnd_CutsOffWhatHangs(t *testing.T) {
	f := watched(t, llamasim.Options{}, time.Hour)
	f.until(t, OK)
	f.sim.SetFault("", llamasim.HangConnect)
	began := time.Now()
	time.AfterFunc(short, f.End)
	_, ok := f.Look(context.Background(), time.Minute)
	assert.False(t, ok)
	assert.Less(t, time.Since(began), 20*time.Second)
	assert.Empty(t, f.logged("unreachable"), "ending is no outage")
}
