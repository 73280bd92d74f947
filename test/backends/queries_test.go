// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// query is one of a document.
type query struct{ document, text string }

// withoutAnswer are texts in documents that look like queries and have no
// series, each with the reason.
var withoutAnswer = map[string]string{
	"hw_id":             "a label",
	"hw_slowdown":       "a reason of nvidia_gpu_throttle",
	"llamacpp_observer": "a label",
	// docs/reliability.md names what a collector has only with a queue, or once something went wrong; reliability_test.go
	// makes that happen.
	"otelcol_exporter_queue_size":                            "of a queue",
	"otelcol_exporter_enqueue_failed_metric_points":          "of a queue that is full",
	"otelcol_exporter_send_failed_metric_points":             "of a backend that refuses",
	"otelcol_processor_memory_limiter_refused_metric_points": "of a collector that is short of memory",
}

var (
	promqlFence = regexp.MustCompile("(?s)\n```promql\n(.*?\n)```")
	anyFence    = regexp.MustCompile("(?s)\n *```.*?\n *```")
	codeSpan    = regexp.MustCompile("`([^`\n]+)`")
	// ourSeries is in every query: a metric as Prometheus names it.
	ourSeries = regexp.MustCompile(`\b(?:llamacpp|gen_ai|hw|nvidia|otelcol)_[a-z0-9_]+`)
	// wildcard is in the name of several metrics, which is no query.
	wildcard = regexp.MustCompile(`_\*|…`)
)

// queriesOf finds the PromQL of a document: in fenced blocks, where a blank
// line or a comment ends a query, and in its text and tables.
func queriesOf(t *testing.T, document string) []query {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, document))
	require.NoError(t, err)
	var out []query
	for _, block := range promqlFence.FindAllSubmatch(text, -1) {
		for _, part := range regexp.MustCompile(`(?m)^(#.*)?\n`).Split(string(block[1]), -1) {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, query{document, part})
			}
		}
	}
	for _, span := range codeSpan.FindAllSubmatch(anyFence.ReplaceAll(text, nil), -1) {
		if s := string(span[1]); ourSeries.MatchString(s) && !wildcard.MatchString(s) {
			out = append(out, query{document, s})
		}
	}
	return out
}

func documentedQueries(t *testing.T) []query {
	t.Helper()
	var out []query
	for _, pattern := range []string{"*.md", "docs/*.md", "receiver/*/README.md", "connector/*/README.md", "examples/*.md", "examples/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			document, err := filepath.Rel(root, file)
			require.NoError(t, err)
			out = append(out, queriesOf(t, document)...)
		}
	}
	return slices.DeleteFunc(out, func(q query) bool { _, known := withoutAnswer[q.text]; return known })
}

// A rate needs two samples: a range has to hold with four scrapes of Prometheus'
// usual 15 s, of which one may be missed.
func TestDocumentedQueries_RangesHoldAtUsualScrapeIntervals(t *testing.T) {
	queries := documentedQueries(t)
	require.Greater(t, len(queries), 20)
	rangeOf := regexp.MustCompile(`\[(\w+)\]`)
	for _, q := range queries {
		for _, r := range rangeOf.FindAllStringSubmatch(q.text, -1) {
			d, err := model.ParseDuration(r[1])
			require.NoError(t, err, "%s: %s", q.document, q.text)
			assert.GreaterOrEqual(t, time.Duration(d), time.Minute, "%s: %s", q.document, q.text)
		}
		for _, function := range []string{"rate(", "increase(", "avg_over_time("} {
			assert.Equal(t, strings.Count(q.text, function) > 0, strings.Contains(q.text, function) && rangeOf.MatchString(q.text), "no range: %s: %s", q.document, q.text)
		}
	}
}

// Everything that a document asks Prometheus has an answer, however the metrics
// come and however often Prometheus scrapes: of a real server that is at work, its
// log, its proxy, and two GPUs.
func TestDocumentedQueries_HaveAnswers(t *testing.T) {
	t.Parallel()
	server := llamatest.Start(t, llamatest.Options{LogFile: filepath.Join(t.TempDir(), "llama-server.log")})
	driver := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	driver.SetProcesses(0, fakenvml.Process{PID: uint64(server.PID), Memory: 6 << 30})

	setups := []struct {
		way
		interval string
	}{{ways[0], "1s"}, {ways[0], "15s"}, {ways[1], "15s"}, {ways[2], "15s"}}
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	for seed := range 2 {
		wg.Go(func() { keepAsking(t, server.Client(), uint64(seed), done) })
	}
	for i, s := range setups {
		proxy := fmt.Sprintf("localhost:%d", freeport.For(t))
		prometheus, c := startWay(t, s.way, s.interval, `
receivers: {llamacpp: {scrapers: {gpu: {metrics: {nvidia.gpu.dram.utilization: {enabled: true}}}}}}
`, "LLAMACPP_ENDPOINT="+server.URL(), "LLAMACPP_LOG="+server.Log(), "LD_LIBRARY_PATH="+driver.Folder(), "LLAMAPROXY_ENDPOINT="+proxy)
		c.AwaitLog("Everything is ready")
		through := server.Client()
		through.BaseURL = "http://" + proxy
		wg.Go(func() { keepAsking(t, through, uint64(10+i), done) })
		t.Run(fmt.Sprintf("%s, %s", s.name, s.interval), func(t *testing.T) {
			for _, q := range documentedQueries(t) {
				if s.pushes && strings.HasPrefix(q.text, "otelcol_") {
					continue // the collector's own metrics are scraped
				}
				otlpsink.Eventually(t, 90*time.Second, func() bool {
					return slices.ContainsFunc(prometheus.Query(q.text), func(s *model.Sample) bool { return !math.IsNaN(float64(s.Value)) })
				}, "an answer to %s: %s", q.document, q.text)
			}
		})
	}
}

// keepAsking makes requests of all kinds until done: alike ones, of which the
// prompt is in the cache, and some that are left.
func keepAsking(t *testing.T, client *llamatest.Client, seed uint64, done <-chan struct{}) {
	t.Helper()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		q := llamatest.Request{PromptWords: 30, Seed: seed, MaxTokens: 40, Stream: true}
		if i%5 == 4 {
			q.CancelAfterTokens = 3
		}
		if _, err := client.Complete(t.Context(), q); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}
