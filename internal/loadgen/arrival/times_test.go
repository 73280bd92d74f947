// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseTimes_ReadsSecondsOneALine(t *testing.T) {
	times, err := ParseTimes([]byte("0\n 0.25\r\n\n1.5e1\n86400.000000001"), "f")
	require.NoError(t, err)
	assert.Equal(t, []time.Duration{0, 250 * time.Millisecond, 15 * time.Second, 24*time.Hour + 1}, times)
}

func TestParseTimes_SaysFileAndLine(t *testing.T) {
	for content, want := range map[string]string{
		"":        "f has no times: want seconds from the start, one a line",
		"\n \n":   "f has no times",
		"0\n1h":   `f:2: "1h" is no number: want seconds from the start, such as 0.25`,
		"1m3":     `f:1: "1m3" is no number`,
		"1\n\n-2": "f:3: -2: want seconds from the start, 0 or more",
		"NaN":     "f:1: NaN: want seconds",
		"1e300":   "f:1: 1e300: want seconds",
	} {
		_, err := ParseTimes([]byte(content), "f")
		assert.ErrorContains(t, err, want, content)
	}
}

func TestReplay_PeakIsTheBusiestSecond(t *testing.T) {
	const ms = time.Millisecond
	times := []time.Duration{0, 100 * ms, 200 * ms, 900 * ms, 1000 * ms, 5000 * ms}
	r, err := NewReplay(times, 1)
	require.NoError(t, err)
	assert.Equal(t, 4, r.Peak(), "a second does not include its end")
	r, err = NewReplay(times, 2)
	require.NoError(t, err)
	assert.Equal(t, 5, r.Peak())
	assert.Zero(t, Replay{}.Peak())
}

func FuzzParseTimes(f *testing.F) {
	f.Add([]byte("0\n0.5\n\n2\n"))
	f.Add([]byte("-1\nNaN\n1e400"))
	f.Fuzz(func(t *testing.T, content []byte) {
		times, err := ParseTimes(content, "f")
		if err != nil {
			return
		}
		assert.NotEmpty(t, times)
		for _, at := range times {
			assert.GreaterOrEqual(t, at, time.Duration(0))
		}
	})
}
