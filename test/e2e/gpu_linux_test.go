// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// gpusAlone is a receiver of GPUs and nothing else.
const gpusAlone = "  llamacpp/gpu:\n    scrapers: {gpu: {collection_interval: 100ms}}\n"

// watchGPUs runs a collector on a driver's library.
func watchGPUs(t *testing.T, d *fakenvml.Driver, receivers ...string) *collector {
	t.Helper()
	t.Cleanup(func() { assert.Zero(t, d.Sessions(), "shut down") }) // after the collector has ended
	return runIn(t, []string{"LD_LIBRARY_PATH=" + d.Folder()}, receivers...)
}

func ofGPU(d *fakenvml.Driver, i int) otlpsink.Match { return otlpsink.With("hw.id", d.UUID(i)) }

// status selects the points which show whether a GPU is in a state.
func status(d *fakenvml.Driver, i int, state string) []otlpsink.Match {
	return []otlpsink.Match{ofGPU(d, i), otlpsink.With("hw.state", state)}
}

// awaitReadings waits until a GPU has been read n more times.
func (c *collector) awaitReadings(d *fakenvml.Driver, i, n int) {
	c.t.Helper()
	after := otlpsink.After(time.Now())
	c.eventually(func() bool { return len(c.Points(otlpsink.Metric("hw.power"), ofGPU(d, i), after)) >= n }, "GPU %d is read %d more times", i, n)
}

// messages are the log lines of gpusAlone.
func messages(c *collector) []string {
	var out []string
	for _, l := range c.lines("llamacpp/gpu") {
		out = append(out, l.Level+" "+l.Message)
	}
	return out
}

func TestGPU_EveryMetricArrivesBesideTheServers(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	// The simulator listens in this process.
	d.SetProcesses(1, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 6 << 30}, fakenvml.Process{PID: 1, Memory: 1 << 30})
	d.GPU(0).GPM = 1
	d.XID(0, 31)
	s := llamasim.Start(t, llamasim.Options{})
	c := watchGPUs(t, d, receiver("llamacpp", s.URL(), "scrapers:", "  server:", "  gpu:", "    collection_interval: 100ms", "    metrics:",
		"      nvidia.gpu.process.memory.usage: {enabled: true}", "      nvidia.gpu.sm.utilization: {enabled: true}",
		"      nvidia.gpu.sm.occupancy: {enabled: true}", "      nvidia.gpu.tensor.utilization: {enabled: true}", "      nvidia.gpu.dram.utilization: {enabled: true}"))
	want := map[string]float64{
		"hw.energy": 5e6, "hw.fan.speed_ratio": 0.45, "hw.gpu.memory.bandwidth.utilization": 0.7,
		"hw.gpu.memory.limit": 80 << 30, "hw.gpu.memory.usage": 10 << 30, "hw.gpu.memory.utilization": 0.125, "hw.power": 310.5,
		"nvidia.gpu.performance_state": 0, "nvidia.gpu.power.limit": 700,
		"nvidia.gpu.sm.utilization": 0.88, "nvidia.gpu.sm.occupancy": 0.41, "nvidia.gpu.tensor.utilization": 0.33, "nvidia.gpu.dram.utilization": 0.67,
		"nvidia.gpu.power.mean": 0,
	}
	for _, metric := range slices.Sorted(maps.Keys(want)) {
		c.await(want[metric], metric, ofGPU(d, 0))
	}
	for _, series := range []struct {
		metric, key, attribute string
		value                  float64
	}{
		{"hw.gpu.utilization", "hw.gpu.task", "general", 0.9},
		{"hw.gpu.io", "network.io.direction", "receive", 9e9},
		{"hw.gpu.io", "network.io.direction", "transmit", 3e9},
		{"hw.temperature", "hw.sensor_location", "gpu", 61},
		{"hw.temperature", "hw.sensor_location", "memory", 70},
		{"hw.temperature.limit", "hw.limit_type", "high.critical", 93},
		{"hw.errors", "error.type", "ecc.corrected", 3},
		{"hw.errors", "error.type", "row_remap", 1},
		{"hw.errors", "error.type", "xid.31", 1},
		{"hw.status", "hw.state", "ok", 1},
		{"nvidia.gpu.clock.frequency", "nvidia.gpu.clock", "memory", 2619e6},
		{"nvidia.gpu.clock.limit", "nvidia.gpu.clock", "sm", 1980e6},
		{"nvidia.gpu.throttle", "nvidia.gpu.throttle.reason", "power_cap", 1},
		{"nvidia.gpu.throttle.time", "nvidia.gpu.throttle.reason", "power_cap", 12.5},
	} {
		c.await(series.value, series.metric, ofGPU(d, 0), otlpsink.With(series.key, series.attribute))
	}
	c.await(6<<30, "nvidia.gpu.process.memory.usage", ofGPU(d, 1), otlpsink.With("process.pid", fmt.Sprint(os.Getpid())))
	c.await(6<<30, "llamacpp.gpu.memory.usage", ofGPU(d, 1))
	assert.Empty(t, c.Points(otlpsink.Metric("llamacpp.gpu.memory.usage"), ofGPU(d, 0)))

	// What the server uses is the server's, the GPUs are the host's.
	instance := strings.TrimPrefix(s.URL(), "http://")
	host, err := os.Hostname()
	require.NoError(t, err)
	c.awaitState("ok", otlpsink.Of(instance))
	for _, p := range c.Points() {
		switch {
		case strings.HasPrefix(p.Metric, "llamacpp."):
			assert.Equal(t, instance, p.Resource["service.instance.id"], p.Metric)
			assert.Empty(t, p.Resource["host.name"])
		default:
			assert.Equal(t, map[string]string{"host.name": host, "service.name": "nvidia-gpu", "service.instance.id": host}, p.Resource, p.Metric)
		}
	}
	assert.Len(t, c.complaints("llamacpp"), 1, "the Xid error: %v", c.complaints("llamacpp"))
}

func TestGPU_DriverThatAppearsLaterIsFound(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 1, Later: true})
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		// A library that cannot be loaded hides the one that this machine has.
		require.NoError(t, os.WriteFile(d.Path, nil, 0o600))
	}
	s := llamasim.Start(t, llamasim.Options{})
	c := watchGPUs(t, d, gpusAlone, receiver("llamacpp", s.URL(), "scrapers: {server: }"))
	c.awaitState("ok")
	c.awaitScrapes(3)
	require.Len(t, c.lines("llamacpp/gpu"), 1)
	assert.Contains(t, messages(c)[0], "info no GPU metrics: no NVIDIA driver on this machine")
	d.SetInit(fakenvml.DriverNotLoaded)
	require.NoError(t, d.Install())
	c.eventually(func() bool { return len(c.lines("llamacpp/gpu")) == 2 }, "the library is found")
	assert.Contains(t, messages(c)[1], "warn no GPU metrics: the NVIDIA driver's kernel module is not loaded")
	d.SetInit(fakenvml.Success)
	c.awaitReadings(d, 0, 2)
	assert.Equal(t, "info the NVIDIA driver is there", messages(c)[2])
	assert.Len(t, c.lines("llamacpp/gpu"), 3)
}

func TestGPU_LostOneRecoversAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 8})
	c := watchGPUs(t, d, gpusAlone)
	c.awaitReadings(d, 7, 3)
	d.XID(3, 79)
	c.await(1, "hw.errors", ofGPU(d, 3), otlpsink.With("error.type", "xid.79"))
	d.GPU(3).Lost = fakenvml.GPUIsLost
	c.await(1, "hw.status", status(d, 3, "failed")...)
	power := c.Points(otlpsink.Metric("hw.power"), ofGPU(d, 3))
	assert.False(t, otlpsink.Recorded(power[len(power)-1]), "its gauges end with the same scrape")
	c.awaitReadings(d, 2, 15)
	c.awaitReadings(d, 4, 1)
	c.await(1, "hw.errors", ofGPU(d, 3), otlpsink.With("error.type", "xid.79"))
	assert.Len(t, c.complaints("llamacpp/gpu"), 2, "the Xid error, and that the GPU is lost: %v", c.complaints("llamacpp/gpu"))

	d.GPU(3).Lost = 0
	d.GPU(3).Energy = 1000 // it begins anew
	c.await(1, "hw.status", status(d, 3, "ok")...)
	c.awaitReadings(d, 3, 3)
	assert.Len(t, c.Points(otlpsink.Metric("hw.energy"), ofGPU(d, 3)).Starts(), 1)
	assert.Contains(t, messages(c), "info a GPU is back")
}

func TestGPU_DriverUpgradedUnderTheProcess(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	c := watchGPUs(t, d, gpusAlone)
	c.awaitReadings(d, 1, 2)
	d.SetInit(fakenvml.LibRMMismatch)
	d.Fail("nvmlDeviceGetUtilizationRates", -1, fakenvml.LibRMMismatch)
	c.eventually(func() bool { return len(c.complaints("llamacpp/gpu")) == 1 }, "it is logged")
	assert.Contains(t, c.complaints("llamacpp/gpu")[0], "its kernel module and library are of two versions")
	d.Clear()
	d.SetInit(fakenvml.Success)
	c.awaitReadings(d, 1, 2)
	assert.Len(t, c.complaints("llamacpp/gpu"), 1)
}

// A package manager puts another file in the library's place. The C library never
// unloads one whose functions the program has called, and opens that one again:
// only a new process gets the new file.
func TestGPU_LibraryReplacedUnderTheProcess(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	c := watchGPUs(t, d, gpusAlone)
	c.awaitReadings(d, 1, 2)
	require.NoError(t, d.Replace(2))
	c.awaitReadings(d, 1, 5)
	assert.Empty(t, c.complaints("llamacpp/gpu"), "the module that is loaded goes with the old library")

	d.SetInit(fakenvml.LibRMMismatch)
	d.Fail("nvmlDeviceGetUtilizationRates", -1, fakenvml.LibRMMismatch)
	c.eventually(func() bool { return d.Calls("nvmlInit_v2") >= 3 }, "it is tried again")
	require.Len(t, c.complaints("llamacpp/gpu"), 1)
	assert.Contains(t, c.complaints("llamacpp/gpu")[0], "cannot load the new "+d.Path+": restart the collector")
	d.Clear()
	d.SetInit(fakenvml.Success)
	c.awaitReadings(d, 1, 2)
	assert.Equal(t, 1, d.Version(), "it was opened again, and is the old one")

	next := runIn(t, []string{"LD_LIBRARY_PATH=" + d.Folder()}, gpusAlone)
	next.awaitReadings(d, 1, 2)
	assert.Equal(t, 2, d.Version())
}

func TestGPU_CallThatBlocksDoesNotDelayTheServersMetrics(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	s := llamasim.Start(t, llamasim.Options{})
	c := watchGPUs(t, d, receiver("llamacpp", s.URL(), "scrapers: {server: {collection_interval: 100ms}, gpu: {collection_interval: 100ms}}"))
	c.awaitReadings(d, 1, 2)
	d.Delay("nvmlDeviceGetMemoryInfo_v2", 1, time.Hour)
	c.eventually(func() bool { return len(c.complaints("llamacpp")) == 1 }, "it is logged")
	assert.Contains(t, c.complaints("llamacpp")[0], "nvmlDeviceGetMemoryInfo_v2 of "+d.UUID(1))
	began := time.Now()
	c.awaitScrapes(20)
	assert.Less(t, time.Since(began), 10*time.Second)
	d.Clear()
	c.awaitReadings(d, 1, 2)
	assert.Len(t, c.complaints("llamacpp"), 1)
}

func TestGPU_LibraryWithoutSomeFunctionsDoesNotEndTheProcess(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 1, Without: []string{
		"nvmlErrorString", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFieldValues", "nvmlDeviceGetFanSpeed_v2",
		"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlEventSetWait_v2", "nvmlDeviceGetRemappedRows",
	}})
	c := watchGPUs(t, d, gpusAlone)
	c.awaitReadings(d, 0, 5)
	c.await(61, "hw.temperature", ofGPU(d, 0))
	c.await(10<<30+600<<20, "hw.gpu.memory.usage", ofGPU(d, 0))
	assert.Empty(t, c.Points(otlpsink.Metric("hw.fan.speed_ratio")))
	assert.Empty(t, c.complaints("llamacpp/gpu"))
}

func TestGPU_WhatIsNotSupportedOrForbiddenIsLeftOut(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	d.Fail("nvmlDeviceGetFanSpeed_v2", 0, fakenvml.NotSupported)
	d.Fail("nvmlDeviceGetTotalEnergyConsumption", 1, fakenvml.NoPermission)
	d.SetInstances(1, 10<<30, 2<<30)
	c := watchGPUs(t, d, gpusAlone)
	c.awaitReadings(d, 1, 5)
	assert.Empty(t, c.Points(otlpsink.Metric("hw.fan.speed_ratio"), ofGPU(d, 0)))
	assert.NotEmpty(t, c.Points(otlpsink.Metric("hw.fan.speed_ratio"), ofGPU(d, 1)))
	assert.Empty(t, c.Points(otlpsink.Metric("hw.energy"), ofGPU(d, 1)))
	assert.Empty(t, c.Points(otlpsink.Metric("hw.gpu.utilization"), otlpsink.With("hw.gpu.task", "general"), ofGPU(d, 1)))
	c.await(2<<30, "hw.gpu.memory.usage", otlpsink.With("hw.parent", d.UUID(1)))
	require.Len(t, c.complaints("llamacpp/gpu"), 1)
	assert.Contains(t, c.complaints("llamacpp/gpu")[0], "no permission")
}

func TestGPU_ReceiversShareOneSession(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 4})
	second := "  llamacpp/two:\n    scrapers: {gpu: {collection_interval: 100ms, devices: [2]}}\n"
	c := watchGPUs(t, d, "  llamacpp/one:\n    scrapers: {gpu: {collection_interval: 100ms, devices: ["+d.UUID(1)+"]}}\n", second)
	c.awaitReadings(d, 1, 5)
	c.awaitReadings(d, 2, 5)
	assert.Equal(t, 1, d.Sessions())
	assert.Equal(t, 1, d.Calls("nvmlInit_v2"))
	assert.Empty(t, c.Points(ofGPU(d, 0)))
	assert.Empty(t, c.Points(ofGPU(d, 3)))
}

// The receivers of servers have host.name off, which shows who has reported.
func TestGPU_OneReceiverReportsEachGPU(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	d.SetProcesses(1, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 6 << 30})
	one, two := llamasim.Start(t, llamasim.Options{}), llamasim.Start(t, llamasim.Options{})
	section := "resource_attributes: {host.name: {enabled: false}}\nscrapers: {server: , gpu: {collection_interval: 100ms}}"
	c := watchGPUs(t, d, receiver("llamacpp/one", one.URL(), section), receiver("llamacpp/two", two.URL(), section), gpusAlone)
	dedicated := func(p otlpsink.Point) bool { return p.Metric == "hw.power" && p.Resource["host.name"] != "" }
	c.eventually(func() bool { return len(c.Points(dedicated)) > 0 }, "the one of GPUs reports")
	settled := otlpsink.After(time.Now().Add(time.Second))
	ofTheGPUs := func(p otlpsink.Point) bool {
		return strings.HasPrefix(p.Metric, "hw.") || strings.HasPrefix(p.Metric, "nvidia.")
	}
	c.eventually(func() bool { return len(c.Points(otlpsink.Metric("hw.power"), ofGPU(d, 0), settled)) >= 10 }, "more readings")
	at := map[string]bool{}
	for _, p := range c.Points(ofTheGPUs, settled) {
		require.NotEmpty(t, p.Resource["host.name"], "%s", p.Metric)
		point := p.Series() + p.Time.String()
		require.False(t, at[point], "twice: %s", point)
		at[point] = true
	}
	for _, s := range []*llamasim.Server{one, two} {
		held := c.Points(otlpsink.Metric("llamacpp.gpu.memory.usage"), ofGPU(d, 1), otlpsink.Of(strings.TrimPrefix(s.URL(), "http://")), settled)
		assert.True(t, held.LastIs(6<<30), "each server has its own")
	}
	for _, id := range []string{"llamacpp/one", "llamacpp/two"} {
		require.NotEmpty(t, c.lines(id, "another receiver of this collector reports the GPUs", "llamacpp/gpu"), c.Log())
	}
	assert.Empty(t, c.lines("llamacpp/gpu", "another receiver"))
}

func TestGPU_MIGInstancesAreChosenAndProfiled(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	d.SetInstances(0, 10<<30, 1<<30, 2<<30)
	d.GPU(0).GPM = 1
	d.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 1 << 29, Instance: 1}, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 1 << 28, Instance: 0})
	s := llamasim.Start(t, llamasim.Options{})
	c := watchGPUs(t, d, receiver("llamacpp", s.URL(), "scrapers:", "  gpu:", "    collection_interval: 200ms", "    devices: [0:1]", "    metrics:",
		"      nvidia.gpu.sm.utilization: {enabled: true}", "      nvidia.gpu.dram.utilization: {enabled: true}"))
	instance := []otlpsink.Match{otlpsink.With("hw.id", d.InstanceUUID(0, 1)), otlpsink.With("hw.parent", d.UUID(0))}
	c.await(2<<30, "hw.gpu.memory.usage", instance...)
	c.await(0.51, "nvidia.gpu.sm.utilization", instance...)
	c.await(0.2, "nvidia.gpu.dram.utilization", instance...)
	c.await(1<<29, "llamacpp.gpu.memory.usage", instance...)
	for _, p := range c.Points() {
		assert.Equal(t, d.InstanceUUID(0, 1), p.Attributes["hw.id"], p.Metric)
	}
	assert.Empty(t, c.complaints("llamacpp"))
}
