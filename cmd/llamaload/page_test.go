// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// readPage returns what a page was made from. It fails if the page needs anything
// from outside.
func readPage(t *testing.T, html string) map[string]any {
	t.Helper()
	assert.NotRegexp(t, `(?:src|href)="(?:assets|https?:|/)`, html)
	assert.Contains(t, html, `http-equiv="Content-Security-Policy" content="default-src 'none';`)
	m := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindStringSubmatch(html)
	require.Len(t, m, 2)
	var data struct {
		Kind    string
		Reports []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(m[1]), &data))
	assert.Equal(t, "load", data.Kind)
	require.Len(t, data.Reports, 1)
	return data.Reports[0]
}

func readPageFile(t *testing.T, path string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return readPage(t, string(b))
}

func TestHTML_HasWhatTheJSONHas(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	quick := []string{"--url", url, "--duration", "500ms", "--max-tokens", "2-5", "--seed", "7"}
	for name, args := range map[string][]string{
		"run":      {"run", "--rate", "20", "--objective", "ttft<500ms && tpot<50ms"},
		"repeated": {"run", "--rate", "20", "--repeat", "2"},
		"sweep":    {"sweep", "--rates", "10,20"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			page, file := filepath.Join(dir, "page.html"), filepath.Join(dir, "report.json")
			code, _, stderr := llamaload(t, append(append(args, quick...), "--html", page, "--json", file)...)
			require.Equal(t, exitDone, code, stderr)
			assert.Equal(t, readReport(t, file), readPageFile(t, page))
		})
	}
}

func TestHTML_OfASearchHasItsTrials(t *testing.T) {
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000})
	code, stdout, stderr := llamaload(t, "saturate", "--url", url, "--max-users", "1", "--max-tokens", "2", "--trial", "400ms", "--warm-up", "0s", "--objective", "ttft<1ns", "--html", "-")
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, stderr, "ceiling ", "standard output is for the page")
	assert.True(t, strings.HasPrefix(stdout, "<!doctype html>"), "%.50s", stdout)
	found := readPage(t, stdout)
	assert.NotEmpty(t, found["trials"])
	assert.Nil(t, found["limit_requests_per_second"])
}

func TestHTML_OfAComparisonHasTheDifferencesAndBothReports(t *testing.T) {
	dir := t.TempDir()
	report := func(tokensPerSecond float64) string {
		_, url := simulator(t, llamasim.Options{TokensPerSecond: tokensPerSecond, PromptTokensPerSecond: 1e6})
		file := filepath.Join(t.TempDir(), "report.json")
		code, _, stderr := llamaload(t, "run", "--url", url, "--rate", "50", "--duration", "1s", "--max-tokens", "5-9", "--seed", "1", "--json", file)
		require.Equal(t, exitDone, code, stderr)
		return file
	}
	fast, slow, page := report(1000), report(250), filepath.Join(dir, "page.html")
	code, stdout, stderr := llamaload(t, "compare", fast, slow, "--html", page)
	require.Equal(t, exitDone, code, stderr)
	assert.Contains(t, stdout, "slower")
	found := readPageFile(t, page)
	assert.Equal(t, "compare", found["llamaload"])
	assert.InEpsilon(t, number(t, readReport(t, slow), "rates.requests"), number(t, found, "b.rates.requests"), 1e-9)
	differences := found["differences"].([]any)
	require.Len(t, differences, 9)
	shown := differences[3].(map[string]any)
	assert.Equal(t, []any{"tpot", "p50", true}, []any{shown["metric"], shown["statistic"], shown["shown"]})
	assert.InDelta(t, 0.003, shown["b"].(float64)-shown["a"].(float64), 0.002)
	assert.Contains(t, found["over"], "--repeat 5 gives better ones")
}
