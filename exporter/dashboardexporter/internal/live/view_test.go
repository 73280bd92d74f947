// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var allParameters = []string{"server", "gpu", "window", "points", "end", "panels", "seq"}

func TestParseWish(t *testing.T) {
	w, err := parseWish("server=a:1&gpu=B&gpu=A&gpu=B&window=3600&points=500&end=1732500000000&seq=7", allParameters...)
	require.NoError(t, err)
	assert.Equal(t, wish{
		server: "a:1", gpus: []string{"A", "B"}, window: time.Hour, step: 10 * time.Second, end: 1732500000000, seq: 7, resume: true,
	}, w)

	w, err = parseWish("", allParameters...)
	require.NoError(t, err)
	assert.Equal(t, wish{window: 5 * time.Minute, step: time.Second}, w)
}

func TestParseWish_Errors(t *testing.T) {
	for query, want := range map[string]string{
		"window=9":                           `window is "9": want a whole number from 10 to 86400`,
		"window=86401":                       `window is "86401": want a whole number from 10 to 86400`,
		"window=5m":                          `window is "5m": want a whole number from 10 to 86400`,
		"points=":                            `points is "": want a whole number from 60 to 2000`,
		"points=99999999999999999999":        `points is "99999999999999999999": want a whole number from 60 to 2000`,
		"seq=-1":                             `seq is "-1": want a whole number from 0 to 9007199254740992`,
		"end=0":                              `end is "0": want a whole number from 1 to 9007199254740992`,
		"server=a&server=b":                  `server is given 2 times: give it once`,
		"server=" + strings.Repeat("x", 257): `server has 257 bytes: want at most 256`,
		"server=%00":                         `server is "\x00": want text without control characters`,
		"gpu=":                               `gpu is empty: give a hw_id, or leave it out to see all`,
		"servers=a":                          `"servers": there is no such parameter here: want server, gpu, window, points, end, panels, seq`,
		"server=%zz":                         `the query: invalid URL escape "%zz": encode each value as RFC 3986 says`,
	} {
		_, err := parseWish(query, allParameters...)
		assert.EqualError(t, err, want, query)
	}
	_, err := parseWish(strings.Repeat("gpu=x&", 65), allParameters...)
	assert.EqualError(t, err, "gpu is given 65 times: at most 64 can be chosen; without it, all are shown")
}

func TestStepOf(t *testing.T) {
	for _, test := range []struct {
		window time.Duration
		points int64
		want   time.Duration
	}{
		{time.Minute, 60, time.Second},
		{time.Minute, 2000, time.Second},
		{15 * time.Minute, 899, 2 * time.Second},
		{6 * time.Hour, 720, 30 * time.Second},
		{24 * time.Hour, 800, 2 * time.Minute},
		{24 * time.Hour, 60, 30 * time.Minute},
	} {
		assert.Equal(t, test.want, stepOf(test.window, test.points), "%v in %d", test.window, test.points)
	}
}

func FuzzParseWish(f *testing.F) {
	f.Add("server=a:1&gpu=B&gpu=A&window=3600&points=500&end=1732500000000&seq=7")
	f.Add(`server="}) or vector(1) #&gpu=\Q|.*`)
	f.Add("server=%ff&window=1e3")
	f.Fuzz(func(t *testing.T, query string) {
		w, err := parseWish(query, allParameters...)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if n := w.window / w.step; w.window%time.Second != 0 || n > maxPoints || w.step < time.Second {
			t.Errorf("%q has %d buckets of %v in %v", query, n, w.step, w.window)
		}
		// Whatever the names are, they stay in their string.
		expr := substitute(`x{instance=~"$server",hw_id=~"$gpu"}`, view{server: w.server, gpus: w.gpus}, 0)
		tree, err := promqlParser.ParseExpr(expr)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		selector, ok := tree.(*parser.VectorSelector)
		if !ok || len(selector.LabelMatchers) != 3 {
			t.Fatalf("%s is not a selector with two labels", expr)
		}
		for _, m := range selector.LabelMatchers {
			if m.Name == "instance" && w.server != "" && !m.Matches(w.server) {
				t.Errorf("%s does not match %q", m, w.server)
			}
			for _, gpu := range w.gpus {
				if m.Name == "hw_id" && !m.Matches(gpu) {
					t.Errorf("%s does not match %q", m, gpu)
				}
			}
		}
		if _, err := url.ParseQuery(query); err != nil {
			t.Errorf("%q was accepted: %v", query, err)
		}
	})
}
