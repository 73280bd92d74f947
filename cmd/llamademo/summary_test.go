// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const exposition = `# TYPE gen_ai_server_request_duration_seconds histogram
gen_ai_server_request_duration_seconds_bucket{instance="h:1/a",le="1"} 2
gen_ai_server_request_duration_seconds_bucket{instance="h:1/a",le="2"} 3
gen_ai_server_request_duration_seconds_bucket{instance="h:1/a",le="+Inf"} 4
gen_ai_server_request_duration_seconds_sum{instance="h:1/a"} 9
gen_ai_server_request_duration_seconds_count{instance="h:1/a"} 4
gen_ai_server_request_duration_seconds_bucket{instance="h:1/b",le="1"} 2
gen_ai_server_request_duration_seconds_bucket{instance="h:1/b",le="2"} 2
gen_ai_server_request_duration_seconds_bucket{instance="h:1/b",le="+Inf"} 2
gen_ai_server_request_duration_seconds_sum{instance="h:1/b"} 1
gen_ai_server_request_duration_seconds_count{instance="h:1/b"} 2
gen_ai_server_request_duration_seconds_bucket{error_type="cancelled",instance="h:1/b",le="1"} 7
gen_ai_server_request_duration_seconds_bucket{error_type="cancelled",instance="h:1/b",le="+Inf"} 7
gen_ai_server_request_duration_seconds_sum{error_type="cancelled",instance="h:1/b"} 1
gen_ai_server_request_duration_seconds_count{error_type="cancelled",instance="h:1/b"} 7
# TYPE hw_gpu_memory_limit_bytes gauge
hw_gpu_memory_limit_bytes{hw_id="GPU-1"} 8e10
hw_gpu_memory_limit_bytes{hw_id="GPU-2"} 8e10
# TYPE hw_gpu_memory_usage_bytes gauge
hw_gpu_memory_usage_bytes{hw_id="GPU-1"} 1e10
hw_gpu_memory_usage_bytes{hw_id="GPU-2"} 2e10
# TYPE hw_gpu_utilization_ratio gauge
hw_gpu_utilization_ratio{hw_gpu_task="general",hw_id="GPU-1"} 0.5
hw_gpu_utilization_ratio{hw_gpu_task="encoder",hw_id="GPU-1"} 0.9
hw_gpu_utilization_ratio{hw_gpu_task="general",hw_id="GPU-2"} 0.75
# TYPE hw_power_watts gauge
hw_power_watts{hw_id="GPU-1"} 300
hw_power_watts{hw_id="GPU-2"} 200
# TYPE llamacpp_context_utilization_ratio gauge
llamacpp_context_utilization_ratio{instance="h:1/a"} 0.25
llamacpp_context_utilization_ratio{instance="h:1/b"} 0.5
# TYPE llamacpp_requests_deferred gauge
llamacpp_requests_deferred{instance="h:1/a"} 2
# TYPE llamacpp_requests_processing gauge
llamacpp_requests_processing{instance="h:1/a"} 3
llamacpp_requests_processing{instance="h:1/b"} 1
# TYPE llamacpp_server_status gauge
llamacpp_server_status{instance="h:1/a",llamacpp_server_state="error"} 0
llamacpp_server_status{instance="h:1/a",llamacpp_server_state="ok"} 1
# TYPE loadgen_request_duration_seconds histogram
loadgen_request_duration_seconds_bucket{job="llamaload",le="1"} 2
loadgen_request_duration_seconds_bucket{job="llamaload",le="4"} 4
loadgen_request_duration_seconds_bucket{job="llamaload",le="+Inf"} 4
loadgen_request_duration_seconds_sum{job="llamaload"} 9
loadgen_request_duration_seconds_count{job="llamaload"} 4
# TYPE loadgen_request_time_to_first_token_seconds histogram
loadgen_request_time_to_first_token_seconds_bucket{job="llamaload",le="0.5"} 4
loadgen_request_time_to_first_token_seconds_bucket{job="llamaload",le="+Inf"} 4
loadgen_request_time_to_first_token_seconds_sum{job="llamaload"} 1
loadgen_request_time_to_first_token_seconds_count{job="llamaload"} 4
# TYPE loadgen_requests_total counter
loadgen_requests_total{loadgen_outcome="ok"} 4
loadgen_requests_total{error_type="400",loadgen_outcome="error"} 3
loadgen_requests_total{error_type="timeout",loadgen_outcome="error"} 1
# TYPE llamacpp_slots gauge
llamacpp_slots{llamacpp_slot_state="generating"} 2
llamacpp_slots{llamacpp_slot_state="idle"} 1
llamacpp_slots{llamacpp_slot_state="prompt"} 1
# TYPE llamacpp_request_queue_duration_seconds histogram
llamacpp_request_queue_duration_seconds_bucket{llamacpp_observer="proxy",le="0.5"} 4
llamacpp_request_queue_duration_seconds_bucket{llamacpp_observer="proxy",le="+Inf"} 4
# TYPE llamacpp_slots_tokens_decoded_total counter
llamacpp_slots_tokens_decoded_total{instance="h:1/a"} 100
llamacpp_slots_tokens_decoded_total{instance="h:1/b"} 20
# TYPE llamacpp_slots_tokens_processed_total counter
llamacpp_slots_tokens_processed_total 1000
# TYPE llamacpp_tokens_prompt_total counter
llamacpp_tokens_prompt_total{llamacpp_tokens_source="cached"} 300
llamacpp_tokens_prompt_total{llamacpp_tokens_source="computed"} 100
`

func TestParseSample_AddsUpTheModelsOfARouter(t *testing.T) {
	got, err := parseSample(strings.NewReader(exposition))
	require.NoError(t, err)
	assert.Equal(t, sample{
		state:   "ok",
		decoded: 120, processed: 1000,
		computed: 100, cached: 300,
		processing: 4, deferred: 2,
		idle: 1, prompt: 1, working: 2,
		context: 0.5,
		gpus:    2, gpu: 0.75, power: 500, gpuMemory: 3e10,
		duration: latency{1: 4, 2: 5, math.Inf(1): 6}, firstToken: latency{}, wait: latency{0.5: 4, math.Inf(1): 4},
		felt: latency{1: 2, 4: 4, math.Inf(1): 4}, feltFirst: latency{0.5: 4, math.Inf(1): 4}, failed: "3 × 400, 1 × timeout",
	}, got)
}

func TestLatency_QuantilesAreThoseOfPrometheus(t *testing.T) {
	l := latency{1: 4, 2: 5, math.Inf(1): 6}
	assert.InDelta(t, 0.75, l.quantile(0.5), 1e-9, "the third of four within the first second")
	assert.InDelta(t, 1.4, l.quantile(0.73333333333), 1e-6)
	assert.InDelta(t, 2, l.quantile(0.99), 1e-9, "beyond the last bound nothing is known")
	assert.True(t, math.IsNaN(latency{1: 0, math.Inf(1): 0}.quantile(0.5)))
	assert.True(t, math.IsNaN(latency{}.quantile(0.5)))
}

func TestParseSample_RefusesWhatIsNoExposition(t *testing.T) {
	_, err := parseSample(strings.NewReader("<html>"))
	assert.ErrorContains(t, err, "read the collector's metrics")
}

func TestHistory_RatesAreOverTheWindow(t *testing.T) {
	start := time.Unix(1000, 0)
	var h history
	for i := range 10 {
		h.add(sample{
			at: start.Add(time.Duration(i) * time.Second), state: "ok",
			decoded: 50 * float64(i*i), processed: 200 * float64(i), cached: 1, computed: 3,
		})
	}
	s, ok := h.summary()
	require.True(t, ok)
	assert.InDelta(t, 50*float64(81-36)/3, s.decodedRate, 1e-9)
	assert.InDelta(t, 200, s.promptRate, 1e-9)
	assert.InDelta(t, 0.25, s.cacheRatio, 1e-9)
	assert.True(t, h.moved())
}

func TestHistory_ARestartIsNoNegativeRate(t *testing.T) {
	var h history
	h.add(sample{at: time.Unix(1, 0), state: "ok", decoded: 500})
	h.add(sample{at: time.Unix(2, 0), state: "ok", decoded: 10})
	s, _ := h.summary()
	assert.Zero(t, s.decodedRate)
	assert.False(t, h.moved())
}

func TestHistory_IsEmptyBeforeTheFirstScrape(t *testing.T) {
	var h history
	h.add(sample{at: time.Unix(1, 0)})
	_, ok := h.summary()
	assert.False(t, ok)
	assert.False(t, h.seen())
}

func TestDisplay_PrintsALineASummaryWhereThereIsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	d := newDisplay(&out)
	d.show(summary{}, false)
	s, err := parseSample(strings.NewReader(exposition))
	require.NoError(t, err)
	d.show(summary{sample: s, decodedRate: 12.34, promptRate: 5, cacheRatio: 0.75}, true)
	assert.Equal(t, "waiting for the first scrape\n"+
		"state ok | decoding 12.3 tok/s | prompts 5.0 tok/s, 75 % cached | requests 4 running 2 waiting | "+
		"slots 1 idle 1 prompt 2 generating | context 50 % | latency P50 0.750 s P95 2.000 s | wait P50 0.250 s P95 0.475 s | "+
		"clients P50 1.000 s P95 3.700 s, first token P50 0.250 s P95 0.475 s | errors 3 × 400, 1 × timeout | "+
		"gpu 75 % of the time, 500 W, 27.9 GiB\n", out.String())
}

func TestDisplay_RedrawsInPlaceOnATerminal(t *testing.T) {
	var out bytes.Buffer
	d := &display{out: &out, inPlace: true}
	d.show(summary{sample: sample{state: "ok"}}, true)
	lines := strings.Count(out.String(), "\n")
	out.Reset()
	d.show(summary{sample: sample{state: "loading"}}, true)
	assert.True(t, strings.HasPrefix(out.String(), "\x1b[6A\x1b[J"), "%q", out.String())
	assert.Equal(t, 6, lines)
}
