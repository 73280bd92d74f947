// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// resident is the memory of a process in MiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(t, m)
	kib, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kib >> 10
}

// Somebody sends ever new series: they are refused with one line, without memory for
// them, and the series that are there go on.
func TestDashboard_RefusesSeriesBeyondItsLimit(t *testing.T) {
	t.Parallel()
	const limit, known, batches, batch = 1000, 900, 300, 1000
	c, env := run(t, `
receivers:
  otlp: {protocols: {http: {endpoint: "localhost:${env:OTLP_PORT}"}}}
exporters:
  dashboard:
    endpoint: localhost:${env:DASHBOARD_PORT}
    max_series: 1000
service:
  pipelines:
    metrics: {receivers: [otlp], exporters: [dashboard]}
  telemetry:
    metrics:
      readers: [pull: {exporter: {prometheus: {host: localhost, port: "${env:TELEMETRY_PORT}"}}}]
`)
	variable := func(name string) string {
		for _, pair := range env {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
	port := variable("OTLP_PORT")
	send(t, port, gauges("good", 0, known, 1, time.Now().UnixNano()))
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			send(t, port, gauges("evil", i*batch, batch, 1, time.Now().UnixNano()))
		}
	}
	flood(0, batches/10) // so that what serving it takes is there
	before := resident(t, c.PID())
	flood(batches/10, batches)
	grown := resident(t, c.PID()) - before
	// As series, they would take some hundred MiB.
	assert.Less(t, grown, 64, "MiB more than before %d further series", batches*batch*9/10)

	send(t, port, gauges("good", 0, known, 2, time.Now().UnixNano()))
	c.eventually(func() bool { return c.is(known, `count(many{instance="good"} == 2)`) }, "the series that were there go on")
	head := struct {
		Data struct {
			HeadStats struct{ NumSeries int } `json:"headStats"`
		}
	}{}
	c.read("/api/v1/status/tsdb", &head)
	assert.InDelta(t, limit, head.Data.HeadStats.NumSeries, limit/20, "series, with those of rules")
	const line = "The history holds as many series as max_series allows"
	c.AwaitLog(line)
	assert.Equal(t, 1, strings.Count(c.Log(), line), "lines about it")

	response, err := http.Get("http://localhost:" + variable("TELEMETRY_PORT") + "/metrics")
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	m := regexp.MustCompile(`otelcol_dashboard_refused_points\w*\{[^}]*reason="series_limit"[^}]*\} (\S+)`).FindSubmatch(text)
	require.NotNil(t, m, "%s", text)
	refused, err := strconv.ParseFloat(string(m[1]), 64)
	require.NoError(t, err)
	assert.InDelta(t, batches*batch, refused, limit, "counted")
}
