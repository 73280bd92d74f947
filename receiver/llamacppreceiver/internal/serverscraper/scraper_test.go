// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverscraper

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/collector/scraper/scrapererror"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"
	receivermetadata "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// looks hands out one observation after the other.
type looks []watch.Observation

func (l *looks) Look(context.Context, time.Duration) (watch.Observation, bool) {
	o := (*l)[0]
	*l = (*l)[1:]
	return o, true
}

func newIdentity(t *testing.T) *identity.Server {
	t.Helper()
	e, err := endpoint.Parse("http://server:8080")
	require.NoError(t, err)
	id := identity.New(receivermetadata.DefaultResourceAttributesConfig(), "llama-server", e)
	t.Cleanup(id.Withdraw)
	return id
}

func scrapes(t *testing.T, cfg Config, forward bool, observations ...watch.Observation) (all []pmetric.Metrics, err error) {
	t.Helper()
	l := looks(observations)
	s := New(&cfg, receivertest.NewNopSettings(receivertest.NopType), &l, newIdentity(t), forward)
	for range observations {
		var md pmetric.Metrics
		md, err = s.Scrape(t.Context())
		all = append(all, md)
	}
	return all, err
}

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "internal", "llamaserver", "testdata", "recorded", name+".http"))
	require.NoError(t, err)
	_, b, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	return b
}

func snapshot(t *testing.T, text []byte) *watch.Snapshot {
	t.Helper()
	m, err := llamaserver.ParseMetrics(text)
	require.NoError(t, err)
	return &watch.Snapshot{Metrics: m, Process: 1, Began: time.Now(), Ended: time.Now()}
}

func props(t *testing.T, name string) *llamaserver.Props {
	t.Helper()
	p, err := llamaserver.ParseProps(recorded(t, name))
	require.NoError(t, err)
	return p
}

// equal compares with testdata/NAME.yaml.
func equal(t *testing.T, name string, actual pmetric.Metrics) {
	t.Helper()
	goldenfile.EqualMetrics(t, filepath.Join("testdata", name+".yaml"), actual)
}

func TestScrape_RecordedAnswersOfTheRealServer(t *testing.T) {
	for _, tt := range []struct{ name, metrics, props string }{
		{"idle", "idle/metrics_after", "idle/props"},
		{"busy", "load/metrics_busy_deferred", "load/props_busy"},
		{"over_a_million", "precision/metrics_over_1e6", "idle/props"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			md, err := scrapes(t, NewDefaultConfig(), true, watch.Observation{Server: watch.View{
				State: watch.OK, Props: props(t, tt.props), Snapshot: snapshot(t, recorded(t, tt.metrics)),
				Responses: []watch.Response{{Path: "/metrics", Duration: time.Millisecond}},
			}})
			require.NoError(t, err)
			equal(t, tt.name, md[0])
		})
	}
}

func TestScrape_RouterHasAResourceForEachModel(t *testing.T) {
	models, err := llamaserver.ParseModels(recorded(t, "router/models_two_loaded"))
	require.NoError(t, err)
	md, err := scrapes(t, NewDefaultConfig(), true, watch.Observation{
		Server: watch.View{State: watch.OK, Props: props(t, "router/props"), Responses: []watch.Response{{Path: "/models", Duration: time.Millisecond}}},
		Models: models,
		Children: []watch.View{
			{Model: "tiny", State: watch.OK, Props: props(t, "router/props_loaded"), Snapshot: snapshot(t, recorded(t, "router/metrics_loaded_autoload_false"))},
			{Model: "other", State: watch.Sleeping, Snapshot: snapshot(t, recorded(t, "router/metrics_sleeping"))},
			{Model: "new", State: watch.Loading},
		},
	})
	require.NoError(t, err)
	equal(t, "router", md[0])
}

func TestScrape_UnreachableServerStillHasAStatus(t *testing.T) {
	md, err := scrapes(t, NewDefaultConfig(), true, watch.Observation{Server: watch.View{
		State: watch.Unreachable, Err: errors.New("refused"), Responses: []watch.Response{{Path: "/health", Duration: time.Millisecond}},
	}})
	require.EqualError(t, err, "refused")
	assert.True(t, scrapererror.IsPartialScrapeError(err))
	equal(t, "unreachable", md[0])
}

func TestScrape_OlderBuildIsReadAsFarAsItGoes(t *testing.T) {
	md, err := scrapes(t, NewDefaultConfig(), true, watch.Observation{Server: watch.View{State: watch.OK, Snapshot: snapshot(t, []byte(
		`# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 7
# TYPE llamacpp:n_busy_slots_per_decode counter
llamacpp:n_busy_slots_per_decode -nan
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
`))}})
	require.NoError(t, err)
	equal(t, "older_build", md[0])
}

var future = []byte(`# HELP llamacpp:prompt_tokens_total Known.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 7
# HELP llamacpp:kv_evictions_total Evictions.
# TYPE llamacpp:kv_evictions_total counter
llamacpp:kv_evictions_total{cause="full"} 3
llamacpp:kv_evictions_total{cause="idle"} 4
# TYPE llamacpp:kv_fill gauge
llamacpp:kv_fill 0.5
# TYPE llamacpp:kv_empty gauge
llamacpp:kv_empty nan
# TYPE llamacpp:wait_seconds histogram
llamacpp:wait_seconds_bucket{le="0.1"} 2
llamacpp:wait_seconds_bucket{le="1"} 5
llamacpp:wait_seconds_bucket{le="+Inf"} 6
llamacpp:wait_seconds_sum 3.5
llamacpp:wait_seconds_count 6
# TYPE llamacpp:size summary
llamacpp:size{quantile="0.5"} 10
llamacpp:size_sum 30
llamacpp:size_count 3
ggml:threads 8
`)

func TestScrape_FutureBuildsFamiliesArePassedOn(t *testing.T) {
	o := watch.Observation{Server: watch.View{State: watch.OK, Snapshot: snapshot(t, future)}}
	md, err := scrapes(t, NewDefaultConfig(), true, o)
	require.NoError(t, err)
	equal(t, "future_build", md[0])

	md, err = scrapes(t, NewDefaultConfig(), false, o)
	require.NoError(t, err)
	equal(t, "future_build_not_forwarded", md[0])
}

func TestScrape_FamiliesArePassedOnWithEveryDeclaredMetricOff(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.MetricsBuilderConfig.Metrics.LlamacppServerStatus.Enabled = false
	cfg.MetricsBuilderConfig.Metrics.LlamacppTokensPrompt.Enabled = false
	md, err := scrapes(t, cfg, true, watch.Observation{Server: watch.View{Model: "m", State: watch.OK, Snapshot: snapshot(t, future)}})
	require.NoError(t, err)
	require.Equal(t, 1, md[0].ResourceMetrics().Len())
	model, _ := md[0].ResourceMetrics().At(0).Resource().Attributes().Get("llamacpp.model.name")
	assert.Equal(t, "m", model.Str())
	assert.Equal(t, 5, md[0].MetricCount())
}

// 1000001 drafted less 999994 accepted are 7. Printed, the first is 1e+06, and
// the difference 6.
func TestScrape_RejectedTokensDoNotGoBackWhenPrintedNumbersAreRounded(t *testing.T) {
	text := func(drafted, accepted string) []byte {
		return []byte("# TYPE llamacpp:spec_decode_num_draft_tokens_total counter\nllamacpp:spec_decode_num_draft_tokens_total " + drafted +
			"\n# TYPE llamacpp:spec_decode_num_accepted_tokens_total counter\nllamacpp:spec_decode_num_accepted_tokens_total " + accepted + "\n")
	}
	view := func(process int, drafted, accepted string) watch.Observation {
		s := snapshot(t, text(drafted, accepted))
		s.Process = process
		return watch.Observation{Server: watch.View{State: watch.OK, Snapshot: s}}
	}
	all, err := scrapes(t, NewDefaultConfig(), true, view(1, "999999", "999992"), view(1, "1e+06", "999994"), view(2, "3", "1"))
	require.NoError(t, err)
	var got []int64
	for _, md := range all {
		got = append(got, find(t, md, "llamacpp.speculative.tokens", "rejected").IntValue())
	}
	assert.Equal(t, []int64{7, 7, 2}, got)
}

func TestScrape_StartTimeIsTheProcesss(t *testing.T) {
	view := func(process int, since time.Time) watch.Observation {
		s := snapshot(t, recorded(t, "idle/metrics_after"))
		s.Process, s.Since = process, since
		return watch.Observation{Server: watch.View{State: watch.OK, Snapshot: s}}
	}
	down := watch.Observation{Server: watch.View{State: watch.Unreachable}}
	all, err := scrapes(t, NewDefaultConfig(), true, view(1, time.Time{}), view(1, time.Time{}), down, view(2, time.Now().Add(-time.Hour)))
	require.NoError(t, err)
	first := find(t, all[0], "llamacpp.tokens.predicted", "")
	assert.Equal(t, first.Timestamp(), first.StartTimestamp(), "nobody knows when it started")
	again := find(t, all[1], "llamacpp.tokens.predicted", "")
	assert.Equal(t, first.StartTimestamp(), again.StartTimestamp())
	between := find(t, all[2], "llamacpp.server.status", "unreachable")
	assert.Equal(t, first.StartTimestamp(), between.StartTimestamp())
	next := find(t, all[3], "llamacpp.tokens.predicted", "")
	assert.Equal(t, between.Timestamp(), next.StartTimestamp(), "not before the last point of the process before")
}

// find returns the point of a sum that has an attribute of the value.
func find(t *testing.T, md pmetric.Metrics, name, value string) pmetric.NumberDataPoint {
	t.Helper()
	for _, m := range points.Metrics(md) {
		if m.Name() != name {
			continue
		}
		for _, p := range points.Numbers(m).All() {
			found := value == ""
			for _, v := range p.Attributes().All() {
				found = found || v.AsString() == value
			}
			if found {
				return p
			}
		}
	}
	require.Fail(t, "no point", "%s %s", name, value)
	return pmetric.NumberDataPoint{}
}
