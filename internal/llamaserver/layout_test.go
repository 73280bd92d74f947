// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMetricsParser_ReadsWhatTheFullParserReads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(families int) string {
		var b strings.Builder
		for i := range families {
			typ := []string{"counter", "gauge", "untyped", "histogram"}[i%(3+families%2)]
			fmt.Fprintf(&b, "# HELP llamacpp:m%d Text %d 1 2.\n# TYPE llamacpp:m%d %s\n", i, i, i, typ)
			if typ == "histogram" {
				fmt.Fprintf(&b, "llamacpp:m%d_bucket{le=\"+Inf\"} 3\nllamacpp:m%d_sum 1\nllamacpp:m%d_count 3\n", i, i, i)
				continue
			}
			for j := range 1 + i%3 {
				value := []string{"0", "1.00179e+06", "-nan", "NaN", "12.5", "+Inf", "7 1000"}[r.IntN(7)]
				labels := ""
				if i%3 > 0 {
					labels = fmt.Sprintf(`{position="%d",text="a } b"}`, j)
				}
				fmt.Fprintf(&b, "llamacpp:m%d%s %s\n", i, labels, value)
			}
		}
		return b.String()
	}
	var p metricsParser
	fast := 0
	for range 2000 {
		text := random(1 + r.IntN(6))
		if p.last.Load().read([]byte(text)) != nil {
			fast++
		}
		want, err := ParseMetrics([]byte(text))
		require.NoError(t, err)
		got, err := p.parse([]byte(text))
		require.NoError(t, err)
		require.Len(t, got.Families, len(want.Families), text)
		for name, f := range want.Families {
			assert.Equal(t, f.String(), got.Families[name].String(), text)
		}
	}
	assert.Positive(t, fast)
}

// Whatever a server has answered before, an answer is read as the full parser
// reads it.
func FuzzMetricsParser(f *testing.F) {
	idle, busy := body(f, "idle/metrics_after"), body(f, "load/metrics_after")
	f.Add(idle, busy)
	f.Add(busy, []byte(strings.ReplaceAll(string(busy), " 0\n", " -nan\n")))
	f.Add([]byte("llamacpp:a{x=\"y\"} 1\n"), []byte("llamacpp:a{x=\"y\"} 0x1p-2\n"))
	f.Fuzz(func(t *testing.T, before, now []byte) {
		var p metricsParser
		_, _ = p.parse(before)
		got, err := p.parse(now)
		want, wantErr := ParseMetrics(now)
		require.Equal(t, wantErr == nil, err == nil, "%v, %v", wantErr, err)
		if err != nil {
			return
		}
		require.Len(t, got.Families, len(want.Families))
		for name, family := range want.Families {
			assert.Equal(t, family.String(), got.Families[name].String())
		}
	})
}

func BenchmarkMetricsParser(b *testing.B) {
	text := body(b, "load/metrics_after")
	b.ReportAllocs()
	var p metricsParser
	for b.Loop() {
		if _, err := p.parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
