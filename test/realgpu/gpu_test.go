// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build gpu

package realgpu

import (
	"fmt"
	"maps"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"
)

const patience = 30 * time.Second

// watch runs the receiver on the GPUs, and on the server at an endpoint if there
// is one, until the test ends.
func watch(t *testing.T, endpoint string) (*consumertest.MetricsSink, *observer.ObservedLogs) {
	t.Helper()
	settings := map[string]any{"scrapers": map[string]any{"gpu": map[string]any{"collection_interval": "500ms"}}}
	if endpoint != "" {
		settings["endpoint"] = endpoint
	}
	factory := llamacppreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(settings).Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	core, logs := observer.New(zap.InfoLevel)
	set := receivertest.NewNopSettings(factory.Type())
	set.Logger = zap.New(core)
	sink := &consumertest.MetricsSink{}
	r, err := factory.CreateMetrics(t.Context(), set, cfg, sink)
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		assert.NoError(t, r.Shutdown(t.Context()))
		for _, e := range logs.All() {
			t.Logf("log: %s %s %v", e.Level, e.Message, e.ContextMap())
		}
	})
	return sink, logs
}

// last returns the last value of a GPU's metric, in the series with these
// attributes, each written name=value.
func last(sink *consumertest.MetricsSink, id, name string, attributes ...string) (value float64, ok bool) {
	for _, md := range sink.AllMetrics() {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() != name {
						continue
					}
					for _, p := range points(m).All() {
						if has(p, append(attributes, "hw.id="+id)...) {
							value, ok = p.DoubleValue()+float64(p.IntValue()), true
						}
					}
				}
			}
		}
	}
	return value, ok
}

// ids returns the GPUs and MIG instances that have a metric.
func ids(sink *consumertest.MetricsSink, name string) []string {
	found := map[string]bool{}
	for _, md := range sink.AllMetrics() {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() != name {
						continue
					}
					for _, p := range points(m).All() {
						if id, ok := p.Attributes().Get("hw.id"); ok {
							found[id.Str()] = true
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func points(m pmetric.Metric) pmetric.NumberDataPointSlice {
	if m.Type() == pmetric.MetricTypeSum {
		return m.Sum().DataPoints()
	}
	return m.Gauge().DataPoints()
}

func has(p pmetric.NumberDataPoint, attributes ...string) bool {
	for _, a := range attributes {
		name, want, _ := strings.Cut(a, "=")
		if v, ok := p.Attributes().Get(name); !ok || v.AsString() != want {
			return false
		}
	}
	return true
}

// smi asks nvidia-smi for fields of each GPU. The first field of a row is the
// UUID.
func smi(t *testing.T, fields ...string) [][]string {
	t.Helper()
	rows := query(t, "--query-gpu="+strings.Join(append([]string{"uuid"}, fields...), ","))
	require.NotEmpty(t, rows)
	return rows
}

func query(t *testing.T, what string) [][]string {
	t.Helper()
	out, err := exec.Command("nvidia-smi", what, "--format=csv,noheader,nounits").CombinedOutput()
	require.NoError(t, err, "nvidia-smi %s: %s", what, out)
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, strings.Split(strings.TrimSpace(line), ", "))
	}
	return rows
}

// Values that do not change are equal. Those that do, such as power, come near
// each other sooner or later: nvidia-smi itself wakes a GPU that is idle. On
// several busy GPUs not all do at the same moment.
func TestValuesAreThoseOfNvidiaSMI(t *testing.T) {
	const mib = 1 << 20
	sink, _ := watch(t, "")
	checks := []struct {
		field      string
		metric     string
		attributes []string
		factor     float64 // nvidia-smi's unit in ours
		within     float64 // in our unit
	}{
		{"memory.total", "hw.gpu.memory.limit", nil, mib, mib},
		{"memory.used", "hw.gpu.memory.usage", nil, mib, 64 * mib},
		{"utilization.gpu", "hw.gpu.utilization", []string{"hw.gpu.task=general"}, 0.01, 0.2},
		{"utilization.memory", "hw.gpu.memory.bandwidth.utilization", nil, 0.01, 0.2},
		{"temperature.gpu", "hw.temperature", []string{"hw.sensor_location=gpu"}, 1, 3},
		{"temperature.memory", "hw.temperature", []string{"hw.sensor_location=memory"}, 1, 3},
		{"power.draw", "hw.power", nil, 1, 40},
		{"enforced.power.limit", "nvidia.gpu.power.limit", nil, 1, 1},
		{"clocks.current.sm", "nvidia.gpu.clock.frequency", []string{"nvidia.gpu.clock=sm"}, 1e6, 400e6},
		{"clocks.current.memory", "nvidia.gpu.clock.frequency", []string{"nvidia.gpu.clock=memory"}, 1e6, 400e6},
		{"clocks.max.sm", "nvidia.gpu.clock.limit", []string{"nvidia.gpu.clock=sm"}, 1e6, 0},
		{"clocks.max.memory", "nvidia.gpu.clock.limit", []string{"nvidia.gpu.clock=memory"}, 1e6, 0},
		{"fan.speed", "hw.fan.speed_ratio", nil, 0.01, 0.1},
		{"ecc.errors.corrected.volatile.total", "hw.errors", []string{"error.type=ecc.corrected"}, 1, 0},
		{"ecc.errors.uncorrected.volatile.total", "hw.errors", []string{"error.type=ecc.uncorrected"}, 1, 0},
	}
	fields := []string{"mig.mode.current"}
	for _, c := range checks {
		fields = append(fields, c.field)
	}
	require.Eventually(t, func() bool { return sink.DataPointCount() > 0 }, patience, 10*time.Millisecond,
		"the receiver sees no GPU, although nvidia-smi does: its log is below")
	near := map[string]bool{} // by GPU and field
	var apart []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) { // more than one scrape
		apart = nil
		for _, row := range smi(t, fields...) {
			require.Len(t, row, 1+len(fields))
			id, partitioned, row := row[0], row[1] == "Enabled", row[2:]
			for i, c := range checks {
				key := id + " " + c.field
				want, err := strconv.ParseFloat(row[i], 64)
				if near[key] || err != nil { // [N/A], [Not Supported], [Insufficient Permissions]
					continue
				}
				if partitioned && (c.field == "memory.total" || c.field == "memory.used") {
					continue // the memory is that of its MIG instances
				}
				got, ok := last(sink, id, c.metric, c.attributes...)
				line := fmt.Sprintf("%s %s %v: %v, nvidia-smi %s: %s", id, c.metric, c.attributes, got, c.field, row[i])
				if near[key] = ok && math.Abs(want*c.factor-got) <= c.within; near[key] {
					t.Log(line)
				} else {
					apart = append(apart, line)
				}
			}
		}
		if len(apart) == 0 {
			break
		}
	}
	assert.NotEmpty(t, near, "nvidia-smi tells no value")
	assert.Empty(t, apart, "not what nvidia-smi says, or not there at all")
}

// state is what a load changes of a GPU or MIG instance. Some lack a sensor; an
// instance has only its memory.
type state struct {
	memory, power, utilization float64
	hasPower, hasUtilization   bool
}

func stateOf(sink *consumertest.MetricsSink, id string) (s state) {
	s.memory, _ = last(sink, id, "hw.gpu.memory.usage")
	s.power, s.hasPower = last(sink, id, "nvidia.gpu.power.mean")
	s.utilization, s.hasUtilization = last(sink, id, "hw.gpu.utilization", "hw.gpu.task=general")
	return s
}

// loaded reports whether a GPU works and holds the memory of the load, and did
// neither before.
func (s state) loaded(before state) bool {
	return s.memory >= before.memory+1<<30 && (!s.hasUtilization || s.utilization > 0.8) &&
		(!before.hasPower || s.power > before.power+20)
}

// startLoad runs the load until the test ends, and returns its process and port.
func startLoad(t *testing.T) (process *child.Process, port string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "load")
	cc, err := exec.Command("go", "env", "CC").Output()
	require.NoError(t, err)
	compiler := strings.Fields(string(cc)) // such as ccache gcc
	out, err := exec.Command(compiler[0], append(compiler[1:], "-O1", "-o", program, filepath.Join("load", "load.c"), "-ldl")...).CombinedOutput()
	require.NoError(t, err, "compile load.c: %s", out)

	cmd := exec.Command(program)
	input, err := cmd.StdinPipe()
	require.NoError(t, err)
	var said child.Output
	process, err = child.Start(cmd, &said)
	require.NoError(t, err)
	for !strings.HasSuffix(said.String(), "\n") {
		select {
		case <-process.Exited():
			t.Fatalf("the load did not start: %s", &said)
		case <-time.After(10 * time.Millisecond):
		}
	}
	port = strings.TrimSpace(said.String())
	t.Cleanup(func() {
		_ = input.Close() // it may have ended
		assert.True(t, process.State().Success(), "the load: %s: %s", process.State(), &said)
	})
	return process, port
}

func TestLoadMovesWhatItShould(t *testing.T) {
	gpus, _ := watch(t, "")
	before := map[string]state{} // by GPU, or MIG instance
	require.Eventually(t, func() bool { return gpus.DataPointCount() > 0 }, patience, 10*time.Millisecond,
		"the receiver sees no GPU, although nvidia-smi does: its log is below")
	time.Sleep(2 * time.Second) // the mean power needs two scrapes
	for _, id := range ids(gpus, "hw.gpu.memory.usage") {
		before[id] = stateOf(gpus, id)
	}
	require.NotEmpty(t, before, "no GPU says how much memory is in use")

	load, port := startLoad(t)
	var moved string
	require.Eventually(t, func() bool {
		for id, b := range before {
			if now := stateOf(gpus, id); now.loaded(b) {
				t.Logf("%s: %+v, before %+v", id, now, b)
				moved = id
				return true
			}
		}
		return false
	}, patience, 200*time.Millisecond, "1 GiB and work on the GPU that CUDA chose moved nothing")

	// The receiver without a server goes on reporting the GPUs. This one reports
	// what its server holds.
	server, logs := watch(t, "http://127.0.0.1:"+port)
	listed := -1.0
	for _, row := range query(t, "--query-compute-apps=pid,used_memory") {
		if mib, err := strconv.ParseFloat(row[1], 64); err == nil && row[0] == strconv.Itoa(load.PID()) {
			listed = mib * (1 << 20)
		}
	}
	if listed < 0 {
		// In a container with a process namespace of its own the driver's process ids
		// are those of another namespace, some virtual machines hide the memory, and the
		// log has to say so.
		t.Log("nvidia-smi does not list the process by its id and memory here")
		require.Eventually(t, func() bool { return logs.FilterMessageSnippet("no llamacpp.gpu.memory.usage").Len() > 0 }, patience, 200*time.Millisecond)
		return
	}
	require.Eventually(t, func() bool {
		held, ok := last(server, moved, "llamacpp.gpu.memory.usage")
		return ok && math.Abs(held-listed) <= 1<<20
	}, patience, 200*time.Millisecond, "nvidia-smi says %v", listed)
	t.Logf("attributed to the process, as nvidia-smi does: %v bytes", listed)
	_, ok := last(server, moved, "hw.power")
	assert.False(t, ok, "reported by one receiver")
}
