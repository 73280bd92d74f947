// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// everything is what all components emit, as a script of Prometheus' own tests:
// each metric with each value of its labels, a point a second, twenty minutes
// long. Histograms have fixed buckets or are native.
func everything(t *testing.T, native bool) string {
	t.Helper()
	var script strings.Builder
	script.WriteString("load 1s\n")
	line := func(name string, labels map[string]string, values string) {
		var pairs []string
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			pairs = append(pairs, fmt.Sprintf("%s=%q", key, labels[key]))
		}
		fmt.Fprintf(&script, "  %s{%s} %s\n", name, strings.Join(pairs, ", "), values)
	}
	resources := map[string]map[string]string{
		"llama-server": {"job": "llama-server", "instance": "localhost:8080"},
		"nvidia-gpu":   {"job": "nvidia-gpu", "instance": "gpu-host", "hw_id": "GPU-1", "hw_name": "NVIDIA L4"},
		"llamaload":    {"job": "llamaload", "instance": "run-1", "gen_ai_request_model": "m", "loadgen_slo": "default", "loadgen_outcome": "ok"},
	}
	for _, d := range declared(t) {
		resource := "llama-server"
		switch {
		case strings.HasPrefix(d.name, "loadgen.") || strings.HasPrefix(d.name, "gen_ai.client."):
			resource = "llamaload"
		case strings.HasPrefix(d.name, "hw.") || strings.HasPrefix(d.name, "nvidia."):
			resource = "nvidia-gpu"
		}
		// Every combination of the labels' values.
		sets := []map[string]string{maps.Clone(resources[resource])}
		spread := func(key string, values []string) {
			var more []map[string]string
			for _, set := range sets {
				for _, value := range values {
					with := maps.Clone(set)
					with[key] = value
					more = append(more, with)
				}
			}
			sets = more
		}
		for key, values := range d.labels {
			switch {
			case key == "hw_id" || key == "hw_name":
				spread(key, []string{resources["nvidia-gpu"][key]})
			case len(values) == 0:
				spread(key, []string{"xid.79"}) // any will do; this one is a kind of error
			default:
				spread(key, values)
			}
		}
		switch d.name {
		case "llamacpp.request.tokens", "loadgen.tokens", "gen_ai.client.token.usage", "llamacpp.proxy.tokens":
			spread("gen_ai_token_type", []string{"input", "output"})
		}
		if d.proxied {
			spread("llamacpp_observer", []string{"proxy"})
			spread("llamacpp_client_name", []string{"alice"})
		}
		if d.name == "http.server.request.duration" {
			left := maps.Clone(sets[0]) // before there was a status
			spread("http_response_status_code", []string{"200"})
			left["error_type"] = "cancelled"
			sets = append(sets, left)
		}
		name := d.names(t)[0]
		for _, set := range sets {
			switch {
			case d.kind == otlptranslator.MetricTypeHistogram && native:
				line(name, set, "{{schema:0 sum:0 count:0}}+{{schema:0 sum:3 count:2 offset:0 buckets:[1 1]}}x1200")
			case d.kind == otlptranslator.MetricTypeHistogram:
				line(name+"_sum", set, "0+3x1200")
				line(name+"_count", set, "0+2x1200")
				for le, n := range map[string]int{"1": 1, "2": 2, "+Inf": 2} {
					with := maps.Clone(set)
					with["le"] = le
					line(name+"_bucket", with, fmt.Sprintf("0+%dx1200", n))
				}
			case d.kind == otlptranslator.MetricTypeMonotonicCounter:
				line(name, set, "0+2x1200")
			default:
				line(name, set, "1x1200")
			}
		}
	}
	line("target_info", map[string]string{"job": "llama-server", "instance": "localhost:8080", "llamacpp_model_name": "m", "llamacpp_model_ftype": "Q4_K", "service_version": "b1"}, "1x1200")
	_, recorded := ruleExpressions(t)
	for name := range recorded {
		line(name, map[string]string{"instance": "localhost:8080"}, "1x1200")
	}
	return script.String()
}

// What stands in for another that has a series here.
var insteadOf = map[string]bool{
	"panel token-rate, generated, by requests that ended": true,
	"panel request-rate, seen in a slot":                  true,
}

// Where everything is emitted, every expression has a result.
func TestCatalogue_EveryExpressionHasAResult(t *testing.T) {
	for _, native := range []bool{false, true} {
		storage := promqltest.LoadedStorage(t, everything(t, native))
		engine := promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 15 * time.Second, Parser: promqlParser})
		for _, x := range loaded(t).expressions() {
			query, err := engine.NewInstantQuery(t.Context(), storage, nil, Expand(x.text, Variables{
				Server: []string{"localhost:8080"}, GPU: []string{"GPU-1"}, Run: []string{"run-1"}, Interval: 30 * time.Second,
			}), time.Unix(1100, 0))
			require.NoError(t, err, x.of)
			result := query.Exec(t.Context())
			require.NoError(t, result.Err, x.of)
			vector, err := result.Vector()
			require.NoError(t, err, x.of)
			assert.Equal(t, insteadOf[x.of], len(vector) == 0, "native: %t, %s: %d series: %s", native, x.of, len(vector), x.text)
			for _, sample := range vector {
				assert.False(t, math.IsNaN(sample.F) || math.IsInf(sample.F, 0), "native: %t, %s: %v", native, x.of, sample)
			}
			assert.Empty(t, result.Warnings.AsErrors(), x.of)
			query.Close()
		}
	}
}
