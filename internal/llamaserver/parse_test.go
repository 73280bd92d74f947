// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseMetrics_AverageOverNothingIsNoValue(t *testing.T) {
	for _, nan := range []string{"nan", "-nan", "NaN"} {
		m, err := ParseMetrics([]byte("# TYPE llamacpp:n_busy_slots_per_decode gauge\nllamacpp:n_busy_slots_per_decode " + nan + "\n"))
		require.NoError(t, err)
		_, ok := m.Value("n_busy_slots_per_decode")
		assert.False(t, ok, nan)
	}
}

func TestParseMetrics_SixDigitsAreReadAsPrinted(t *testing.T) {
	m, err := ParseMetrics(body(t, "precision/metrics_over_1e6"))
	require.NoError(t, err)
	v, ok := m.Value("prompt_tokens_total")
	assert.True(t, ok)
	assert.Greater(t, v, 1e6)
	assert.Zero(t, math.Mod(v, 10))
}

func TestParseMetrics_ValueIsOfTheSampleWithoutLabels(t *testing.T) {
	m, err := ParseMetrics([]byte("llamacpp:x{position=\"0\"} 1\nllamacpp:x 2\n"))
	require.NoError(t, err)
	v, ok := m.Value("x")
	assert.True(t, ok)
	assert.InDelta(t, 2, v, 0)
	_, ok = m.Value("y")
	assert.False(t, ok)
}

func TestParseSlots_OlderBuilds(t *testing.T) {
	s, err := ParseSlots([]byte(`[
		{"id":0,"state":1,"n_ctx":512,"id_task":3,"next_token":{"n_decoded":7,"n_remain":-1}},
		{"id":1,"state":0,"n_ctx":512,"id_task":2,"next_token":{"n_decoded":9,"n_remain":0}}]`))
	require.NoError(t, err)
	assert.Equal(t, []Slot{
		{ID: 0, Context: 512, Busy: true, Task: 3, Tokens: Unknown, Processed: Unknown, Decoded: 7, Remaining: Unknown},
		{ID: 1, Context: 512, Task: 2, Tokens: Unknown, Processed: Unknown, Decoded: 9, Remaining: 0},
	}, s)
}

func TestParseSlots_OddFieldsAreUnknownNotWrong(t *testing.T) {
	s, err := ParseSlots([]byte(`[{"id":0,"is_processing":"yes","n_ctx":-5,"id_task":1e99,"n_prompt_tokens":null,"next_token":[],"new":{"a":[1]}}]`))
	require.NoError(t, err)
	assert.Equal(t, []Slot{{Task: Unknown, Tokens: Unknown, Processed: Unknown, Decoded: Unknown, Remaining: Unknown}}, s)
}

func TestProps_MetricsWakeOnlyInOlderBuildsThatCanSleep(t *testing.T) {
	for build, wakes := range map[string]bool{"b10518": true, "b10518-abc": true, "b10519": false, "b11669-Debian": false, "": false, "v2": false} {
		assert.Equal(t, wakes, (&Props{Build: build, CanSleep: true}).MetricsWake(), build)
	}
	assert.False(t, (&Props{Build: "b5000"}).MetricsWake())
}

func TestParseProps_ModelNameIsNoPath(t *testing.T) {
	for alias, want := range map[string]string{"": "m.gguf", `C:\models\m.gguf`: "m.gguf", "org/model": "org/model", "mine": "mine"} {
		p, err := ParseProps(fmt.Appendf(nil, `{"model_alias":%q,"model_path":"C:\\models\\m.gguf"}`, alias))
		require.NoError(t, err)
		assert.Equal(t, want, p.ModelName)
	}
}

// Everything that the parsers return, printed, holds none of the users' text,
// templates and command lines that the real answers hold.
func TestParsers_PromptsTemplatesAndArgumentsStayInside(t *testing.T) {
	files, err := filepath.Glob("testdata/recorded/*/*.http")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	private := []string{"<|im_", "the of and", "away the into", "assistant", "--port", "media_", "llama-server", "bos_token", "generation_prompt"}
	held := map[string]bool{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		require.NoError(t, err)
		_, b, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
		s, _ := ParseSlots(b)
		p, _ := ParseProps(b)
		m, _ := ParseModels(b)
		out := fmt.Sprintf("%+v %+v %+v", s, p, m)
		for _, text := range private {
			held[text] = held[text] || strings.Contains(string(b), text)
			assert.NotContains(t, out, text, f)
		}
	}
	for text, found := range held {
		assert.True(t, found, "no recorded answer holds %q, so the test shows nothing of it", text)
	}
}

func seed(f *testing.F, patterns ...string) {
	for _, p := range patterns {
		files, err := filepath.Glob("testdata/recorded/" + p + ".http")
		require.NoError(f, err)
		require.NotEmpty(f, files)
		for _, name := range files {
			raw, err := os.ReadFile(name)
			require.NoError(f, err)
			_, b, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
			f.Add(b)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	seed(f, "*/metrics*")
	f.Add([]byte("# TYPE llamacpp:x histogram\nllamacpp:x_bucket{le=\"1\"} 2\nllamacpp:x_sum -nan\nllamacpp:x_count 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMetrics(b)
		if err != nil {
			return
		}
		for name := range m.Families {
			if v, ok := m.Value(strings.TrimPrefix(name, MetricPrefix)); ok && math.IsNaN(v) {
				t.Errorf("%s: a value that is no number", name)
			}
		}
	})
}

func FuzzParseSlots(f *testing.F) {
	seed(f, "*/slots*")
	f.Fuzz(func(t *testing.T, b []byte) {
		slots, err := ParseSlots(b)
		if err != nil {
			return
		}
		for _, s := range slots {
			for _, n := range []int64{s.Task, s.Tokens, s.Processed, s.Decoded, s.Remaining} {
				if n < Unknown {
					t.Errorf("%+v: neither a count nor unknown", s)
				}
			}
			if s.Context < 0 {
				t.Errorf("%+v: negative context", s)
			}
		}
	})
}

func FuzzParseProps(f *testing.F) {
	seed(f, "*/props*", "*/models*")
	f.Fuzz(func(_ *testing.T, b []byte) {
		if p, err := ParseProps(b); err == nil {
			_ = p.MetricsWake()
		}
		_, _ = ParseModels(b)
	})
}

func BenchmarkParseMetrics(b *testing.B) {
	text := body(b, "load/metrics_after")
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for range b.N {
		if _, err := ParseMetrics(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseSlots(b *testing.B) {
	text := body(b, "load/slots_busy")
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for range b.N {
		if _, err := ParseSlots(text); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRoundingStep(t *testing.T) {
	for v, want := range map[float64]float64{0: 0, 999_999: 0, 1e6: 10, 9_999_990: 10, 1e7: 100, 123_456_000: 1000} {
		assert.InDelta(t, want, RoundingStep(v), 0, "%f", v)
	}
	assert.Positive(t, RoundingStep(math.Inf(1)), "it ends")
}
