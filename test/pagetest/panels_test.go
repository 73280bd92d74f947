// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

const (
	gpuID   = "GPU-7c0e2f0a-0000-4000-8000-000000000001"
	gpuName = "NVIDIA H100 80GB HBM3"
)

// everything is a server with a log, a GPU with all counters, and a load run, in a
// steady state: each number is the same at all times.
func everything() []source {
	gpu := func(more ...string) []string {
		return append([]string{"hw_id=" + gpuID, "hw_name=" + gpuName}, more...)
	}
	proxied := func(more ...string) []string {
		return append([]string{"llamacpp_observer=proxy", "llamacpp_client_name=alice"}, more...)
	}
	return []source{
		{
			service: "llama-server", instance: server,
			attributes: []string{
				"service.version=b11669", "llamacpp.model.name=qwen2.5-3b-instruct-q4_k_m", "llamacpp.model.ftype=Q4_K - Medium",
			},
			metrics: []metric{
				{"llamacpp_slots_tokens_decoded_total", counter, 187, nil},
				{"llamacpp_tokens_predicted_total", counter, 150, nil},
				{"llamacpp_prediction_time_seconds_total", counter, 3, nil},
				{"llamacpp_slots_tokens_processed_total", counter, 420, nil},
				{"llamacpp_tokens_prompt_total", counter, 400, []string{"llamacpp_tokens_source=computed"}},
				{"llamacpp_tokens_prompt_total", counter, 600, []string{"llamacpp_tokens_source=cached"}},
				{"llamacpp_prompt_time_seconds_total", counter, 0.5, nil},
				{"llamacpp_requests_total", counter, 2, []string{"llamacpp_request_outcome=completed"}},
				{"llamacpp_requests_total", counter, 0.5, []string{"llamacpp_request_outcome=cancelled"}},
				{"llamacpp_decode_calls_total", counter, 60, nil},
				{"llamacpp_decode_busy_slots", gauge, 2.4, nil},
				{"llamacpp_request_generation_speed_per_second", histogram, 60, nil},
				{"llamacpp_request_prompt_speed_per_second", histogram, 2000, nil},
				{"gen_ai_server_request_duration_seconds", histogram, 12, nil},
				{"gen_ai_server_time_to_first_token_seconds", histogram, 2, nil},
				{"gen_ai_server_time_per_output_token_seconds", histogram, 0.06, nil},
				{"llamacpp_request_queue_duration_seconds", histogram, 1, proxied()},
				{"gen_ai_server_request_duration_seconds", histogram, 12, proxied()},
				{"gen_ai_server_time_to_first_token_seconds", histogram, 2, proxied()},
				{"llamacpp_request_stall_duration_seconds", histogram, 0.4, proxied()},
				{"http_server_request_duration_seconds", histogram, 12, []string{"http_response_status_code=200"}},
				{"http_server_request_duration_seconds", histogram, 12, []string{"error_type=cancelled"}},
				{"llamacpp_proxy_requests_total", counter, 1.5, proxied("llamacpp_request_outcome=completed")},
				{"llamacpp_proxy_requests_total", counter, 0.5, proxied("llamacpp_request_outcome=cancelled")},
				{"llamacpp_proxy_requests_active", gauge, 5, []string{"llamacpp_proxy_phase=waiting"}},
				{"llamacpp_proxy_requests_active", gauge, 4, []string{"llamacpp_proxy_phase=answering"}},
				{"llamacpp_proxy_tokens_total", counter, 1000, proxied("gen_ai_token_type=input")},
				{"llamacpp_proxy_tokens_total", counter, 300, proxied("gen_ai_token_type=output")},
				{"llamacpp_proxy_tokens_cached_total", counter, 600, proxied()},
				{"llamacpp_proxy_tokens_reasoning_total", counter, 60, proxied()},
				{"llamacpp_proxy_spans_dropped_total", counter, 0.1, nil},
				{"llamacpp_proxy_answers_unread_total", counter, 0.05, nil},
				{"llamacpp_request_duration_seconds", histogram, 9, nil},
				{"llamacpp_request_prompt_duration_seconds", histogram, 1.5, nil},
				{"llamacpp_requests_deferred", gauge, 3, nil},
				{"llamacpp_requests_processing", gauge, 4, nil},
				{"llamacpp_slots", gauge, 3, []string{"llamacpp_slot_state=generating"}},
				{"llamacpp_slots", gauge, 1, []string{"llamacpp_slot_state=prompt"}},
				{"llamacpp_slots_limit", gauge, 6, nil},
				{"llamacpp_context_utilization_ratio", gauge, 0.41, nil},
				{"llamacpp_context_usage", gauge, 5000, nil},
				{"llamacpp_sequence_tokens_max", gauge, 1700, nil},
				{"llamacpp_context_limit", gauge, 8192, nil},
				{"llamacpp_context_shifts_total", counter, 0.05, nil},
				{"llamacpp_requests_truncated_total", counter, 0.02, nil},
				{"llamacpp_request_tokens", histogram, 1000, []string{"gen_ai_token_type=input"}},
				{"llamacpp_request_tokens", histogram, 300, []string{"gen_ai_token_type=output"}},
				{"llamacpp_request_cached_tokens", histogram, 600, nil},
				{"llamacpp_speculative_tokens_total", counter, 70, []string{"llamacpp_speculative_outcome=accepted"}},
				{"llamacpp_speculative_tokens_total", counter, 30, []string{"llamacpp_speculative_outcome=rejected"}},
				{"llamacpp_speculative_drafts_total", counter, 35, nil},
				{"llamacpp_request_draft_acceptance", histogram, 1, nil},

				{"hw_gpu_utilization_ratio", gauge, 0.62, gpu("hw_gpu_task=general")},
				{"hw_gpu_memory_bandwidth_utilization_ratio", gauge, 0.55, gpu()},
				{"nvidia_gpu_dram_utilization_ratio", gauge, 0.38, gpu()},
				{"hw_gpu_memory_usage_bytes", gauge, 20e9, gpu()},
				{"llamacpp_gpu_memory_usage_bytes", gauge, 12e9, []string{"hw_id=" + gpuID}},
				{"hw_gpu_memory_limit_bytes", gauge, 80e9, gpu()},
				{"hw_gpu_memory_utilization_ratio", gauge, 0.25, gpu()},
				{"hw_temperature_celsius", gauge, 61, gpu("hw_sensor_location=gpu")},
				{"hw_temperature_celsius", gauge, 74, gpu("hw_sensor_location=memory")},
				{"hw_temperature_limit_celsius", gauge, 90, gpu("hw_sensor_location=gpu", "hw_limit_type=high.critical")},
				{"nvidia_gpu_power_mean_watts", gauge, 212, gpu()},
				{"nvidia_gpu_power_limit_watts", gauge, 350, gpu()},
				{"hw_energy_joules_total", counter, 212, gpu()},
				{"nvidia_gpu_clock_frequency_hertz", gauge, 1.4e9, gpu("nvidia_gpu_clock=sm")},
				{"nvidia_gpu_clock_frequency_hertz", gauge, 2.3e9, gpu("nvidia_gpu_clock=memory")},
				{"nvidia_gpu_clock_limit_hertz", gauge, 1.98e9, gpu("nvidia_gpu_clock=sm")},
				{"nvidia_gpu_clock_limit_hertz", gauge, 2.62e9, gpu("nvidia_gpu_clock=memory")},
				{"nvidia_gpu_throttle", gauge, 1, gpu("nvidia_gpu_throttle_reason=power_cap")},
				{"nvidia_gpu_throttle", gauge, 0, gpu("nvidia_gpu_throttle_reason=thermal_sw")},
				{"nvidia_gpu_throttle_time_seconds_total", counter, 0.3, gpu("nvidia_gpu_throttle_reason=power_cap")},
				{"nvidia_gpu_sm_utilization_ratio", gauge, 0.5, gpu()},
				{"nvidia_gpu_tensor_utilization_ratio", gauge, 0.2, gpu()},
				{"nvidia_gpu_sm_occupancy_ratio", gauge, 0.35, gpu()},
				{"hw_gpu_io_bytes_total", counter, 5e6, gpu("network_io_direction=receive")},
				{"hw_gpu_io_bytes_total", counter, 2e6, gpu("network_io_direction=transmit")},
				{"nvidia_gpu_process_memory_usage_bytes", gauge, 12e9, gpu("process_executable_name=llama-server", "process_pid=77")},
				{"nvidia_gpu_process_memory_usage_bytes", gauge, 3e9, gpu("process_executable_name=python", "process_pid=78")},
				{"hw_status", gauge, 1, gpu("hw_state=ok")},
				{"hw_status", gauge, 0, gpu("hw_state=failed")},
				{"hw_errors_total", constant, 2, gpu("error_type=ecc_corrected")},
				{"hw_fan_speed_ratio", gauge, 0.45, gpu()},

				{"llamacpp_server_status", gauge, 1, []string{"llamacpp_server_state=ok"}},
				{"llamacpp_server_status", gauge, 0, []string{"llamacpp_server_state=loading"}},
				{"llamacpp_server_response_duration_seconds", gauge, 0.02, []string{"url_path=/metrics"}},
				{"llamacpp_server_response_duration_seconds", gauge, 0.005, []string{"url_path=/health"}},
				{"llamacpp_log_records_total", counter, 0.1, []string{"llamacpp_log_severity=warning", "llamacpp_log_area=srv"}},
				{"llamacpp_models", gauge, 2, []string{"llamacpp_model_state=loaded"}},
				{"llamacpp_models", gauge, 10, []string{"llamacpp_model_state=unloaded"}},
			},
		},
		{
			service: "llamaload", instance: "steady-1",
			metrics: []metric{
				{"loadgen_requests_total", counter, 4.5, []string{"loadgen_outcome=ok"}},
				{"loadgen_requests_total", counter, 0.5, []string{"loadgen_outcome=error", "error_type=timeout"}},
				{"loadgen_rate_target_per_second", gauge, 6, nil},
				{"loadgen_requests_in_flight", gauge, 7, nil},
				{"loadgen_goodput_total", counter, 4, []string{"loadgen_slo=fast"}},
				{"loadgen_request_duration_seconds", histogram, 12, nil},
				{"loadgen_request_time_to_first_token_seconds", histogram, 3, nil},
				{"loadgen_request_time_to_first_answer_seconds", histogram, 4, nil},
				{"loadgen_request_time_per_output_token_seconds", histogram, 0.05, nil},
				{"gen_ai_client_operation_time_per_output_chunk_seconds", histogram, 0.08, nil},
				{"loadgen_schedule_lag_seconds", histogram, 1, nil},
				{"loadgen_server_queue_duration_seconds", histogram, 2, nil},
				{"loadgen_server_prompt_duration_seconds", histogram, 0.8, nil},
				{"loadgen_server_prediction_duration_seconds", histogram, 4, nil},
				{"loadgen_tokens_total", counter, 1000, []string{"gen_ai_token_type=input"}},
				{"loadgen_tokens_total", counter, 300, []string{"gen_ai_token_type=output"}},
			},
		},
	}
}

// values are what a panel has to show of everything, by the name in its legend.
type values map[string]float64

// percentiles of a histogram whose observations reach from 0 to a value.
func percentiles(most float64) values {
	return values{"P50": 0.5 * most, "P95": 0.95 * most, "P99": 0.99 * most}
}

// shown has each panel of the catalogue.
var shown = map[string]values{
	"token-rate":            {"generated": 187},
	"prompt-rate":           {"computed": 420, "from the cache": 600},
	"request-rate":          {"completed": 2, "cancelled": 0.5},
	"generation-speed":      {"fast (P95)": 57, "median": 30, "slow (P5)": 3},
	"prompt-speed":          {"median": 1000, "mean, by the server's counters": 800},
	"batch":                 {"now": 187. / 60, "busy slots, mean since the start": 2.4},
	"request-time":          percentiles(12),
	"latency-distribution":  {"under 0.5 s": 0.04, "0.5 to 1 s": 0.04, "1 to 2 s": 0.08, "2 to 5 s": 0.25, "5 to 10 s": 0.42, "over 10 s": 0.17},
	"first-token":           percentiles(2),
	"token-time":            percentiles(0.06),
	"token-time-live":       {"running requests": 3. / 187, "requests that ended": 3. / 150},
	"request-time-estimate": percentiles(9),
	"first-token-estimate":  percentiles(1.5),
	"client-wait":           percentiles(1),
	"client-first-token":    percentiles(2),
	"client-parts":          {"wait": 0.505, "prompt": 0.505, "generation": 5.05},
	"client-active":         {"waiting": 5, "answering": 4},
	"client-outcomes":       {"completed": 1.5, "cancelled": 0.5},
	"client-stall":          percentiles(0.4),
	"client-http":           {"200": 100, "no status: cancelled": 100},
	"client-losses":         {"dropped spans": 6, "unread answers": 3},
	"client-wait-by-name":   {"alice": 0.95},
	"client-tokens":         {"alice input": 1000, "alice output": 300},
	"client-shares":         {"alice cached": 0.6, "alice reasoning": 0.2},
	"queue":                 {"waiting": 3, "in a slot": 4},
	"slots":                 {"generating": 3, "prompt": 1, "all slots": 6},
	"wait":                  {"by Little's law": 3 / 2.5, "by the proxy": 0.505},
	"context":               {"in use": 0.41},
	"context-tokens":        {"all running requests": 5000, "longest sequence": 1700, "room of one slot": 8192},
	"context-shifts":        {"context shifts per minute": 3, "truncated requests per minute": 1.2},
	"cache":                 {"from the cache": 0.6},
	"prompt-length":         percentiles(1000),
	"output-length":         percentiles(300),
	"cached-length":         percentiles(600),
	"acceptance":            {"all tokens": 0.7, "median request": 0.5},
	"draft-gain":            {"accepted tokens per step": 2},

	"gpu-utilization":     {gpuName: 0.62},
	"gpu-bandwidth":       {"busy": 0.55, "bandwidth in use": 0.38},
	"gpu-memory":          {gpuName: 20e9, server + " on GPU": 12e9, "size": 80e9},
	"gpu-temperature":     {"gpu": 61, "memory": 74, "gpu high.critical": 90},
	"gpu-power":           {gpuName: 212, "limit": 350},
	"energy":              {"energy per token": 212. / 187},
	"gpu-clocks":          {"sm": 1.4e9, "memory": 2.3e9, "sm limit": 1.98e9, "memory limit": 2.62e9},
	"gpu-throttle":        {"power cap": 1, "thermal sw": 0},
	"gpu-throttle-time":   {"power cap": 0.3},
	"gpu-multiprocessors": {"multiprocessors": 0.5, "tensor cores": 0.2, "warps": 0.35},
	"gpu-pcie":            {"receive": 5e6, "transmit": 2e6},
	"gpu-processes":       {"llama-server 77": 12e9, "python 78": 3e9},
	"gpu-state":           {"ok": 1, "failed": 0},
	"gpu-errors":          {"ecc corrected": 2},
	"gpu-fan":             {gpuName: 0.45},

	"server-state":  {"ok": 1, "loading": 0},
	"restarts":      {"restarts": 0},
	"response-time": {"/metrics": 0.02, "/health": 0.005},
	"log-records":   {"warning srv": 6},
	"models":        {"loaded": 2, "unloaded": 10},

	"load-rate":         {"achieved": 5, "target": 6},
	"load-in-flight":    {"in flight": 7},
	"load-goodput":      {"fast": 0.8},
	"load-outcomes":     {"ok": 4.5, "error timeout": 0.5},
	"load-latency":      percentiles(12),
	"load-first-token":  percentiles(3),
	"load-first-answer": percentiles(4),
	"load-token-time":   percentiles(0.05),
	"load-chunk-time":   percentiles(0.08),
	"load-parts":        {"sent late": 0.505, "queue and network": 1.01, "prompt": 0.404, "answer": 2.02},
	"load-tokens":       {"input": 1000, "output": 300},
	"load-lag":          percentiles(1),
}

// row is a line of a legend.
type row struct{ Name, Last, Colour string }

// probe finds, of one series, whether the canvas has its colour where its value is:
// in the middle of the window, between two values. It asks uPlot where that is.
const probe = `(({ panel, colour, low, high }) => {
	const u = llamaPage.panels.chart(panel).plot;
	const rgb = colour.match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
	const x = Math.round(u.valToPos((u.scales.x.min + u.scales.x.max) / 2, "x", true));
	const top = Math.floor(u.valToPos(high, "y", true)) - 1, bottom = Math.ceil(u.valToPos(low, "y", true)) + 1;
	const { data, width } = u.ctx.getImageData(x - 15, top, 30, bottom - top + 1);
	let nearest = 1e9, at = -1;
	for (let i = 0; i < data.length; i += 4) {
		if (data[i + 3] < 200) continue; // only the lines are opaque
		const off = Math.max(...rgb.map((c, k) => Math.abs(c - data[i + k])));
		if (off < nearest) [nearest, at] = [off, top + Math.floor(i / 4 / width)];
	}
	return { Off: nearest, Value: u.posToVal(at / devicePixelRatio, "y") };
})($)`

// legend reads the numbers below a chart.
const legend = `[...document.querySelectorAll("#panel-" + $ + " .legend tbody tr")].map((tr) => ({
	Name: tr.querySelector("th").innerText.trim(), Last: tr.querySelector("td").innerText.trim(),
	Colour: tr.querySelector("[stroke]")?.getAttribute("stroke") ?? tr.querySelector("[fill]")?.getAttribute("fill") }))`

// All that is sent is on the page: as a number, and as a pixel of its colour at its
// height.
func TestPanels_ShowWhatWasSent(t *testing.T) {
	catalogue, err := dashboards.Load()
	require.NoError(t, err)
	d := startDashboard(t, settings{})
	startFeed(d, 150*time.Second, everything()...)
	// High enough for all charts: what is out of sight is not drawn.
	v := open(t, d.url+"/?window=60", Look{Width: 1400, Height: 9000, Scale: 2})
	for _, panel := range catalogue.Panels {
		t.Run(panel.ID, func(t *testing.T) {
			v := &view{Tab: v.Tab, t: t}
			want, known := shown[panel.ID]
			require.True(t, known, "say in shown what this panel shows, and let everything send it")
			v.await(`llamaPage.panels.chart($)?.plot && document.querySelectorAll("#panel-" + $ + " .legend tbody tr").length === $`, panel.ID, panel.ID, len(want))
			var rows []row
			// On a busy machine a report may be late, and a rate too low for a moment.
			for end := time.Now().Add(patience); ; time.Sleep(pollEvery) {
				v.eval(&rows, legend, panel.ID)
				if time.Now().After(end) || !slices.ContainsFunc(rows, func(r row) bool {
					last, err := number(r.Last, panel.Unit)
					return panel.Draw != "states" && (err != nil || math.Abs(last-want[r.Name]) > tolerated(want, r.Name))
				}) {
					break
				}
			}
			below := 0.0
			for i, r := range rows {
				value, known := want[r.Name]
				if !assert.True(t, known, "%s: shown is %q", panel.ID, r.Name) {
					continue
				}
				height, tolerance := value, 0.03
				switch panel.Draw {
				case "states":
					assert.Equal(t, map[bool]string{true: "yes", false: "no"}[value > 0], r.Last, r.Name)
					height, tolerance = float64(i), 0
					if value == 0 {
						continue
					}
				case "stacked":
					if !dashed(panel, r.Name) {
						below += value
						height = below
					}
				}
				if panel.Draw != "states" {
					last, err := number(r.Last, panel.Unit)
					require.NoError(t, err)
					assert.InDelta(t, value, last, tolerated(want, r.Name), "%s: %s", r.Name, r.Last)
				}
				var found struct{ Off, Value float64 }
				v.eval(&found, probe, map[string]any{
					"panel": panel.ID, "colour": r.Colour, "low": height * (1 - tolerance), "high": height * (1 + tolerance),
				})
				assert.LessOrEqual(t, found.Off, 48., "%s: no pixel of %s at %g", r.Name, r.Colour, height)
			}
		})
	}
	t.Run("where nothing was sent there is nothing", func(t *testing.T) {
		v := &view{Tab: v.Tab, t: t}
		var rows []row
		v.eval(&rows, legend, "token-rate")
		for _, height := range []float64{0.5, 0.9, 1.06} {
			var found struct{ Off, Value float64 }
			v.eval(&found, probe, map[string]any{"panel": "token-rate", "colour": rows[0].Colour, "low": 187 * height * 0.98, "high": 187 * height * 1.02})
			assert.Greater(t, found.Off, 48., "at %g", 187*height)
		}
	})
}

// tolerated is how far a number may be from the truth: percentiles are, by less than
// their 5 %.
func tolerated(want values, name string) float64 {
	return math.Max(math.Abs(want[name])*0.04, 0.012*scaleOf(want))
}

// scaleOf is the greatest of the values.
func scaleOf(all values) float64 {
	most := 0.0
	for _, v := range all {
		most = math.Max(most, v)
	}
	return most
}

func dashed(p dashboards.Panel, name string) bool {
	for _, q := range p.Queries {
		if q.Style == "dashed" && q.Legend == name {
			return true
		}
	}
	return false
}

var numberPattern = regexp.MustCompile(`^([−\d.]+)(?:\s*([kMGTmµ]?)(?:%|B|B/s|°C|W|J|Hz|s)?)?$`)

// number reads what the page writes: 187, 34 ms, 62 %, 1.98 GHz.
func number(text, unit string) (float64, error) {
	m := numberPattern.FindStringSubmatch(strings.ReplaceAll(text, "\u00a0", " "))
	if m == nil {
		return 0, strconv.ErrSyntax
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(m[1], "−", "-"), 64)
	v *= map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "µ": 1e-6}[m[2]]
	if unit == "ratio" {
		v /= 100
	}
	return v, err
}
