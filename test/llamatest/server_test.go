// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamatest

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := oneShot.Get(url)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

func TestServer_LivesDiesAndComesBack(t *testing.T) {
	ctx := within(t)
	s := Start(t, Options{})
	res, err := s.Client().Complete(ctx, Request{PromptWords: 30, MaxTokens: 12})
	require.NoError(t, err)
	assert.Equal(t, 31, res.Timings.PromptTokens)
	assert.Equal(t, 12, res.OutputTokens)

	res, err = s.Client().Complete(ctx, Request{PromptWords: 30, Seed: 1, MaxTokens: 12, Stream: true})
	require.NoError(t, err)
	assert.Equal(t, 31, res.InputTokens)
	assert.Equal(t, 31, res.Timings.PromptTokens+res.Timings.CachedTokens)
	assert.Equal(t, 12, res.Chunks)
	assert.Equal(t, 12, res.Timings.PredictedTokens)
	assert.Positive(t, res.Timings.Prompt)
	assert.Positive(t, res.Timings.Predicted)
	assert.WithinDuration(t, time.Now(), res.End, 10*time.Second)

	pid := s.PID
	require.NoError(t, s.Restart(ctx))
	assert.NotEqual(t, pid, s.PID)
	_, body := get(t, s.URL()+"/metrics")
	assert.Contains(t, body, "llamacpp:tokens_predicted_total 0\n")

	s.Kill()
	r, err := oneShot.Get(s.URL() + "/health")
	if err == nil {
		r.Body.Close()
	}
	require.ErrorContains(t, err, "refused")
	assert.Contains(t, s.LogTail(4000), "listening on")
}

func TestServer_AppendsToALogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.log")
	require.NoError(t, os.WriteFile(path, []byte("before\n"), 0o600))
	s := Start(t, Options{LogFile: path})
	assert.True(t, strings.HasPrefix(s.LogTail(1<<20), "before\n"))

	// Moved away, it is another file for the next process.
	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, s.Restart(within(t)))
	assert.Equal(t, path, s.Log())
	assert.NotContains(t, s.LogTail(1<<20), "before")
	assert.Contains(t, s.LogTail(1<<20), "listening on")
}

func TestServer_EndsWithTheTest(t *testing.T) {
	var s *Server
	t.Run("test", func(t *testing.T) { s = Start(t, Options{}) })
	assert.ErrorIs(t, syscall.Kill(s.PID, 0), syscall.ESRCH)
}

func TestClient_LeavesAStream(t *testing.T) {
	s := Start(t, Options{Context: 4 * 4096})
	res, err := s.Client().Complete(within(t), Request{PromptWords: 3, MaxTokens: 4000, Stream: true, CancelAfterTokens: 5})
	require.NoError(t, err)
	assert.Equal(t, completion.Cancelled, res.Outcome)
	assert.Equal(t, 5, res.Chunks)
}

func TestClient_ErrorHasTheStatus(t *testing.T) {
	s := Start(t, Options{APIKey: "secret"})
	c := s.Client()
	c.APIKey = "wrong"
	_, err := c.Complete(within(t), Request{})
	var refused *completion.ServerError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, http.StatusUnauthorized, refused.Status)
}

func TestRouter_LoadsAModel(t *testing.T) {
	s := Start(t, Options{Slots: 2, Router: &Router{Models: map[string]tinygguf.Model{"a": tinygguf.Tiny, "b": tinygguf.Tiny}, Broken: []string{"x"}, Max: 1}})
	c := s.Client()
	c.Model = "a"
	res, err := c.Complete(within(t), Request{PromptWords: 5, MaxTokens: 3})
	require.NoError(t, err)
	assert.Equal(t, 3, res.OutputTokens)
	status, _ := get(t, s.URL()+"/metrics?model=a&autoload=false")
	assert.Equal(t, 200, status)
}

func TestRun_SaysWhyTheServerEnded(t *testing.T) {
	_, err := Run(within(t), Options{Args: []string{"--no-such-flag"}, LogDir: t.TempDir()})
	assert.ErrorContains(t, err, "no-such-flag")
}

func TestFind_NamesTheCure(t *testing.T) {
	t.Setenv("LLAMA_SERVER", filepath.Join(t.TempDir(), "missing"))
	_, err := Find()
	assert.ErrorContains(t, err, Cure)

	t.Setenv("LLAMA_SERVER", "")
	t.Setenv("PATH", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err = Find()
	assert.ErrorContains(t, err, Cure)
}

func TestFind_PrefersTheEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server")
	require.NoError(t, os.WriteFile(path, nil, 0o755))
	t.Setenv("LLAMA_SERVER", path)
	b, err := Find()
	require.NoError(t, err)
	assert.Equal(t, path, b.Path)
	assert.Empty(t, b.Root)
}

func TestWords_DifferAtTheFirstWord(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(150) {
		w := Words(20, seed)
		assert.Len(t, tinygguf.Tokenize(w, true), 21)
		seen[strings.Fields(w)[0]] = true
	}
	assert.Len(t, seen, 150)
}
