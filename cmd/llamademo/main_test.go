// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// newChooser looks at the given environment; nothing answers at the usual endpoint.
func newChooser(t *testing.T, out io.Writer, env map[string]string) chooser {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	return chooser{client: client, getenv: func(name string) string { return env[name] }, out: out, usual: "http://127.0.0.1:1"}
}

func answering(t *testing.T, status int, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/base/health" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/base"
}

// onPath puts an executable named llama-server on PATH.
func onPath(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "llama-server"), []byte("#!/bin/sh\n"+script), 0o700))
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestChoose_TakesTheServerThatRuns(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"ready":   {http.StatusOK, `{"status":"ok"}`},
		"loading": {http.StatusServiceUnavailable, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`},
	} {
		t.Run(name, func(t *testing.T) {
			url := answering(t, answer.status, answer.body)
			got, err := newChooser(t, io.Discard, map[string]string{"LLAMACPP_ENDPOINT": url + "/"}).choose(t.Context(), false)
			require.NoError(t, err)
			defer got.stop()
			assert.Equal(t, url, got.url)
			assert.Contains(t, got.what, "running")
		})
	}
}

func TestChoose_FindsAServerAtTheUsualEndpoint(t *testing.T) {
	c := newChooser(t, io.Discard, nil)
	c.usual = answering(t, http.StatusOK, `{"status":"ok"}`)
	got, err := c.choose(t.Context(), false)
	require.NoError(t, err)
	defer got.stop()
	assert.Equal(t, c.usual, got.url)
}

func TestChoose_DoesNotReplaceANamedServerThatIsNone(t *testing.T) {
	url := answering(t, http.StatusOK, "<html>hello</html>")
	_, err := newChooser(t, io.Discard, map[string]string{"LLAMACPP_ENDPOINT": url}).choose(t.Context(), false)
	assert.ErrorContains(t, err, `not {"status":"ok"}`)
	assert.ErrorContains(t, err, "unset the variable")
}

func TestChoose_StartsLlamaServerWithAModel(t *testing.T) {
	model := filepath.Join(t.TempDir(), "m.gguf")
	require.NoError(t, os.WriteFile(model, nil, 0o600))

	onPath(t, `echo "cannot read $2" >&2; exit 1`)
	_, err := newChooser(t, io.Discard, map[string]string{"MODEL": model}).choose(t.Context(), false)
	assert.ErrorContains(t, err, "exit status 1")
	assert.ErrorContains(t, err, "cannot read "+model, "its last words are shown")

	_, err = newChooser(t, io.Discard, map[string]string{"MODEL": model + ".not"}).choose(t.Context(), false)
	assert.ErrorContains(t, err, ".gguf")

	t.Setenv("PATH", t.TempDir())
	_, err = newChooser(t, io.Discard, map[string]string{"MODEL": model}).choose(t.Context(), false)
	assert.ErrorContains(t, err, "no llama-server on PATH")
}

func TestChoose_FallsBackToTheSimulatorAndSaysSo(t *testing.T) {
	onPath(t, "exit 1")
	var out strings.Builder
	got, err := newChooser(t, &out, nil).choose(t.Context(), false)
	require.NoError(t, err)
	defer got.stop()
	assert.Contains(t, got.what, "simulator")
	assert.Contains(t, out.String(), "MODEL=file.gguf", "how to use the llama-server that is there")
}

func TestLoad_StartsARunOfTheLoadGenerator(t *testing.T) {
	c := newChooser(t, io.Discard, map[string]string{"LLAMACPP_API_KEY": "k"})
	s, err := c.choose(t.Context(), true)
	require.NoError(t, err)
	defer s.stop()
	generator := startGenerator(t, http.StatusCreated, "{}")

	l := &load{client: c.client, url: s.url, key: "k", runs: generator.url}
	model, err := l.model(t.Context())
	require.NoError(t, err)
	l.run(t.Context())
	require.NoError(t, l.lastError())
	assert.JSONEq(t, `{"profile":"demo","model":"`+model+`"}`, generator.asked())

	l.key = "wrong"
	require.ErrorContains(t, l.start(t.Context()), "set LLAMACPP_API_KEY")

	refusing := startGenerator(t, http.StatusConflict, `{"error":"a run of this profile is under way"}`)
	l = &load{client: c.client, url: s.url, key: "k", runs: refusing.url}
	require.ErrorContains(t, l.start(t.Context()), "409 Conflict: a run of this profile is under way")
}

// A server that loads its model has every page but its health answer 503.
func TestLoad_WaitsUntilTheServerCanTakeIt(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`)
			return
		}
		fmt.Fprint(w, `{"data":[{"id":"a"}]}`)
	}))
	defer s.Close()
	generator := startGenerator(t, http.StatusCreated, "{}")
	l := &load{client: newChooser(t, io.Discard, nil).client, url: s.URL, runs: generator.url}
	l.run(t.Context())
	require.NoError(t, l.lastError())
	assert.JSONEq(t, `{"profile":"demo","model":"a"}`, generator.asked())
}

// generator stands for the REST API of the load generator.
type generator struct {
	url  string
	body atomic.Value
}

func (g *generator) asked() string { return g.body.Load().(string) }

func startGenerator(t *testing.T, status int, answer string) *generator {
	t.Helper()
	g := &generator{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.body.Store(string(body))
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	g.url = s.URL
	return g
}

func TestChoose_RemovesTheSimulatorsLog(t *testing.T) {
	s, err := newChooser(t, io.Discard, nil).choose(t.Context(), true)
	require.NoError(t, err)
	require.FileExists(t, s.log)
	s.stop()
	assert.NoFileExists(t, s.log)
}

func TestChoose_SimulatorRefusesARequestUnlessItIsToBeQuiet(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		c := newChooser(t, io.Discard, nil)
		c.quiet = quiet
		s, err := c.choose(t.Context(), true)
		require.NoError(t, err)
		refused := func() bool {
			log, err := os.ReadFile(s.log)
			return err == nil && strings.Contains(string(log), "exceeds the available context size")
		}
		if quiet {
			time.Sleep(200 * time.Millisecond)
			assert.False(t, refused())
		} else {
			assert.Eventually(t, refused, 10*time.Second, 10*time.Millisecond)
		}
		s.stop()
	}
}

func TestLoad_LoadsNoModelOfARouter(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"data":[{"id":"a","status":{"value":"unloaded"}}]}`)
	}))
	defer s.Close()
	l := &load{client: newChooser(t, io.Discard, nil).client, url: s.URL}
	_, err := l.model(t.Context())
	assert.ErrorContains(t, err, "no model is loaded")
}

func TestOptions_SayWhatIsWrong(t *testing.T) {
	good := options{concurrency: 1}
	require.NoError(t, good.check(nil), "until Ctrl-C")
	for want, o := range map[string]options{
		"-duration: 5ns: has it a unit? e.g. 5s": {concurrency: 1, duration: 5},
		"-duration: -1s: want 10ms or more":      {concurrency: 1, duration: -time.Second},
		"-concurrency: 0: want 1 or more":        {},
	} {
		require.EqualError(t, o.check(nil), want)
	}
	assert.EqualError(t, good.check([]string{"20s"}), "20s: takes flags only")
}

func TestVerdict(t *testing.T) {
	still, moving := &history{}, &history{}
	still.add(sample{state: "ok", decoded: 5})
	moving.add(sample{state: "ok", decoded: 5})
	moving.add(sample{state: "ok", decoded: 6})
	failing := &load{}
	failing.note(errors.New("501: no chat"))
	refused := &history{}
	refused.add(sample{state: "ok", failed: "12 × 400"})

	require.NoError(t, verdict(moving, options{}, &load{}, nil))
	require.NoError(t, verdict(still, options{noLoad: true}, &load{}, nil))
	require.ErrorContains(t, verdict(still, options{}, failing, nil), "501: no chat")
	require.ErrorContains(t, verdict(refused, options{}, &load{}, nil), "requests ended with 12 × 400")
	require.ErrorContains(t, verdict(&history{}, options{noLoad: true}, &load{}, nil), "no llamacpp metrics")
	require.ErrorContains(t, verdict(moving, options{}, &load{}, errors.New("refused")), "refused")
}

func TestProcess_IsKilledOnlyWhenItDoesNotStop(t *testing.T) {
	p, err := startProcess(exec.Command("sh", "-c", "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.05; done"), nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.output.String() == "  hello" }, 5*time.Second, 10*time.Millisecond)
	p.stop()
	assert.Equal(t, "  hello\n  bye", p.output.String())
	assert.Equal(t, 0, p.State().ExitCode())
}
