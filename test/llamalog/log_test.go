// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamalog

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recording are the lines of a log of the real server.
func recording(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile("../../connector/llamacpplogconnector/internal/serverlog/testdata/" + name + ".log")
	require.NoError(t, err)
	return strings.SplitAfter(string(b), "\n")
}

// same holds what is written against lines of the real server, apart from the
// time in front of them.
func same(t *testing.T, want []string, write func(l *Log)) {
	t.Helper()
	var out bytes.Buffer
	write(New(&out, 0))
	text := func(lines []string) (texts []string) {
		for _, line := range lines {
			clock, rest, _ := strings.Cut(line, " ")
			if clock != "" {
				assert.Regexp(t, `^\d+\.\d\d\.\d{3}\.\d{3}$`, clock)
				texts = append(texts, rest)
			}
		}
		return texts
	}
	assert.Equal(t, text(want), text(strings.SplitAfter(out.String(), "\n")))
}

func micros(n int) time.Duration { return time.Duration(n) * time.Microsecond }

func TestLog_RequestsAreWrittenAsByTheRealServer(t *testing.T) {
	log := recording(t, "start_and_three_requests_slow")
	same(t, log[8:17], func(l *Log) {
		r := Request{Slot: 0, Task: 0}
		l.Launch(0, r, Slot{Prompt: 3020, LastUsed: -1})
		l.PromptProgress(0, r, 2048, 2048./3020, micros(7_454_591))
		l.Finish(0, r, Timings{
			PromptTokens: 3020, Prompt: micros(12_169_520), Tokens: 6, Generation: micros(137_620), GraphsReused: 5, Sequence: 3025,
		})
	})
	same(t, log[17:27], func(l *Log) {
		r := Request{Slot: 0, Task: 8}
		l.Launch(0, r, Slot{Prompt: 42, Common: 5, Held: 3025, Best: true})
		l.GenerationProgress(0, r, 411, micros(3_007_408), 411, micros(3_007_463))
		l.GenerationProgress(0, r, 675, micros(6_017_857), 264, micros(3_010_262))
		l.Finish(0, r, Timings{
			PromptTokens: 37, Prompt: micros(102_630), Tokens: 700, Generation: micros(6_340_170), GraphsReused: 701, Sequence: 741,
		})
	})
	same(t, log[27:32], func(l *Log) {
		r := Request{Slot: 0, Task: 709}
		l.Launch(0, r, Slot{Prompt: 21, Held: 741, LastUsed: micros(2_668_484_562)})
		l.Cancel(0, 709)
		l.Release(0, r, 30)
		l.Stop(0)
	})
}

func TestLog_DraftsAreWrittenAsByTheRealServer(t *testing.T) {
	log := recording(t, "draft")
	same(t, log[3:9], func(l *Log) {
		l.Draft = "/models/tiny.gguf"
		l.Loading(0, "/models/tiny.gguf")
		l.Slots(0, 1, 1024)
		l.Loaded(0)
		l.Listening(0, "http://127.0.0.1:39409")
	})
	same(t, log[11:18], func(l *Log) {
		l.Finish(0, Request{Slot: 0, Task: 0}, Timings{
			PromptTokens: 5, Prompt: micros(853), Tokens: 6, Generation: micros(1_553), GraphsReused: 1, Sequence: 10,
			Drafts: 2, Drafted: 4, Accepted: 3,
		})
	})
}

func TestLog_StartIsWrittenAsByTheRealServer(t *testing.T) {
	same(t, recording(t, "start_and_two_requests")[:8], func(l *Log) {
		l.Initializing(0, false)
		l.Loading(0, "/models/tiny.gguf")
		l.Slots(0, 2, 4096)
		l.Loaded(0)
		l.Listening(0, "http://127.0.0.1:19041")
	})
}

func TestLog_ErrorsAreWrittenAsByTheRealServer(t *testing.T) {
	log := recording(t, "errors")
	same(t, log[10:13], func(l *Log) {
		l.Refuse(0, 0, "request (602 tokens) exceeds the available context size (256 tokens), try increasing it")
		l.Release(0, Request{}, 0)
		l.Cancel(0, 0)
	})
	same(t, log[14:15], func(l *Log) {
		l.Exception(0, `{"error":{"code":400,"message":"Expected 'messages' to be an array","type":"invalid_request_error"}}`)
	})
}

func TestLog_ClockAndChildStandInFront(t *testing.T) {
	var out bytes.Buffer
	New(&out, 37117).Stop(61*time.Minute + 2*time.Second + micros(3_004))
	assert.True(t, strings.HasPrefix(out.String(), "[37117] 61.02.003.004 I srv "), out.String())
}
