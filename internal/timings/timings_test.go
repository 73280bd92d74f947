// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package timings

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// What llama-server b11669 told a client, and wrote to its log.
func TestString_IsEqualForTheAnswerAndTheLog(t *testing.T) {
	const us = time.Microsecond
	for _, c := range []struct {
		answer, log [2]time.Duration
		want        string
	}{
		{[2]time.Duration{1383 * us, 1415 * us}, [2]time.Duration{1380 * us, 1420 * us}, "24/1.38ms+8/1.42ms"}, // 1.415 is more than that as a float64
		{[2]time.Duration{418 * us, 1399 * us}, [2]time.Duration{420 * us, 1400 * us}, "24/0.42ms+8/1.40ms"},
		{[2]time.Duration{1005 * us, 3375 * us}, [2]time.Duration{1000 * us, 3380 * us}, "24/1.00ms+8/3.38ms"}, // ties go to what printf does
		{[2]time.Duration{17_123_456 * us, 0}, [2]time.Duration{17_123_460 * us, 0}, "24/17123.46ms+8/0.00ms"},
	} {
		assert.Equal(t, c.want, String(24, c.answer[0], 8, c.answer[1]))
		assert.Equal(t, c.want, String(24, c.log[0], 8, c.log[1]))
	}
}

func BenchmarkString(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		String(512, 123456*time.Microsecond, 128, 4321*time.Millisecond)
	}
}
