// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpuscraper

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// backend knows of each series whether it goes on.
type backend struct {
	t      *testing.T
	series map[string]*series
	ended  []string // by the last metrics
}

type series struct {
	going, counter bool
	last           pcommon.Timestamp
}

func newBackend(t *testing.T) *backend { return &backend{t: t, series: map[string]*series{}} }

// take takes metrics as they arrive. None may be older than what the series has.
func (b *backend) take(md pmetric.Metrics) {
	b.t.Helper()
	b.ended = nil
	for rm, m := range points.Metrics(md) {
		resource, _ := rm.Resource().Attributes().Get("name")
		for _, p := range points.Numbers(m).All() {
			key := resource.Str() + " " + m.Name()
			for _, name := range []string{"hw.id", "hw.parent", "hw.state", "process.pid"} {
				if v, ok := p.Attributes().Get(name); ok {
					key += " " + v.AsString()
				}
			}
			for name, v := range p.Attributes().All() {
				if !slices.Contains([]string{"hw.id", "hw.parent", "hw.state", "process.pid", "hw.name", "hw.type", "hw.vendor"}, name) {
					key += " " + v.AsString()
				}
			}
			s := b.series[key]
			if s == nil {
				s = &series{}
				b.series[key] = s
			}
			assert.Greater(b.t, p.Timestamp(), s.last, key)
			counter := m.Type() == pmetric.MetricTypeSum && m.Sum().IsMonotonic()
			ends := p.Flags().NoRecordedValue()
			*s = series{!ends, counter, p.Timestamp()}
			if ends {
				assert.False(b.t, counter, key)
				b.ended = append(b.ended, key)
			}
		}
	}
}

// going are the series of what is true now.
func (b *backend) going(part string) (keys []string) {
	for key, s := range b.series {
		if s.going && !s.counter && strings.Contains(key, part) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// scrapeTo leaves time between two scrapes, as a clock does.
func (f *fixture) scrapeTo(b *backend) {
	f.t.Helper()
	time.Sleep(3 * time.Millisecond)
	b.take(f.scrape())
}

// close ends a receiver as its Shutdown does.
func (f *fixture) close(b *backend) {
	f.gpus.(always).Close()
	time.Sleep(3 * time.Millisecond)
	b.take(f.End())
}

const usage = "server llamacpp.gpu.memory.usage "

func TestScrape_ServersMemoryEndsWithItsProcess(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*processes)
		going  []string
	}{
		"killed, and nobody listens": {func(p *processes) { p.err = errors.New("no visible process listens") }, nil},
		"killed, and not yet missed": {func(*processes) { fake.SetProcesses(0) }, nil},
		"started anew on its GPU": {func(p *processes) {
			p.pids = []int{8}
			fake.SetProcesses(0, fakenvml.Process{PID: 8, Memory: 30})
		}, []string{usage + fake.UUID(0)}},
		"moved to another GPU": {func(p *processes) {
			p.pids = []int{8}
			fake.SetProcesses(0)
			fake.SetProcesses(1, fakenvml.Process{PID: 8, Memory: 30})
		}, []string{usage + fake.UUID(1)}},
		"its GPU is lost": {func(*processes) { fake.GPU(0).Lost = fakenvml.GPUIsLost }, nil},
		"the driver is not": {func(*processes) {
			fake.SetInit(fakenvml.DriverNotLoaded)
			fake.Fail("nvmlDeviceGetUtilizationRates", -1, fakenvml.DriverNotLoaded)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := &processes{pids: []int{7}}
			f, b := newFixture(t, 2, server), newBackend(t)
			fake.SetProcesses(0, fakenvml.Process{PID: 7, Memory: 20})
			f.scrapeTo(b)
			f.scrapeTo(b)
			require.Equal(t, []string{usage + fake.UUID(0)}, b.going("llamacpp"))
			assert.Empty(t, b.ended)
			tt.change(server)
			f.scrapeTo(b)
			assert.Equal(t, tt.going, b.going("llamacpp"))
			f.scrapeTo(b)
			assert.Empty(t, b.ended, "once")
		})
	}
}

func TestScrape_ServersMemoryEndsWithItsMIGInstance(t *testing.T) {
	f, b := newFixture(t, 1, &processes{pids: []int{7}}), newBackend(t)
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	fake.SetProcesses(0, fakenvml.Process{PID: 7, Memory: 20, Instance: 1})
	f.scrapeTo(b)
	require.Equal(t, []string{usage + fake.InstanceUUID(0, 1) + " " + fake.UUID(0)}, b.going("llamacpp"))
	fake.SetInstances(0, 10<<30, 1<<30)
	fake.SetProcesses(0)
	f.scrapeTo(b)
	assert.Empty(t, b.going("llamacpp"))
	assert.Empty(t, b.going(fake.InstanceUUID(0, 1)))
	assert.Len(t, b.going("host hw.gpu.memory.usage "+fake.InstanceUUID(0, 0)), 1)
	assert.NotContains(t, strings.Join(b.ended, " "), fake.InstanceUUID(0, 0))
}

func TestScrape_LateAndFailedReadsEndNothing(t *testing.T) {
	f, b := newFixture(t, 2, &processes{pids: []int{7}}, all), newBackend(t)
	fake.SetProcesses(1, fakenvml.Process{PID: 7, Memory: 20})
	f.scrapeTo(b)
	f.scrapeTo(b)
	before := b.going("")
	for _, name := range []string{"nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3"} {
		fake.Fail(name, 1, fakenvml.Unknown)
		f.scrapeTo(b)
		assert.Empty(t, b.ended, name)
	}
	fake.SetProcesses(1, fakenvml.Process{PID: 7, Memory: 1<<64 - 1})
	fake.Clear()
	f.scrapeTo(b)
	assert.Empty(t, b.ended, "unknown size")

	f.cfg.ControllerConfig.CollectionInterval = 50 * time.Millisecond
	fake.Delay("nvmlDeviceGetPowerUsage", 1, time.Hour)
	f.scrapeTo(b)
	assert.Empty(t, b.ended, "late")
	fake.Clear()
	assert.Equal(t, before, b.going(""))
}

func TestScrape_LostGPUsGaugesEnd(t *testing.T) {
	f, b := newFixture(t, 2, nil), newBackend(t)
	f.scrapeTo(b)
	f.scrapeTo(b)
	others := b.going(fake.UUID(1))
	require.Len(t, b.going("host hw.power "+fake.UUID(0)), 1)
	fake.Fail("nvmlDeviceGetPowerUsage", 0, fakenvml.Unknown) // what fails first ends as well
	f.scrapeTo(b)
	fake.Clear()
	fake.GPU(0).Lost = fakenvml.GPUIsLost
	f.scrapeTo(b)
	status := "host hw.status " + fake.UUID(0)
	assert.Equal(t, []string{status + " degraded", status + " failed", status + " ok", status + " predicted_failure"}, b.going(fake.UUID(0)))
	assert.Equal(t, others, b.going(fake.UUID(1)))
	f.scrapeTo(b)
	assert.Empty(t, b.ended, "once")

	fake.GPU(0).Lost = 0
	require.Eventually(t, func() bool { f.scrapeTo(b); return len(b.going("host hw.power "+fake.UUID(0))) == 1 }, 20*time.Second, time.Millisecond, "begins again")
}

func TestScrape_GaugesEndWithTheDriver(t *testing.T) {
	f, b := newFixture(t, 1, nil), newBackend(t)
	f.scrapeTo(b)
	require.NotEmpty(t, b.going(""))
	fake.Fail("nvmlDeviceGetUtilizationRates", -1, fakenvml.LibRMMismatch)
	fake.SetInit(fakenvml.LibRMMismatch)
	f.scrapeTo(b)
	assert.Empty(t, b.going(""))
	fake.Clear()
	fake.SetInit(fakenvml.Success)
	require.Eventually(t, func() bool { f.scrapeTo(b); return len(b.going("")) > 0 }, 20*time.Second, time.Millisecond, "begins again")
}

func TestScrape_ProcessesGaugeEndsWithIt(t *testing.T) {
	f, b := newFixture(t, 1, nil, all), newBackend(t)
	fake.SetProcesses(0, fakenvml.Process{PID: 1<<30 + 7, Memory: 20}, fakenvml.Process{PID: 1<<30 + 8, Memory: 30})
	f.programs = map[int]string{1<<30 + 7: "llama-server"}
	f.scrapeTo(b)
	require.Len(t, b.going("process.memory"), 2)
	fake.SetProcesses(0, fakenvml.Process{PID: 1<<30 + 8, Memory: 30})
	f.scrapeTo(b)
	require.Len(t, b.ended, 1)
	assert.Contains(t, b.ended[0], "1073741831")
	assert.Len(t, b.going("process.memory"), 1)
}

func TestScrape_NextReporterEndsWhatItDoesNotGoOnWith(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		host   string
		ended  func(all []string) []string
	}{
		"the same":            {func(*Config) {}, "host", func([]string) []string { return nil }},
		"without fans":        {func(c *Config) { c.MetricsBuilderConfig.Metrics.HwFanSpeedRatio.Enabled = false }, "host", func([]string) []string { return []string{"host hw.fan.speed_ratio " + fake.UUID(0)} }},
		"on another resource": {func(*Config) {}, "other", func(all []string) []string { return all }},
	} {
		t.Run(name, func(t *testing.T) {
			first, b := newFixture(t, 1, &processes{}), newBackend(t)
			first.scrapeTo(b)
			first.scrapeTo(b)
			all := b.going("")
			next := newFixture(t, 1, nil, tt.change) // one of the GPUs alone goes first
			next.host.Attributes().PutStr("name", tt.host)
			first.scrapeTo(b)
			assert.Empty(t, b.ended, "that is up to the next one")
			next.scrapeTo(b)
			slices.Sort(b.ended)
			assert.Equal(t, tt.ended(all), b.ended)
			next.scrapeTo(b)
			assert.Empty(t, b.ended, "once")
			first.close(b)
			assert.Empty(t, b.ended, "the next one goes on")
			next.close(b)
			assert.Empty(t, b.going(""))
		})
	}
}

func TestEnd_LastReceiverEndsWhatAllHaveShown(t *testing.T) {
	first, b := newFixture(t, 2, nil, func(c *Config) { c.Devices = []any{0, 1} }), newBackend(t)
	other := newFixture(t, 2, &processes{pids: []int{7}}, func(c *Config) { c.Devices = []any{1} })
	fake.SetProcesses(1, fakenvml.Process{PID: 7, Memory: 20})
	first.scrapeTo(b)
	other.scrapeTo(b)
	first.close(b)
	assert.Empty(t, b.going(fake.UUID(0)), "nobody goes on with it")
	assert.NotContains(t, strings.Join(b.ended, " "), fake.UUID(1), "the other will")
	other.close(b)
	assert.Empty(t, b.going(""), "although it has not gone on yet")
}

func TestEnd_ReceiverThatAlwaysReportsEndsItsOwn(t *testing.T) {
	first, b := newFixture(t, 1, nil), newBackend(t)
	always := newFixture(t, 1, nil, func(c *Config) { c.Report = ReportAlways })
	own := newBackend(t)
	first.scrapeTo(b)
	always.scrapeTo(own)
	always.close(own)
	assert.Empty(t, own.going(""))
	assert.NotEmpty(t, b.going(""))
	first.close(b)
	assert.Empty(t, b.going(""))
}
