// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// sample is what the collector said at one time, added up over the models of a router.
type sample struct {
	at                    time.Time
	state                 string // "" before the first scrape
	decoded, processed    float64
	computed, cached      float64
	processing, deferred  float64
	idle, prompt, working float64
	context               float64 // 0 to 1, of the fullest server
	gpus                  int
	gpu                   float64 // 0 to 1, of the busiest GPU
	power, gpuMemory      float64 // W and bytes, of all GPUs
	duration, firstToken  latency // of requests, in the server's log or from when they came to the proxy
	wait                  latency // of requests through the proxy, for a slot
	felt, feltFirst       latency // the same from when the load generator was to send them
	failed                string  // errors of the load generator's requests
}

func readSample(ctx context.Context, client *http.Client, url string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := get(ctx, client, url)
	if err != nil {
		return sample{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return parseSample(response.Body)
}

func parseSample(r io.Reader) (sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return sample{}, fmt.Errorf("read the collector's metrics: %w", err)
	}
	// sum adds the series in which the label has the value; an empty label is any.
	sum := func(family, label, value string) float64 {
		var total float64
		for _, m := range families[family].GetMetric() {
			if label == "" || labelOf(m, label) == value {
				total += valueOf(m)
			}
		}
		return total
	}
	s := sample{
		decoded:    sum("llamacpp_slots_tokens_decoded_total", "", ""),
		processed:  sum("llamacpp_slots_tokens_processed_total", "", ""),
		computed:   sum("llamacpp_tokens_prompt_total", "llamacpp_tokens_source", "computed"),
		cached:     sum("llamacpp_tokens_prompt_total", "llamacpp_tokens_source", "cached"),
		processing: sum("llamacpp_requests_processing", "", ""),
		deferred:   sum("llamacpp_requests_deferred", "", ""),
		idle:       sum("llamacpp_slots", "llamacpp_slot_state", "idle"),
		prompt:     sum("llamacpp_slots", "llamacpp_slot_state", "prompt"),
		working:    sum("llamacpp_slots", "llamacpp_slot_state", "generating"),
	}
	for _, m := range families["llamacpp_context_utilization_ratio"].GetMetric() {
		s.context = max(s.context, valueOf(m))
	}
	for _, m := range families["hw_gpu_utilization_ratio"].GetMetric() {
		if labelOf(m, "hw_gpu_task") == "general" {
			s.gpu = max(s.gpu, valueOf(m))
		}
	}
	s.duration = latencyOf(families["gen_ai_server_request_duration_seconds"])
	s.firstToken = latencyOf(families["gen_ai_server_time_to_first_token_seconds"])
	s.wait = latencyOf(families["llamacpp_request_queue_duration_seconds"])
	s.felt = latencyOf(families["loadgen_request_duration_seconds"])
	s.feltFirst = latencyOf(families["loadgen_request_time_to_first_token_seconds"])
	s.failed = failuresOf(families["loadgen_requests_total"])
	s.gpus = len(families["hw_gpu_memory_limit_bytes"].GetMetric())
	s.power = sum("hw_power_watts", "", "")
	s.gpuMemory = sum("hw_gpu_memory_usage_bytes", "", "")
	for _, m := range families["llamacpp_server_status"].GetMetric() {
		if valueOf(m) == 1 {
			s.state = labelOf(m, "llamacpp_server_state")
		}
	}
	return s, nil
}

// failuresOf is how many requests failed with which error; "" without any.
func failuresOf(family *dto.MetricFamily) string {
	n := map[string]float64{}
	for _, m := range family.GetMetric() {
		if class := labelOf(m, "error_type"); class != "" {
			n[class] += valueOf(m)
		}
	}
	var all []string
	for _, class := range slices.Sorted(maps.Keys(n)) {
		all = append(all, fmt.Sprintf("%.0f × %s", n[class], class))
	}
	return strings.Join(all, ", ")
}

// latency is a distribution: by seconds, how many requests took that long at most.
type latency map[float64]uint64

// latencyOf adds up the series of requests that completed.
func latencyOf(family *dto.MetricFamily) latency {
	l := latency{}
	for _, m := range family.GetMetric() {
		if labelOf(m, "error_type") != "" {
			continue
		}
		for _, b := range m.GetHistogram().GetBucket() {
			l[b.GetUpperBound()] += b.GetCumulativeCount()
		}
	}
	return l
}

// quantile is that of Prometheus' histogram_quantile, in seconds; NaN without any request.
func (l latency) quantile(q float64) float64 {
	bounds := slices.Sorted(maps.Keys(l))
	if len(bounds) == 0 || l[bounds[len(bounds)-1]] == 0 {
		return math.NaN()
	}
	rank := q * float64(l[bounds[len(bounds)-1]])
	low, below := 0.0, 0.0
	for _, bound := range bounds {
		n := float64(l[bound])
		switch {
		case n < rank:
			low, below = bound, n
		case math.IsInf(bound, 1):
			return low
		default:
			return low + (bound-low)*(rank-below)/(n-below)
		}
	}
	return low
}

// String is empty without any request.
func (l latency) String() string {
	p50 := l.quantile(0.5)
	if math.IsNaN(p50) {
		return ""
	}
	return fmt.Sprintf("P50 %.3f s P95 %.3f s", p50, l.quantile(0.95))
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	}
	return m.GetUntyped().GetValue()
}

// window is how many samples a rate is taken over. The collector scrapes up to
// 500 ms before a sample is read, little beside the window.
const window = 4

// history is the latest samples.
type history struct {
	samples []sample
	first   sample
}

func (h *history) add(s sample) {
	if s.state == "" {
		return // The collector has not yet asked the server.
	}
	if h.first.state == "" {
		h.first = s
	}
	h.samples = append(h.samples, s)
	if len(h.samples) > window {
		h.samples = h.samples[1:]
	}
}

// seen reports whether there was any sample.
func (h *history) seen() bool { return len(h.samples) > 0 }

// moved reports whether tokens were decoded meanwhile.
func (h *history) moved() bool {
	return h.seen() && h.samples[len(h.samples)-1].decoded > h.first.decoded
}

// failed is what the load generator's requests failed with; "" if none did.
func (h *history) failed() string {
	if !h.seen() {
		return ""
	}
	return h.samples[len(h.samples)-1].failed
}

// summary is what is shown of a history.
type summary struct {
	sample
	decodedRate, promptRate float64 // tokens per second
	cacheRatio              float64 // of prompt tokens since the server's start; NaN without any
}

func (h *history) summary() (summary, bool) {
	if !h.seen() {
		return summary{}, false
	}
	old, now := h.samples[0], h.samples[len(h.samples)-1]
	s := summary{sample: now, cacheRatio: now.cached / (now.cached + now.computed)}
	if seconds := now.at.Sub(old.at).Seconds(); seconds > 0 {
		// A server that restarts begins at 0.
		s.decodedRate = max(0, now.decoded-old.decoded) / seconds
		s.promptRate = max(0, now.processed-old.processed) / seconds
	}
	return s, true
}

// fields are the summary in words, in groups that belong together.
func (s summary) fields() []string {
	cache := "no prompt yet"
	if s.cacheRatio == s.cacheRatio { // not NaN
		cache = fmt.Sprintf("%.0f %% cached", 100*s.cacheRatio)
	}
	fields := []string{
		"state " + s.state,
		fmt.Sprintf("decoding %.1f tok/s", s.decodedRate),
		fmt.Sprintf("prompts %.1f tok/s, %s", s.promptRate, cache),
		fmt.Sprintf("requests %.0f running %.0f waiting", s.processing, s.deferred),
		fmt.Sprintf("slots %.0f idle %.0f prompt %.0f generating", s.idle, s.prompt, s.working),
		fmt.Sprintf("context %.0f %%", 100*s.context),
	}
	if text := inWords(s.duration, s.firstToken); text != "" {
		fields = append(fields, "latency "+text)
	}
	if text := s.wait.String(); text != "" {
		fields = append(fields, "wait "+text)
	}
	if text := inWords(s.felt, s.feltFirst); text != "" {
		fields = append(fields, "clients "+text)
	}
	if s.failed != "" {
		fields = append(fields, "errors "+s.failed)
	}
	if s.gpus > 0 {
		fields = append(fields, fmt.Sprintf("gpu %.0f %% of the time, %.0f W, %.1f GiB", 100*s.gpu, s.power, s.gpuMemory/(1<<30)))
	}
	return fields
}

// inWords is empty without any request.
func inWords(duration, firstToken latency) string {
	text := duration.String()
	if first := firstToken.String(); text != "" && first != "" {
		text += ", first token " + first
	}
	return text
}

// display shows summaries: in place on a terminal, one a line elsewhere.
type display struct {
	out     io.Writer
	inPlace bool
	drawn   int
}

func newDisplay(out io.Writer) *display {
	d := &display{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		d.inPlace = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == ""
	}
	return d
}

func (d *display) show(s summary, ok bool) {
	fields := []string{"waiting for the first scrape"}
	if ok {
		fields = s.fields()
	}
	if !d.inPlace {
		fmt.Fprintln(d.out, strings.Join(fields, " | "))
		return
	}
	if d.drawn > 0 {
		fmt.Fprintf(d.out, "\x1b[%dA\x1b[J", d.drawn) // up to the first line, and clear below
	}
	for _, field := range fields {
		name, rest, _ := strings.Cut(field, " ")
		fmt.Fprintf(d.out, "  %-10s %s\n", name, rest)
	}
	d.drawn = len(fields)
}
