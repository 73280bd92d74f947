// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpuscraper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// fake is the one library of this process.
var fake = func() *fakenvml.Driver {
	folder, err := os.MkdirTemp("", "fakenvml")
	if err != nil {
		panic(err)
	}
	d, err := fakenvml.New(folder, fakenvml.Options{})
	if err != nil {
		panic(err)
	}
	return d
}()

// processes stand for the watched server.
type processes struct {
	pids []int
	err  error
}

func (p *processes) Processes(context.Context) ([]int, error) { return p.pids, p.err }

type fixture struct {
	*Scraper
	t    testing.TB
	logs *observer.ObservedLogs
}

func newFixture(t testing.TB, gpus int, server Server, change ...func(*Config)) *fixture {
	t.Helper()
	fake.Reset(gpus)
	cfg := NewDefaultConfig()
	cfg.ControllerConfig.CollectionInterval = 20 * time.Second
	for _, c := range change {
		c(&cfg)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	set := receivertest.NewNopSettings(receivertest.NopType)
	set.Logger = zap.New(core)
	host, resource := named("host"), named("server")
	h := gpu.Open(set.Logger, cfg.Want("llamacpp", host, server != nil),
		gpu.Options{
			Library: fake.Path, RetryMin: time.Millisecond, RetryMax: time.Millisecond, SlowEvery: time.Nanosecond, EventWait: 5 * time.Millisecond,
		})
	t.Cleanup(h.Close)
	return &fixture{New(&cfg, set, always{h}, host, server, func() (pcommon.Resource, bool) { return resource, true }), t, logs}
}

// always reads anew, however short the time since the last reading.
type always struct{ *gpu.Handle }

func (a always) Look(ctx context.Context, _, patience time.Duration) gpu.Look {
	return a.Handle.Look(ctx, 0, patience)
}

func named(name string) pcommon.Resource {
	r := pcommon.NewResource()
	r.Attributes().PutStr("name", name)
	return r
}

func (f *fixture) scrape() pmetric.Metrics {
	f.t.Helper()
	md, err := f.Scrape(context.Background())
	require.NoError(f.t, err)
	return md
}

func (f *fixture) messages() []string {
	var ms []string
	for _, e := range f.logs.All() {
		ms = append(ms, e.Level.String()+" "+e.Message)
	}
	return ms
}

// pointsOf are those with a value.
func pointsOf(md pmetric.Metrics, name string) []pmetric.NumberDataPoint {
	var out []pmetric.NumberDataPoint
	for _, m := range points.Metrics(md) {
		if m.Name() == name {
			for _, p := range points.Numbers(m).All() {
				if !p.Flags().NoRecordedValue() {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

func ids(ps []pmetric.NumberDataPoint) map[string]int64 {
	out := map[string]int64{}
	for _, p := range ps {
		id, _ := p.Attributes().Get("hw.id")
		out[id.Str()] = p.IntValue()
	}
	return out
}

// all switches every metric on.
func all(c *Config) {
	m := &c.MetricsBuilderConfig.Metrics
	m.NvidiaGpuProcessMemoryUsage.Enabled = true
	m.NvidiaGpuSmUtilization.Enabled = true
	m.NvidiaGpuSmOccupancy.Enabled = true
	m.NvidiaGpuTensorUtilization.Enabled = true
	m.NvidiaGpuDramUtilization.Enabled = true
}

func TestScrape_EveryMetric(t *testing.T) {
	f := newFixture(t, 2, &processes{pids: []int{70, 71}}, all)
	for i := range 2 {
		fake.GPU(i).GPM = 1
		fake.SetProcesses(i, fakenvml.Process{PID: uint64(1<<30 + 70), Memory: 1 << 30}, fakenvml.Process{PID: 71, Memory: 7 << 30}, fakenvml.Process{PID: 70, Memory: 1 << 20})
	}
	f.programs = map[int]string{1<<30 + 70: "python3", 70: "llama-server", 71: "llama-server"}
	f.scrape() // the first samples
	time.Sleep(150 * time.Millisecond)
	fake.GPU(0).Energy += 1000
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "two.yaml"), f.scrape(), pmetrictest.IgnoreMetricValues("nvidia.gpu.power.mean"))
	assert.Empty(t, f.messages())
}

// Prometheus' translation adds _ratio to the name of a gauge whose unit is 1.
func TestScrape_OnlySharesAreGaugesOfUnitOne(t *testing.T) {
	f := newFixture(t, 1, nil, all)
	fake.GPU(0).GPM = 1
	f.scrape() // the first samples
	time.Sleep(150 * time.Millisecond)
	shares := map[string]bool{}
	for _, rm := range f.scrape().ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Type() == pmetric.MetricTypeGauge && m.Unit() == "1" {
					shares[m.Name()] = true
				}
			}
		}
	}
	assert.Equal(t, map[string]bool{
		"hw.fan.speed_ratio": true, "hw.gpu.memory.bandwidth.utilization": true, "hw.gpu.memory.utilization": true, "hw.gpu.utilization": true,
		"nvidia.gpu.dram.utilization": true, "nvidia.gpu.sm.occupancy": true, "nvidia.gpu.sm.utilization": true, "nvidia.gpu.tensor.utilization": true,
	}, shares)
}

func TestScrape_LostGPUIsReportedOnlyAsFailed(t *testing.T) {
	f := newFixture(t, 2, nil)
	f.scrape()
	fake.GPU(0).Lost = fakenvml.GPUIsLost
	fake.SetCount(1) // less to compare
	md := f.scrape()
	for _, p := range pointsOf(md, "hw.status") {
		id, _ := p.Attributes().Get("hw.id")
		state, _ := p.Attributes().Get("hw.state")
		assert.Equal(t, one(id.Str() == fake.UUID(0) && state.Str() == "failed" || id.Str() == fake.UUID(1) && state.Str() == "ok"), p.IntValue())
	}
	assert.Len(t, pointsOf(md, "hw.power"), 1)
}

func TestScrape_MIGInstancesNameTheirGPU(t *testing.T) {
	f := newFixture(t, 1, &processes{pids: []int{7}}, all)
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	fake.GPU(0).GPM = 1
	fake.SetProcesses(0, fakenvml.Process{PID: 6, Memory: 1 << 20}, fakenvml.Process{PID: 7, Memory: 1 << 30, Instance: 1})
	f.programs = map[int]string{6: "python3", 7: "llama-server"}
	f.scrape() // the first samples
	time.Sleep(150 * time.Millisecond)
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "mig.yaml"), f.scrape(), pmetrictest.IgnoreMetricValues("nvidia.gpu.power.mean"))
}

func TestScrape_MeanPowerIsFromTheEnergyCounter(t *testing.T) {
	f := newFixture(t, 1, nil)
	first := f.scrape()
	assert.Empty(t, pointsOf(first, "nvidia.gpu.power.mean"))
	time.Sleep(20 * time.Millisecond)
	fake.GPU(0).Energy += 5000
	second := f.scrape()
	before, after := pointsOf(first, "hw.energy")[0], pointsOf(second, "hw.energy")[0]
	assert.InDelta(t, 5, after.DoubleValue()-before.DoubleValue(), 1e-6)
	seconds := after.Timestamp().AsTime().Sub(before.Timestamp().AsTime()).Seconds()
	assert.InEpsilon(t, 5/seconds, pointsOf(second, "nvidia.gpu.power.mean")[0].DoubleValue(), 1e-3)
	assert.Equal(t, before.StartTimestamp(), after.StartTimestamp())
	assert.Equal(t, before.StartTimestamp(), before.Timestamp(), "what came before has no known beginning: it is not to be taken for an increase")
}

func TestScrape_OnlyTheChosenDevices(t *testing.T) {
	f := newFixture(t, 4, nil, func(c *Config) {
		c.Devices = []any{1, "GPU-00000000-0000-4000-8000-000000000003", 9}
	})
	for range 2 {
		assert.Equal(t, map[string]int64{fake.UUID(1): 11 << 30, fake.UUID(3): 13 << 30}, ids(pointsOf(f.scrape(), "hw.gpu.memory.usage")))
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn devices of scrapers::gpu::devices are not there")
	assert.Equal(t, []any{"9"}, f.logs.All()[0].ContextMap()["devices"])
}

func TestScrape_DevicesThatAreNotThereAreLoggedOnce(t *testing.T) {
	f := newFixture(t, 1, nil, func(c *Config) { c.Devices = []any{1, "0:0"} })
	for range 3 {
		assert.Zero(t, f.scrape().DataPointCount())
	}
	require.Len(t, f.messages(), 1)
	assert.Equal(t, []any{"1", "0:0"}, f.logs.All()[0].ContextMap()["devices"])
}

// Both scrape the same GPUs, and the second is there for its server.
func TestScrape_GPUsOfAnotherReceiver(t *testing.T) {
	first := newFixture(t, 1, nil, all)
	server := &processes{pids: []int{7}}
	second := newFixture(t, 1, server, func(c *Config) { c.MetricsBuilderConfig.Metrics.NvidiaGpuProcessMemoryUsage.Enabled = true })
	fake.SetProcesses(0, fakenvml.Process{PID: 7, Memory: 20})
	first.scrape()
	for range 2 {
		time.Sleep(time.Millisecond)
		fake.GPU(0).Energy += 1000
		md := second.scrape()
		assert.Equal(t, 1, md.DataPointCount())
		assert.Equal(t, map[string]int64{fake.UUID(0): 20}, ids(pointsOf(md, "llamacpp.gpu.memory.usage")))
	}
	assert.Equal(t, []string{"info another receiver of this collector reports the GPUs, this one only what its server holds of them: " +
		"scrapers::gpu::report: always makes it report them as well"}, second.messages())
	last := pointsOf(first.scrape(), "hw.energy")[0]
	first.gpus.(always).Close()
	fake.GPU(0).Energy += 1000
	time.Sleep(time.Millisecond)
	md := second.scrape()
	next := pointsOf(md, "hw.energy")[0]
	assert.InDelta(t, last.DoubleValue()+1, next.DoubleValue(), 1e-6)
	assert.Equal(t, last.StartTimestamp(), next.StartTimestamp())
	assert.Len(t, pointsOf(md, "nvidia.gpu.power.mean"), 1, "since its own scrape before")
}

func TestScrape_ServersMemoryIsThatOfItsProcesses(t *testing.T) {
	server := &processes{err: errors.New("the endpoint is another host")}
	f := newFixture(t, 3, server)
	usage := func() map[string]int64 { return ids(pointsOf(f.scrape(), "llamacpp.gpu.memory.usage")) }
	fake.SetProcesses(0, fakenvml.Process{PID: 5, Memory: 100}, fakenvml.Process{PID: 6, Memory: 1}, fakenvml.Process{PID: 7, Memory: 10})
	fake.SetProcesses(2, fakenvml.Process{PID: 7, Memory: 20})
	for range 2 {
		assert.Empty(t, usage())
	}
	server.err = nil
	server.pids = []int{5, 7}
	for range 2 {
		assert.Equal(t, map[string]int64{fake.UUID(0): 110, fake.UUID(2): 20}, usage())
	}
	server.pids = []int{99}
	assert.Empty(t, usage())
	fake.SetProcesses(0, fakenvml.Process{PID: 99, Memory: 1<<64 - 1})
	assert.Empty(t, usage())
	fake.Fail("nvmlDeviceGetComputeRunningProcesses_v3", -1, fakenvml.NotSupported)
	assert.Empty(t, usage())
	want := []string{
		"info no llamacpp.gpu.memory.usage: the endpoint is another host",
		"info the server's process uses a GPU: llamacpp.gpu.memory.usage begins",
		"info no llamacpp.gpu.memory.usage: its process is not among those that the driver lists",
		"info no llamacpp.gpu.memory.usage: the driver does not tell how much memory",
		"info no llamacpp.gpu.memory.usage: the driver does not list processes",
	}
	require.Len(t, f.messages(), len(want), f.messages())
	for i, m := range f.messages() {
		assert.Contains(t, m, want[i])
	}
}

// Else a first point would be of a resource without the model's name, and a join
// with target_info would find two for as long as a backend looks back.
func TestScrape_ServersMemoryWaitsUntilTheServersResourceIsKnown(t *testing.T) {
	f := newFixture(t, 1, &processes{pids: []int{5}})
	fake.SetProcesses(0, fakenvml.Process{PID: 5, Memory: 100})
	resource, known := f.serverResource()
	require.True(t, known)
	f.serverResource = func() (pcommon.Resource, bool) { return pcommon.Resource{}, false }
	assert.Empty(t, pointsOf(f.scrape(), "llamacpp.gpu.memory.usage"))
	f.serverResource = func() (pcommon.Resource, bool) { return resource, true }
	assert.Len(t, pointsOf(f.scrape(), "llamacpp.gpu.memory.usage"), 1)
}

func TestScrape_ServersMemoryIsNotMissedWhileNoGPUAnswers(t *testing.T) {
	f := newFixture(t, 1, &processes{pids: []int{7}})
	fake.SetProcesses(0, fakenvml.Process{PID: 7, Memory: 20})
	require.Len(t, pointsOf(f.scrape(), "llamacpp.gpu.memory.usage"), 1)
	fake.GPU(0).Lost = fakenvml.GPUIsLost
	assert.Empty(t, pointsOf(f.scrape(), "llamacpp.gpu.memory.usage"))
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn a GPU is lost")
}

func TestScrape_WithoutGPUsNothingComes(t *testing.T) {
	f := newFixture(t, 0, &processes{err: errors.New("not asked")})
	for range 3 {
		assert.Zero(t, f.scrape().DataPointCount())
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "no GPU")
}

func TestProgram(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	assert.Equal(t, filepath.Base(self), program(os.Getpid()))
	assert.Empty(t, program(1<<30))
}

func TestConfig(t *testing.T) {
	const wanted = "want a GPU's index from 0 or its UUID"
	for _, tt := range []struct {
		settings map[string]any
		want     string // of the error
	}{
		{map[string]any{"devices": []any{0, 7, "GPU-8f5c", "MIG-8f5c", "0:0", "1:12"}}, ""},
		{map[string]any{"devices": []any{-1}}, `devices: -1: ` + wanted},
		{map[string]any{"devices": []any{"0x"}}, `devices: "0x": ` + wanted},
		{map[string]any{"devices": []any{1.5}}, `devices: 1.5: ` + wanted},
		{map[string]any{"devices": []any{"0:1:0"}}, `devices: "0:1:0": ` + wanted},
		{map[string]any{"devices": []any{"0:-1"}}, `devices: "0:-1": ` + wanted},
		{map[string]any{"devices": []any{"0"}}, `devices: "0": ` + wanted},
		{map[string]any{"devices": []any{"MIG-GPU-8f5c/7/0"}}, "the form of drivers before version 470"},
		{map[string]any{"report": "always"}, ""},
		{map[string]any{"report": "never"}, `report: "never": want "once", or "always"`},
	} {
		cfg := NewDefaultConfig()
		require.NoError(t, confmap.NewFromStringMap(tt.settings).Unmarshal(&cfg))
		err := errors.Join(append(cfg.Check(), confmap.Validate(&cfg))...)
		if tt.want == "" {
			assert.NoError(t, err)
			continue
		}
		assert.ErrorContains(t, err, tt.want)
	}
}

func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("gpus=%d", n), func(b *testing.B) {
			f := newFixture(b, n, nil)
			b.ReportAllocs()
			for b.Loop() {
				f.scrape()
			}
		})
	}
}
