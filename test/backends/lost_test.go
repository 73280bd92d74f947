// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

// quickRetries shortens the outage's aftermath: with the shipped intervals the
// collector may notice only after 30 s that a backend is back.
const quickRetries = `
exporters:
  otlp_http: {retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}
  otlp_http/prometheus: {retry_on_failure: {initial_interval: 200ms, max_interval: 1s}}
service: {pipelines: {metrics: {exporters: [otlp_http, otlp_http/prometheus]}}}
`

// outlasting is a collector that is to lose nothing, and what it sends to.
type outlasting struct {
	*collectortest.Collector
	source     replayer
	prometheus *promtest.Server
	sink       *otlpsink.Sink
	state      string // folder
}

// gateway runs a collector with collector-config.yaml and both examples that
// push, which gets its metrics from a replayer. Further configurations go on top.
func gateway(t *testing.T, prometheus *promtest.Server, sink *otlpsink.Sink, overlays ...string) outlasting {
	t.Helper()
	state := filepath.Join(t.TempDir(), "state")
	r, receive := receiveOTLP(t)
	args := []string{
		"--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "otlp-out.yaml"),
		"--config", filepath.Join(root, "examples", "prometheus-push.yaml"), "--config", collectortest.ConfigFile(t, receive), "--config", collectortest.ConfigFile(t, quickRetries),
	}
	for _, o := range overlays {
		args = append(args, "--config", o)
	}
	c := collectortest.Start(t, []string{
		"PROMETHEUS_URL=" + prometheus.URL(), "OTLP_ENDPOINT=" + sink.URL(), "STATE_DIRECTORY=" + state,
		fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)),
		"LLAMACPP_LOG=" + filepath.Join(t.TempDir(), "llama-server.log"),
	}, args...)
	return outlasting{c, r, prometheus, sink, state}
}

// withoutRules is the shipped configuration, which scrapes nothing and makes no
// series of its own.
func withoutRules(t *testing.T) string {
	t.Helper()
	return replaced(t, prometheusConfig(t, "15s", nil, nil), "["+shippedRules(t)+"]", "[]")
}

// outage has the collector given half a minute of data before the backends go
// down, ten minutes while they are down and it is killed twice, and half a minute
// when they are back.
func (o outlasting) outage(t *testing.T, batches []pmetric.Metrics) {
	t.Helper()
	before, after := len(batches)/(2*recorded), len(batches)*(2*recorded-1)/(2*recorded)
	third := (after - before) / 3
	o.source.give(batches[:before]...)
	otlpsink.Eventually(t, time.Minute, func() bool { return len(o.sink.Points()) > 0 && len(stored(o.prometheus)) > 0 }, "points arrive")

	o.prometheus.Stop()
	o.sink.Down()
	o.source.give(batches[before : before+third]...)
	o.Kill()
	o.Start()
	o.source.give(batches[before+third : before+2*third]...)
	o.Kill()
	o.Start()
	o.source.give(batches[before+2*third : after]...)
	bytes := 0
	for _, md := range batches[before:after] {
		bytes += (&pmetric.ProtoMarshaler{}).MetricsSize(md)
	}
	queues, err := filepath.Glob(filepath.Join(o.state, "exporter_*_metrics"))
	require.NoError(t, err)
	for _, queue := range queues {
		info, err := os.Stat(queue)
		require.NoError(t, err)
		t.Logf("%d batches of %d bytes are in %s of %d bytes", after-before, bytes, filepath.Base(queue), info.Size())
	}

	o.prometheus.Start()
	o.sink.Up()
	o.source.give(batches[after:]...)
}

// Prometheus and an OTLP backend are down while ten minutes of data come, and
// the collector is killed meanwhile, twice: both have every point afterwards, once
// and with its value.
func TestQueues_TenMinutesOfOutageAndTwoKillsLoseNothing(t *testing.T) {
	t.Parallel()
	batches := record(t)
	prometheus, sink := promtest.Start(t, withoutRules(t)), otlpsink.Start(t)
	c := gateway(t, prometheus, sink)
	c.outage(t, batches)

	want, sent := expected(t, batches...), pointsOf(batches...)
	t.Logf("%d batches, %d points, %d samples of Prometheus", len(batches), len(sent), size(want))
	waitFor(prometheus, want)
	otlpsink.Eventually(t, time.Minute, func() bool { return len(sink.Points()) >= len(sent) }, "the sink has all")
	time.Sleep(2 * time.Second) // for what would come twice

	assert.Empty(t, differences(want, stored(prometheus)))
	assert.Empty(t, differencesOfPoints(sent, sink.Points()))
	assert.NotContains(t, c.Log(), "not retryable", "a backend refused points")
}

// A collector that was killed sends what it had begun to send after what waited
// behind it. A Prometheus that is not told to take that refuses it for good, with
// the whole request; a backend that does not care about the order has all.
func TestQueues_PrometheusWithoutAWindowRefusesWhatAKilledCollectorSendsAgain(t *testing.T) {
	t.Parallel()
	batches := record(t)
	batches = batches[:len(batches)/5]
	config := withoutRules(t)
	const window = "out_of_order_time_window: 2h"
	require.Contains(t, config, window)
	prometheus, sink := promtest.Start(t, strings.ReplaceAll(config, window, "out_of_order_time_window: 0s")), otlpsink.Start(t)
	c := gateway(t, prometheus, sink)
	c.outage(t, batches)

	sent := pointsOf(batches...)
	otlpsink.Eventually(t, time.Minute, func() bool { return len(sink.Points()) >= len(sent) }, "the sink has all")
	assert.Empty(t, differencesOfPoints(sent, sink.Points()))
	c.AwaitLog("not retryable error: Permanent error: rpc error: code = InvalidArgument")
	assert.NotEmpty(t, differences(expected(t, batches...), stored(prometheus)))
}

// Once Prometheus has newer samples of anything, it takes what is older than an
// hour only within its window: of an outage of the network between the collector
// and a Prometheus that goes on.
func TestQueues_WhatIsOlderThanAnHourNeedsAWindow(t *testing.T) {
	t.Parallel()
	now := record(t)
	fresh, old := now[len(now)-10:], earlier(now[:len(now)/recorded], 80*time.Minute)
	config := withoutRules(t)
	for window, takes := range map[string]bool{"2h": true, "0s": false} {
		t.Run(window, func(t *testing.T) {
			t.Parallel()
			prometheus := promtest.Start(t, strings.ReplaceAll(config, "out_of_order_time_window: 2h", "out_of_order_time_window: "+window))
			c := gateway(t, prometheus, otlpsink.Start(t))
			c.source.give(fresh...)
			otlpsink.Eventually(t, time.Minute, func() bool { return len(stored(prometheus)) > 0 }, "what is fresh arrives")
			c.source.give(old...)
			if !takes {
				c.AwaitLog("not retryable error: Permanent error: rpc error: code = InvalidArgument")
				return
			}
			want := expected(t, append(old, fresh...)...)
			waitFor(prometheus, want)
			assert.Empty(t, differences(want, stored(prometheus)))
		})
	}
}

// Remote write has a queue on disk of its own.
func TestRemoteWriteLog_OutageAndTwoKillsLoseNothing(t *testing.T) {
	t.Parallel()
	batches := record(t)
	batches = batches[:len(batches)/3]
	prometheus, sink := promtest.Start(t, withoutRules(t)), otlpsink.Start(t)
	c := gateway(t, prometheus, sink, filepath.Join(root, "examples", "prometheus-remote-write-wal.yaml"), collectortest.ConfigFile(t, `
exporters: {prometheus_remote_write: {retry_on_failure: {initial_interval: 200ms, max_interval: 1s}, wal: {truncate_frequency: 1s}}}
service: {pipelines: {metrics: {exporters: [otlp_http, prometheus_remote_write]}}}
`))
	c.outage(t, batches)

	want := expected(t, batches...)
	waitFor(prometheus, want)
	assert.Empty(t, differences(want, stored(prometheus)))
}

// samples are those of Prometheus, by series and time in milliseconds. A
// histogram is text.
type samples map[string]map[int64]string

func size(all samples) int {
	n := 0
	for _, s := range all {
		n += len(s)
	}
	return n
}

// expected is what Prometheus' own translation makes of batches. Points that
// only end a series are left out, as no query shows them; so is target_info, which
// Prometheus makes itself once for each request, at times of its own.
func expected(t *testing.T, batches ...pmetric.Metrics) samples {
	t.Helper()
	out := samples{}
	for _, md := range batches {
		_, err := prometheusremotewrite.NewPrometheusConverter(collect(out)).FromMetrics(t.Context(), md, prometheusremotewrite.Settings{
			AddMetricSuffixes: true, LabelNameUnderscoreSanitization: true, LabelNamePreserveMultipleUnderscores: true, DisableTargetInfo: true,
		})
		require.NoError(t, err)
	}
	return out
}

// collect is a storage of Prometheus.
type collect samples

// Append implements storage.AppenderV2.
func (c collect) Append(_ storage.SeriesRef, ls labels.Labels, _, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AOptions) (storage.SeriesRef, error) {
	if h != nil || fh != nil {
		return 0, fmt.Errorf("%s: a native histogram, for which this has no use", ls)
	}
	if math.IsNaN(v) {
		return 0, nil
	}
	series := ls.String()
	if c[series] == nil {
		c[series] = map[int64]string{}
	}
	c[series][at] = fmt.Sprint(v)
	return 0, nil
}

// Commit implements storage.AppenderV2.
func (collect) Commit() error { return nil }

// Rollback implements storage.AppenderV2.
func (collect) Rollback() error { return nil }

// stored is what a query finds of what was pushed.
func stored(p *promtest.Server) samples {
	out := samples{}
	for _, series := range p.Samples(`{__name__=~".+", __name__!="target_info", job!~"otelcol.*"}[4h]`) {
		at := map[int64]string{}
		for _, s := range series.Values {
			at[int64(s.Timestamp)] = fmt.Sprint(float64(s.Value))
		}
		lb := labels.NewScratchBuilder(len(series.Metric))
		for k, v := range series.Metric {
			lb.Add(string(k), string(v))
		}
		lb.Sort()
		out[lb.Labels().String()] = at
	}
	return out
}

// waitFor waits until Prometheus has as many samples as there should be.
func waitFor(p *promtest.Server, want samples) {
	for end := time.Now().Add(time.Minute); size(stored(p)) < size(want) && time.Now().Before(end); {
		time.Sleep(time.Second)
	}
}

// differences are what is missing, what is too much, and what has another
// value.
func differences(want, got samples) []string {
	var out []string
	for _, series := range slices.Sorted(maps.Keys(want)) {
		missing, other := 0, 0
		for at, value := range want[series] {
			switch stored, ok := got[series][at]; {
			case !ok:
				missing++
			case stored != value:
				other++
			}
		}
		if missing+other > 0 {
			out = append(out, fmt.Sprintf("%s: of %d samples %d are missing, and %d have another value", series, len(want[series]), missing, other))
		}
	}
	for _, series := range slices.Sorted(maps.Keys(got)) {
		more := 0
		for at := range got[series] {
			if _, ok := want[series][at]; !ok {
				more++
			}
		}
		if more > 0 {
			out = append(out, fmt.Sprintf("%s: %d samples that nobody sent", series, more))
		}
	}
	return out
}

func pointsOf(batches ...pmetric.Metrics) otlpsink.Points {
	var out otlpsink.Points
	for _, md := range batches {
		out = append(out, otlpsink.PointsOf(md)...)
	}
	return out
}

// differencesOfPoints are the points that are missing, too many, or of
// another value.
func differencesOfPoints(want, got otlpsink.Points) []string {
	count := map[string]int{}
	key := func(p otlpsink.Point) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %v %d..%d = %v", p.Series(), p.Resource, p.Start.UnixNano(), p.Time.UnixNano(), p.Value)
		if p.Distribution != nil {
			fmt.Fprintf(&b, " %v", *p.Distribution)
		}
		return b.String()
	}
	for _, p := range want {
		count[key(p)]++
	}
	for _, p := range got {
		count[key(p)]--
	}
	var missing, more int
	var example string
	for k, n := range count {
		if n != 0 {
			example = k
		}
		missing, more = missing+max(0, n), more+max(0, -n)
	}
	if missing+more == 0 {
		return nil
	}
	return []string{fmt.Sprintf("of %d points %d are missing, and %d are too many: %s", len(want), missing, more, example)}
}

// arrives waits until a sink has every point of batches, and checks that it has
// each once.
func arrives(t *testing.T, batches []pmetric.Metrics, sink *otlpsink.Sink) {
	t.Helper()
	sent := pointsOf(batches...)
	otlpsink.Eventually(t, time.Minute, func() bool { return len(sink.Points()) >= len(sent) }, "%d points arrive", len(sent))
	time.Sleep(2 * time.Second) // for what would come twice
	assert.Empty(t, differencesOfPoints(sent, sink.Points()))
}
