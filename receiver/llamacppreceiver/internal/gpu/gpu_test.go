// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
)

// fake is the one library of this process: functions that have been called are
// bound to the first one for good.
var fake *fakenvml.Driver

// childLibrary names the library that a child process looks at, and nothing else.
const childLibrary = "GPU_TEST_LIBRARY"

func TestMain(m *testing.M) {
	if path := os.Getenv(childLibrary); path != "" {
		os.Exit(child(path))
	}
	folder, err := os.MkdirTemp("", "fakenvml")
	if err == nil {
		fake, err = fakenvml.New(folder, fakenvml.Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// child prints the readings of a library that lacks some functions.
func child(path string) int {
	h := Open(zap.Must(zap.NewDevelopment()), Want{Processes: true, Profile: true}, Options{Library: path})
	defer h.Close()
	for range 2 {
		for _, r := range h.Look(ctx(), 0, wait).Readings {
			fmt.Printf("%+v\n", *r)
		}
		time.Sleep(profileGap)
	}
	return 0
}

const wait = 20 * time.Second

func ctx() context.Context { return context.Background() }

type fixture struct {
	*Handle
	t    testing.TB
	logs *observer.ObservedLogs
}

// open joins a driver with n typical GPUs, with short pauses.
func open(t testing.TB, n int, want Want, change ...func(*Options)) *fixture {
	t.Helper()
	fake.Reset(n)
	o := Options{
		Library: fake.Path, RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond, SlowEvery: time.Nanosecond, StuckAfter: time.Nanosecond,
		EventWait: 5 * time.Millisecond,
	}
	for _, c := range change {
		c(&o)
	}
	f := join(t, want, o)
	t.Cleanup(func() { fake.Reset(0) })
	return f
}

func join(t testing.TB, want Want, o Options) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	f := &fixture{Open(zap.New(core), want, o), t, logs}
	t.Cleanup(func() {
		fake.Clear()
		f.Close()
	})
	return f
}

func (f *fixture) look() []*Reading {
	f.t.Helper()
	return f.Look(ctx(), 0, wait).Readings
}

// one returns the reading of the only GPU.
func (f *fixture) one() *Reading {
	f.t.Helper()
	rs := f.look()
	require.Len(f.t, rs, 1)
	return rs[0]
}

func (f *fixture) eventually(holds func(rs []*Reading) bool, what string) []*Reading {
	f.t.Helper()
	var rs []*Reading
	for end := time.Now().Add(wait); ; time.Sleep(2 * time.Millisecond) {
		if rs = f.look(); holds(rs) {
			return rs
		}
		if time.Now().After(end) {
			require.Fail(f.t, "not within "+wait.String()+": "+what)
		}
	}
}

func (f *fixture) messages() []string {
	var ms []string
	for _, e := range f.logs.All() {
		ms = append(ms, e.Level.String()+" "+e.Message)
	}
	return ms
}

func TestLook_EveryValueIsRead(t *testing.T) {
	f := open(t, 1, Want{Processes: true})
	fake.SetProcesses(0, fakenvml.Process{PID: 7, Memory: 5 << 30}, fakenvml.Process{PID: 8, Memory: 1<<64 - 1})
	r := f.one()
	assert.WithinDuration(t, time.Now(), r.At, wait)
	assert.Equal(t, r.At, r.Since)
	r.At, r.Since = time.Time{}, time.Time{}
	want := &Reading{
		Report:      true,
		Identity:    Identity{ID: "GPU-00000000-0000-4000-8000-000000000000", Name: "NVIDIA Fake H100"},
		Utilization: some(0.9), Encoder: some(0.01), Decoder: some(0.02), MemoryBusy: some(0.7),
		MemoryUsed: some(uint64(10 << 30)), MemoryTotal: some(uint64(80 << 30)),
		Power: some(310.5), PowerLimit: some(700.0), Energy: some(5e6), Temperature: some(61.0), MemoryTemperature: some(70.0),
		Limits:    [limits]Opt[float64]{some(88.0), some(93.0), some(85.0), some(95.0)},
		Clocks:    [clocks]Opt[uint64]{some(uint64(1755e6)), some(uint64(1755e6)), some(uint64(2619e6)), some(uint64(1545e6))},
		MaxClocks: [clocks]Opt[uint64]{some(uint64(1980e6)), some(uint64(1980e6)), some(uint64(2619e6)), some(uint64(1980e6))},
		Reasons: [reasons]Opt[bool]{
			PowerCap: some(true), SyncBoost: some(false), ThermalSoftware: some(false),
			ThermalHardware: some(false), PowerBrake: some(false), HardwareSlowdown: some(false),
		},
		Throttled: [reasons]Opt[Throttled]{
			some(Throttled{Seconds: 12.5}), some(Throttled{}), some(Throttled{Seconds: 1}), some(Throttled{}), some(Throttled{}),
			some(Throttled{Sampled: true}),
		},
		Received: some(uint64(9e9)), Transmitted: some(uint64(3e9)), PerformanceState: some(uint64(0)), Fan: some(0.45),
		Corrected: some(uint64(3)), Uncorrected: some(uint64(0)), RemappedRows: some(uint64(1)),
		Processes: some([]Process{{PID: 7, Memory: some(uint64(5 << 30))}, {PID: 8}}),
	}
	assert.Equal(t, want, r)
	assert.Empty(t, f.messages())
}

func TestLook_ReceiversShareOneSession(t *testing.T) {
	a := open(t, 2, Want{})
	require.Len(t, a.look(), 2)
	b := join(t, Want{Processes: true}, Options{Library: fake.Path})
	require.Len(t, b.look(), 2)
	assert.Equal(t, 1, fake.Sessions())
	assert.Equal(t, 2, fake.Calls("nvmlDeviceGetPowerUsage")/2, "two rounds")
	l := a.Look(ctx(), time.Hour, wait)
	require.Len(t, l.Readings, 2)
	assert.Equal(t, 2, fake.Calls("nvmlDeviceGetPowerUsage")/2, "what is fresh is not read again")
	a.Close()
	require.Len(t, b.look(), 2)
	assert.Equal(t, 1, fake.Sessions())
	b.Close()
	assert.Zero(t, fake.Sessions())
}

// reported returns the indexes of the GPUs that a receiver is to report.
func (f *fixture) reported() []int {
	f.t.Helper()
	var is []int
	for _, r := range f.look() {
		if r.Report {
			is = append(is, r.Index)
		}
	}
	return is
}

func TestLook_OneReceiverReportsAGPU(t *testing.T) {
	a := open(t, 2, Want{Name: "a"})
	o := Options{Library: fake.Path}
	b := join(t, Want{Processes: true}, o)
	assert.Empty(t, b.reported(), "a started first, although it has not looked yet")
	assert.Equal(t, []int{0, 1}, a.reported())
	l := b.Look(ctx(), 0, wait)
	require.Len(t, l.Readings, 2, "it still sees them")
	assert.True(t, l.Readings[1].Processes.OK)
	assert.Equal(t, "a", l.Reporter)
	assert.Empty(t, a.Look(ctx(), 0, wait).Reporter)

	always := join(t, Want{Always: true}, o)
	assert.Equal(t, []int{0, 1}, always.reported())
	assert.Equal(t, []int{0, 1}, a.reported())
	assert.Empty(t, always.Look(ctx(), 0, wait).Reporter)

	one := join(t, Want{Devices: devices(t, 1), Dedicated: true, Name: "one"}, o)
	assert.Equal(t, []int{1}, one.reported(), "although it started last: that is what it is for")
	assert.Equal(t, []int{0}, a.reported())
	assert.Equal(t, "one", a.Look(ctx(), 0, wait).Reporter)
	assert.Empty(t, join(t, Want{Devices: devices(t, 1), Dedicated: true}, o).reported(), "it started later")
	assert.Equal(t, []int{1}, one.reported())
	assert.Equal(t, []int{0, 1}, always.reported())
	one.Close()
	assert.Equal(t, []int{0}, a.reported())
	a.Close()
	assert.Equal(t, []int{0}, b.reported())
}

func TestLook_CountersGoOnWhenAnotherReceiverTakesOver(t *testing.T) {
	a := open(t, 1, Want{})
	b := join(t, Want{}, Options{Library: fake.Path})
	g := fake.GPU(0)
	first := a.one()
	require.Empty(t, b.reported())
	g.Energy = 1000 // the driver was loaded anew
	before := a.one()
	a.Close()
	g.Energy += 500
	after := b.one()
	require.True(t, after.Report)
	assert.Equal(t, first.Since, after.Since)
	assert.InDelta(t, before.Energy.V+0.5, after.Energy.V, 1e-6)
}

func TestLook_ReceiverThatHasLeftReportsNothing(t *testing.T) {
	a := open(t, 1, Want{})
	left := join(t, Want{Dedicated: true}, Options{Library: fake.Path})
	left.Close()
	assert.Empty(t, left.look(), "a scrape that was under way")
	assert.Equal(t, []int{0}, a.reported())
}

func TestLook_NoReadingIsReportedTwice(t *testing.T) {
	a := open(t, 1, Want{})
	a.one()
	b := join(t, Want{}, Options{Library: fake.Path})
	a.Close()
	l := b.Look(ctx(), time.Hour, wait)
	require.Len(t, l.Readings, 1)
	assert.False(t, l.Readings[0].Report, "a has")
	assert.True(t, b.one().Report)
	dedicated := join(t, Want{Dedicated: true}, Options{Library: fake.Path})
	assert.False(t, dedicated.Look(ctx(), time.Hour, wait).Readings[0].Report, "b has")
	assert.True(t, dedicated.one().Report)
}

func devices(t *testing.T, names ...any) []Selector {
	t.Helper()
	var ds []Selector
	for _, name := range names {
		d, err := ParseSelector(name)
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprint(name), d.String())
		ds = append(ds, d)
	}
	return ds
}

func TestLook_OnlyTheWantedDevices(t *testing.T) {
	fake.Reset(4)
	f := open(t, 4, Want{Processes: true, Devices: devices(t, 1, fake.UUID(3), "0:1", "MIG-00000000-0000-4000-8000-000000000002", "0:5", 7)})
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30, 3<<30, 4<<30)
	fake.SetInstances(3, 10<<30, 1<<30)
	fake.SetProcesses(0, fakenvml.Process{PID: 5, Memory: 1, Instance: 0}, fakenvml.Process{PID: 6, Memory: 2, Instance: 1})
	l := f.Look(ctx(), 0, wait)
	rs := l.Readings
	require.Len(t, rs, 3)
	assert.False(t, rs[0].Report, "only some of its instances")
	require.Len(t, rs[0].Instances, 2)
	assert.Equal(t, fake.InstanceUUID(0, 1), rs[0].Instances[0].ID)
	assert.Equal(t, some(uint64(3<<30)), rs[0].Instances[1].MemoryUsed)
	assert.Equal(t, some([]Process{{PID: 6, Memory: some(uint64(2)), Instance: fake.InstanceUUID(0, 1)}}), rs[0].Processes)
	assert.True(t, rs[1].Report)
	assert.Equal(t, 1, rs[1].Index)
	assert.True(t, rs[2].Report)
	assert.Len(t, rs[2].Instances, 1, "with its GPU")
	assert.Equal(t, "[0:5 7]", fmt.Sprint(l.Missing))

	whole := join(t, Want{Devices: devices(t, 0), Dedicated: true}, Options{Library: fake.Path})
	assert.Len(t, whole.look()[0].Instances, 4)
	assert.Empty(t, f.look()[0].Instances, "reported with their GPU")
}

func TestLook_IdentityAndRarelyChangingValuesAreNotReadEachTime(t *testing.T) {
	f := open(t, 1, Want{}, func(o *Options) { o.SlowEvery = time.Hour })
	for range 5 {
		r := f.one()
		assert.Equal(t, some(uint64(80<<30)), r.MemoryTotal)
		assert.Equal(t, some(700.0), r.PowerLimit)
		assert.Equal(t, some(uint64(3)), r.Corrected)
	}
	for _, name := range []string{"nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetRemappedRows"} {
		assert.Equal(t, 1, fake.Calls(name), name)
	}
	assert.Equal(t, 5, fake.Calls("nvmlDeviceGetPowerUsage"))
}

func TestLook_UnsupportedIsLearntOnceAndNotLogged(t *testing.T) {
	f := open(t, 2, Want{})
	fake.Fail("nvmlDeviceGetFanSpeed_v2", 0, fakenvml.NotSupported)
	fake.Fail("nvmlDeviceGetFieldValues:82", 0, fakenvml.NotSupported)
	for range 3 {
		rs := f.look()
		assert.False(t, rs[0].Fan.OK)
		assert.False(t, rs[0].MemoryTemperature.OK)
		assert.True(t, rs[0].Received.OK)
		assert.True(t, rs[1].Fan.OK)
		assert.True(t, rs[1].MemoryTemperature.OK)
	}
	assert.Equal(t, 1+3, fake.Calls("nvmlDeviceGetFanSpeed_v2"))
	assert.Empty(t, f.messages())
}

func TestLook_NoPermissionIsLoggedOnce(t *testing.T) {
	f := open(t, 1, Want{})
	fake.Fail("nvmlDeviceGetTotalEnergyConsumption", -1, fakenvml.NoPermission)
	for range 3 {
		assert.False(t, f.one().Energy.OK)
	}
	assert.Equal(t, 1, fake.Calls("nvmlDeviceGetTotalEnergyConsumption"))
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn a value of a GPU is left out: no permission")
}

func TestLook_FailureOfOneValueIsLoggedWhenItBeginsAndEnds(t *testing.T) {
	f := open(t, 1, Want{})
	fake.Fail("nvmlDeviceGetPowerUsage", -1, fakenvml.Unknown)
	for range 3 {
		r := f.one()
		assert.False(t, r.Power.OK)
		assert.True(t, r.Energy.OK)
	}
	fake.Clear()
	assert.True(t, f.one().Power.OK)
	assert.Equal(t, []string{"warn a value of a GPU cannot be read: NVML_ERROR_UNKNOWN", "info a value of a GPU can be read again"}, f.messages())
}

func TestLook_WhatWasLoggedIsNotLoggedAgainWithEachConnection(t *testing.T) {
	f := open(t, 2, Want{})
	fake.Fail("nvmlDeviceGetTotalEnergyConsumption", 0, fakenvml.NoPermission)
	fake.Fail("nvmlDeviceGetPowerUsage", 0, fakenvml.Unknown)
	fake.Fail("nvmlDeviceRegisterEvents", 0, fakenvml.NoPermission)
	fake.Fail("nvmlEventSetWait_v2", -1, fakenvml.Unknown)
	require.Len(t, f.look(), 2)
	fake.GPU(1).Lost = fakenvml.GPUIsLost
	f.eventually(func([]*Reading) bool { return fake.Calls("nvmlInit_v2") > 3 }, "connects again")
	assert.ElementsMatch(t, []string{
		"warn Xid errors of a GPU are not counted: NVML_ERROR_NO_PERMISSION",
		"warn a value of a GPU cannot be read: NVML_ERROR_UNKNOWN",
		"warn a value of a GPU is left out: no permission; run the collector as a user for whom nvidia-smi shows it, or give it CAP_SYS_ADMIN",
		"warn Xid errors are not counted until the driver is opened anew: NVML_ERROR_UNKNOWN",
		"warn a GPU is lost: it has fallen off the bus (NVML_ERROR_GPU_IS_LOST): see the kernel's log; checked again from time to time",
	}, f.messages())
	fake.Clear()
	fake.GPU(1).Lost = 0
	f.eventually(func(rs []*Reading) bool { return rs[1].State == OK }, "recovers")
	assert.True(t, f.look()[0].Power.OK)
	assert.Len(t, f.logs.FilterMessage("a value of a GPU can be read again").All(), 2)
}

func TestLook_DriverThatIsNotLoadedIsFoundLater(t *testing.T) {
	f := open(t, 1, Want{})
	fake.SetInit(fakenvml.DriverNotLoaded)
	for range 10 {
		assert.Empty(t, f.look())
		time.Sleep(3 * time.Millisecond)
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn no GPU metrics: the NVIDIA driver's kernel module is not loaded: load it")
	fake.SetInit(fakenvml.Success)
	f.eventually(func(rs []*Reading) bool { return len(rs) == 1 }, "found")
	assert.Equal(t, "info the NVIDIA driver is there", f.messages()[1])
}

func TestLook_WhyTheDriverDoesNotOpenIsLoggedWithTheCure(t *testing.T) {
	for code, want := range map[uint64]string{
		fakenvml.Unknown: "a container can lose its GPUs for good when systemd is reloaded", fakenvml.NoPermission: "let the collector's user read and write /dev/nvidiactl",
		17: "allow the devices /dev/nvidia* in its control group", fakenvml.LibRMMismatch: "reload the module or reboot", 10: "answers NVML_ERROR_TIMEOUT: trying again",
	} {
		fake.Reset(1)
		fake.SetInit(code)
		f := join(t, Want{}, Options{Library: fake.Path})
		assert.Empty(t, f.look())
		require.Len(t, f.messages(), 1)
		assert.Contains(t, f.messages()[0], want)
		f.Close()
	}
}

func TestLook_RetriesBackOff(t *testing.T) {
	f := open(t, 1, Want{}, func(o *Options) { o.RetryMin, o.RetryMax = 20*time.Millisecond, time.Hour })
	fake.SetInit(fakenvml.DriverNotLoaded)
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		f.look()
	}
	assert.LessOrEqual(t, fake.Calls("nvmlInit_v2"), 4, "after 0, 20, 60 and 140 ms")
	assert.GreaterOrEqual(t, fake.Calls("nvmlInit_v2"), 2)
}

// A GPU that opens but cannot be read is retried no more often than another one.
func TestLook_RetriesBackOffForAGPUThatOnlyOpens(t *testing.T) {
	f := open(t, 2, Want{}, func(o *Options) { o.RetryMin, o.RetryMax = 20*time.Millisecond, time.Hour })
	require.Len(t, f.look(), 2)
	fake.Fail("nvmlDeviceGetUtilizationRates", 1, fakenvml.GPUIsLost)
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		require.Len(t, f.look(), 2)
	}
	assert.LessOrEqual(t, fake.Calls("nvmlInit_v2"), 4, "at first, and after 20, 60 and 140 ms")
	assert.GreaterOrEqual(t, fake.Calls("nvmlInit_v2"), 2)
}

func TestLook_NoGPUIsLoggedOnce(t *testing.T) {
	f := open(t, 0, Want{})
	for range 5 {
		assert.Empty(t, f.look())
		time.Sleep(3 * time.Millisecond)
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "info no GPU metrics: the NVIDIA driver is there, but no GPU")
	assert.Zero(t, fake.Sessions())
}

func TestLook_LostGPUIsFailedAndTheOthersGoOn(t *testing.T) {
	f := open(t, 3, Want{})
	require.Len(t, f.look(), 3)
	fake.GPU(1).Lost = fakenvml.GPUIsLost
	for range 10 {
		rs := f.look()
		require.Len(t, rs, 3)
		assert.Equal(t, Failed, rs[1].State)
		assert.False(t, rs[1].Power.OK)
		assert.Equal(t, OK, rs[0].State)
		assert.True(t, rs[2].Power.OK)
		time.Sleep(3 * time.Millisecond)
	}
	assert.Greater(t, fake.Calls("nvmlInit_v2"), 1, "looks for it")
	assert.Equal(t, 1, fake.Sessions())
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn a GPU is lost: it has fallen off the bus")

	fake.GPU(1).Lost = 0
	rs := f.eventually(func(rs []*Reading) bool { return rs[1].State == OK }, "recovers")
	assert.True(t, rs[1].Power.OK)
	assert.Equal(t, "info a GPU is back", f.messages()[1])
}

func TestLook_GPUThatNeedsAResetAndOneThatDropsOut(t *testing.T) {
	f := open(t, 2, Want{})
	require.Len(t, f.look(), 2)
	fake.GPU(1).Lost = fakenvml.ResetRequired
	assert.Equal(t, Failed, f.look()[1].State)
	assert.Contains(t, f.messages()[0], "nvidia-smi --gpu-reset")
	fake.GPU(1).Lost = 0
	f.eventually(func(rs []*Reading) bool { return rs[1].State == OK }, "recovers")

	fake.Fail("nvmlDeviceGetPowerUsage", 1, fakenvml.GPUIsLost)
	assert.Equal(t, Failed, f.look()[1].State)
	fake.SetCount(1)
	fake.Clear()
	time.Sleep(30 * time.Millisecond)
	rs := f.look()
	require.Len(t, rs, 2)
	assert.Equal(t, Failed, rs[1].State, "not in the list")
	fake.SetCount(2)
	f.eventually(func(rs []*Reading) bool { return rs[1].State == OK }, "recovers")
}

// A round that finds no unit has no error to log.
func TestSession_GPUWithoutAUnitIsLost(t *testing.T) {
	s := newSession(nil, Options{})
	d := &device{Identity: Identity{ID: "GPU-0"}, reading: &Reading{State: OK}}
	require.NoError(t, s.read(d, Want{}))
	assert.Equal(t, Failed, d.reading.State)
	assert.Equal(t, "GPU-0", d.reading.ID)
}

func TestLook_GPUThatIsLostAtTheStartIsFoundLater(t *testing.T) {
	f := open(t, 2, Want{})
	fake.GPU(1).Lost = fakenvml.GPUIsLost
	for range 5 {
		require.Len(t, f.look(), 1)
		time.Sleep(3 * time.Millisecond)
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn a GPU cannot be opened: it has fallen off the bus")
	fake.GPU(1).Lost = 0
	f.eventually(func(rs []*Reading) bool { return len(rs) == 2 }, "found")
}

func TestLook_DriverThatWasUpgradedIsOpenedAnew(t *testing.T) {
	f := open(t, 2, Want{})
	require.Len(t, f.look(), 2)
	fake.Fail("nvmlDeviceGetUtilizationRates", -1, fakenvml.LibRMMismatch)
	fake.SetInit(fakenvml.LibRMMismatch)
	for range 5 {
		assert.Empty(t, f.look())
		time.Sleep(3 * time.Millisecond)
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "reload the module or reboot")
	assert.Zero(t, fake.Sessions())
	fake.Clear()
	fake.SetInit(fakenvml.Success)
	f.eventually(func(rs []*Reading) bool { return len(rs) == 2 }, "recovers")
}

func TestLook_CountersGoOnWhenTheDriverStartsAnew(t *testing.T) {
	f := open(t, 1, Want{})
	before := f.one()
	g := fake.GPU(0)
	g.Energy, g.Received, g.Throttled[0], g.Corrected = 2_000, 100, 1_000_000_000, 1
	after := f.one()
	assert.InDelta(t, before.Energy.V+2, after.Energy.V, 1e-6)
	assert.Equal(t, before.Received.V+100, after.Received.V)
	assert.InDelta(t, before.Throttled[PowerCap].V.Seconds+1, after.Throttled[PowerCap].V.Seconds, 1e-6)
	assert.Equal(t, before.Corrected.V+1, after.Corrected.V)
	g.Energy = 3_000
	assert.InDelta(t, before.Energy.V+3, f.one().Energy.V, 1e-6)
}

// The driver counts 32 bits of the bytes, and all of the energy.
func TestLook_PCIeCounterThatWrapsGoesOn(t *testing.T) {
	f := open(t, 1, Want{})
	g := fake.GPU(0)
	g.Received, g.Transmitted = 1<<32-100, 7<<32
	before := f.one()
	g.Received = 50
	g.Energy++
	assert.Equal(t, before.Received.V+150, f.one().Received.V, "wraps")

	fake.Fail("nvmlDeviceGetPowerUsage", 0, fakenvml.GPUIsLost)
	f.look()
	g.Received = 20
	fake.Clear()
	f.eventually(func(rs []*Reading) bool { return rs[0].State == OK }, "recovers")
	assert.Equal(t, before.Received.V+100+1<<32+20, f.one().Received.V, "wraps while the GPU could not be read")

	g.Received, g.Transmitted, g.Energy = 10, 1, 0
	after := f.one()
	assert.Equal(t, before.Received.V+100+1<<32+20+10, after.Received.V, "begins anew, with the count of energy")
	assert.Equal(t, before.Transmitted.V+1, after.Transmitted.V)
	g.Energy, g.Transmitted = 1, 0
	assert.Equal(t, after.Transmitted.V+1<<32-1, f.one().Transmitted.V, "is one of 32 bits from now on")
}

func TestLook_PCIeCounterWithoutEnergyBeginsAnewWithTheConnection(t *testing.T) {
	f := open(t, 1, Want{})
	fake.Fail("nvmlDeviceGetTotalEnergyConsumption", -1, fakenvml.NotSupported)
	g := fake.GPU(0)
	g.Received = 1000
	before := f.one()
	g.Received = 999
	assert.Equal(t, before.Received.V+1<<32-1, f.one().Received.V)
	g.Lost = fakenvml.GPUIsLost
	f.look()
	g.Lost, g.Received = 0, 10
	f.eventually(func(rs []*Reading) bool { return rs[0].State == OK }, "recovers")
	assert.Equal(t, before.Received.V+1<<32-1+10, f.one().Received.V)
}

func TestLook_ThrottleTimeIsSampledWhereTheDriverDoesNotCount(t *testing.T) {
	f := open(t, 1, Want{})
	for _, field := range []string{"74", "270"} {
		fake.Fail("nvmlDeviceGetFieldValues:"+field, -1, fakenvml.NotSupported)
	}
	fake.Fail("nvmlDeviceGetViolationStatus", -1, fakenvml.NotSupported)
	g := fake.GPU(0)
	g.Reasons = 0x40
	first := f.one()
	time.Sleep(20 * time.Millisecond)
	second := f.one()
	g.Reasons = 0
	third := f.one()
	gap := second.At.Sub(first.At).Seconds()
	assert.Equal(t, Throttled{Sampled: true}, first.Throttled[ThermalHardware].V)
	assert.True(t, second.Throttled[ThermalHardware].V.Sampled)
	assert.InDelta(t, gap, second.Throttled[ThermalHardware].V.Seconds, 1e-9)
	assert.InDelta(t, gap, third.Throttled[ThermalHardware].V.Seconds, 1e-9)
	assert.True(t, third.Throttled[PowerCap].V.Sampled)
	assert.False(t, third.Throttled[ThermalSoftware].V.Sampled, "this one is counted")
}

func TestLook_OlderDriversHaveOtherFunctions(t *testing.T) {
	f := open(t, 1, Want{})
	for _, name := range []string{
		"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetFieldValues:74",
	} {
		fake.Fail(name, -1, fakenvml.NotSupported)
	}
	r := f.one()
	assert.Equal(t, some(uint64(10<<30+600<<20)), r.MemoryUsed, "with what the driver holds")
	assert.Equal(t, some(61.0), r.Temperature)
	assert.Equal(t, some(true), r.Reasons[PowerCap])
	assert.Equal(t, some(Throttled{Seconds: 12.5}), r.Throttled[PowerCap])
}

func TestLook_XidErrorsAreCountedAndOutliveTheGPU(t *testing.T) {
	f := open(t, 2, Want{})
	require.Len(t, f.look(), 2)
	fake.XID(1, 63)
	fake.XID(1, 79)
	fake.XID(1, 63)
	want := []XID{{63, 2}, {79, 1}}
	f.eventually(func(rs []*Reading) bool { return assert.ObjectsAreEqual(want, rs[1].XIDs) }, "counted")
	assert.Empty(t, f.look()[0].XIDs)
	fake.GPU(1).Lost = fakenvml.GPUIsLost
	assert.Equal(t, want, f.look()[1].XIDs)
	logged := f.logs.FilterMessageSnippet("a GPU reports an error")
	require.Equal(t, 2, logged.Len(), "one that repeats is only counted")
	assert.EqualValues(t, 79, logged.All()[1].ContextMap()["xid"])
	fake.GPU(1).Lost = 0
	rs := f.eventually(func(rs []*Reading) bool { return rs[1].State == OK }, "recovers")
	assert.Equal(t, want, rs[1].XIDs)
	fake.XID(0, 31)
	f.eventually(func(rs []*Reading) bool { return len(rs[0].XIDs) == 1 }, "counts on after the connection was opened anew")
}

func TestLook_EventsThatCannotBeWaitedForAreLoggedOnce(t *testing.T) {
	fake.Reset(1)
	fake.Fail("nvmlEventSetWait_v2", -1, fakenvml.Unknown)
	f := join(t, Want{}, Options{Library: fake.Path})
	f.eventually(func([]*Reading) bool { return f.logs.Len() == 1 }, "logged")
	assert.Equal(t, []string{"warn Xid errors are not counted until the driver is opened anew: NVML_ERROR_UNKNOWN"}, f.messages())
	assert.True(t, f.one().Power.OK)
	assert.Equal(t, 1, fake.Calls("nvmlEventSetWait_v2"))
}

func TestLook_CallThatBlocksHoldsNobodyUp(t *testing.T) {
	f := open(t, 3, Want{})
	require.Len(t, f.look(), 3)
	fake.Delay("nvmlDeviceGetPowerUsage", 1, time.Hour)
	for i := range 3 {
		began := time.Now()
		rs := f.Look(ctx(), 0, 50*time.Millisecond).Readings
		assert.Less(t, time.Since(began), 2*time.Second)
		if i == 0 {
			require.Len(t, rs, 1, "the one before it")
			assert.Zero(t, rs[0].Index)
		}
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "warn the NVIDIA driver does not answer")
	assert.Equal(t, "nvmlDeviceGetPowerUsage of "+fake.UUID(1), f.logs.All()[0].ContextMap()["call"])
	fake.Clear()
	f.eventually(func(rs []*Reading) bool { return len(rs) == 3 }, "goes on")
	assert.Equal(t, "info the NVIDIA driver answers again", f.messages()[1])
}

func TestLook_CallThatTakesSecondsIsNotLoggedAsBlocked(t *testing.T) {
	f := open(t, 1, Want{}, func(o *Options) { o.StuckAfter = 200 * time.Millisecond })
	fake.Delay("nvmlInit_v2", -1, time.Hour)
	assert.Empty(t, f.Look(ctx(), 0, 20*time.Millisecond).Readings)
	assert.Empty(t, f.Look(ctx(), 0, 20*time.Millisecond).Readings)
	fake.Clear()
	f.one()
	assert.Empty(t, f.messages())
	fake.Delay("nvmlDeviceGetPowerUsage", -1, time.Hour)
	for f.logs.Len() == 0 {
		f.Look(ctx(), 0, 20*time.Millisecond)
	}
	assert.Contains(t, f.messages()[0], "warn the NVIDIA driver does not answer")
}

func TestClose_DoesNotWaitForACallThatNeverReturns(t *testing.T) {
	f := open(t, 1, Want{})
	require.Len(t, f.look(), 1)
	fake.Delay("nvmlDeviceGetPowerUsage", -1, time.Hour)
	f.Look(ctx(), 0, 20*time.Millisecond)
	began := time.Now()
	f.Close()
	assert.Less(t, time.Since(began), closePatience+5*time.Second)

	next := join(t, Want{}, Options{Library: fake.Path})
	assert.Empty(t, next.Look(ctx(), 0, 20*time.Millisecond).Readings, "waits for the end of the session before")
	fake.Clear()
	next.eventually(func(rs []*Reading) bool { return len(rs) == 1 }, "begins then")
	assert.Equal(t, 1, fake.Sessions())
}

func TestClose_EndsALookThatWaits(t *testing.T) {
	open(t, 1, Want{}).one() // keeps the session
	f := join(t, Want{}, Options{Library: fake.Path})
	fake.Delay("nvmlDeviceGetPowerUsage", -1, time.Hour)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Look(ctx(), 0, time.Hour)
	}()
	require.Eventually(t, func() bool { return f.session.driver.calling() != "" }, wait, time.Millisecond)
	f.Close()
	select {
	case <-ended:
	case <-time.After(wait):
		t.Error("it waits for the driver")
	}
}

func TestLook_MIGInstancesHaveTheirMemory(t *testing.T) {
	f := open(t, 1, Want{})
	assert.True(t, f.one().Utilization.OK)
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	r := f.one()
	assert.False(t, r.Utilization.OK, "not supported under MIG")
	require.Len(t, r.Instances, 2)
	assert.Equal(t, "MIG-00000000-0000-4000-8000-000000000001", r.Instances[1].ID)
	assert.Equal(t, some(uint64(2<<30)), r.Instances[1].MemoryUsed)
	assert.Equal(t, some(uint64(10<<30)), r.Instances[1].MemoryTotal)
	fake.GPU(0).MIG = 0
	r = f.one()
	assert.True(t, r.Utilization.OK, "learnt anew")
	assert.Empty(t, r.Instances)
}

func TestLook_MIGInstancesOutliveAListThatFails(t *testing.T) {
	f := open(t, 1, Want{})
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	require.Len(t, f.one().Instances, 2)
	fake.Fail("nvmlDeviceGetMaxMigDeviceCount", 0, fakenvml.Unknown)
	r := f.one()
	assert.Len(t, r.Instances, 2)
	assert.True(t, r.Incomplete)
	fake.Clear()
	assert.False(t, f.one().Incomplete)
}

func TestLook_RowsToBeRemappedAreSeen(t *testing.T) {
	f := open(t, 1, Want{})
	fake.GPU(0).RemapPending = 1
	assert.Equal(t, Degraded, f.one().State)
	fake.GPU(0).RemapFailed = 1
	assert.Equal(t, PredictedFailure, f.one().State)
}

func TestLook_ProfileComparesTwoSamples(t *testing.T) {
	f := open(t, 2, Want{Profile: true})
	fake.GPU(1).GPM = 1
	rs := f.look()
	assert.False(t, rs[1].Profile.OK, "there is none before")
	assert.False(t, f.look()[1].Profile.OK, "the driver has refreshed nothing")
	time.Sleep(profileGap)
	want := some(Profile{some(0.88), some(0.41), some(0.33), some(0.67)})
	for range 2 {
		rs = f.look()
		assert.False(t, rs[0].Profile.OK, "an older GPU")
		assert.Equal(t, want, rs[1].Profile)
	}
	assert.Equal(t, 2, fake.Calls("nvmlGpmSampleGet"))
	assert.Equal(t, 2, fake.Samples())
	f.Close()
	assert.Zero(t, fake.Samples())
}

func TestLook_ProfileOfMIGInstances(t *testing.T) {
	f := open(t, 2, Want{Profile: true})
	fake.GPU(0).GPM, fake.GPU(1).GPM = 1, 1
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	f.look()
	assert.Equal(t, 6, fake.Samples())
	time.Sleep(profileGap)
	rs := f.look()
	assert.False(t, rs[0].Profile.OK)
	assert.True(t, rs[1].Profile.OK)
	for i, in := range rs[0].Instances {
		assert.Equal(t, some(Profile{some(float64(50+i) / 100), some(0.4), some(0.3), some(0.2)}), in.Profile)
	}
	fake.SetInstances(0, 10<<30, 1<<30)
	time.Sleep(profileGap)
	rs = f.look()
	require.Len(t, rs[0].Instances, 1)
	assert.True(t, rs[0].Instances[0].Profile.OK, "goes on")
	assert.Equal(t, 4, fake.Samples(), "those of the other were given back")
	fake.GPU(0).MIG = 0
	f.look()
	time.Sleep(profileGap)
	assert.True(t, f.look()[0].Profile.OK, "the whole GPU again")
	f.Close()
	assert.Zero(t, fake.Samples())
}

func TestLook_ProcessesOfMIGInstances(t *testing.T) {
	f := open(t, 1, Want{Processes: true})
	fake.SetInstances(0, 10<<30, 1<<30, 2<<30)
	fake.SetProcesses(0, fakenvml.Process{PID: 5, Memory: 1, Instance: 1}, fakenvml.Process{PID: 6, Memory: 2, Instance: 0})
	assert.Equal(t, some([]Process{
		{PID: 6, Memory: some(uint64(2)), Instance: fake.InstanceUUID(0, 0)},
		{PID: 5, Memory: some(uint64(1)), Instance: fake.InstanceUUID(0, 1)},
	}), f.one().Processes)
}

func TestOpen_LibraryThatIsNotThereIsLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	f := join(t, Want{}, Options{Library: path, RetryMin: time.Millisecond, RetryMax: time.Millisecond})
	for range 5 {
		assert.Empty(t, f.look())
		time.Sleep(2 * time.Millisecond)
	}
	require.Len(t, f.messages(), 1)
	assert.Contains(t, f.messages()[0], "info no GPU metrics: no NVIDIA driver on this machine")
}

func TestOpen_BuiltWithoutCgo(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", "WithoutCgo", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestOpen_WithoutCgoLogsOnceWhatIsMissing")
}

// Calling a function that is missing would end the process, so this runs in a
// child.
func TestOpen_LibraryWithoutSomeFunctions(t *testing.T) {
	t.Parallel()
	look := func(without ...string) string {
		d := fakenvml.Start(t, fakenvml.Options{GPUs: 2, Without: without})
		d.GPU(0).GPM, d.GPU(1).GPM = 1, 1
		d.SetInstances(1, 10<<30, 1<<30)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childLibrary+"="+d.Path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	var optional []string
	for c := callUtilization; c < calls; c++ {
		for _, name := range symbols[c] {
			if !strings.Contains(strings.Join(optional, " "), name) {
				optional = append(optional, name)
			}
		}
	}
	out := look(optional...)
	assert.Equal(t, 2, strings.Count(out, "Index:0"), out)
	assert.NotContains(t, out, "WARN")
	out = look("nvmlErrorString", "nvmlDeviceGetPowerUsage")
	assert.Equal(t, 2, strings.Count(out, "Utilization:{V:0.9 OK:true}"), out)
	assert.Contains(t, out, "Power:{V:0 OK:false}")
	for _, ofMIG := range []string{"nvmlGpmMigSampleGet", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetMemoryInfo_v2", "nvmlGpmSampleFree"} {
		out = look(ofMIG)
		assert.Equal(t, 2, strings.Count(out, "ID:MIG-"), out)
		assert.NotContains(t, out, "WARN")
	}
	for _, required := range []string{"nvmlInit_v2", "nvmlShutdown", "nvmlDeviceGetUUID"} {
		out = look(required)
		assert.NotContains(t, out, "Index:0")
		assert.Contains(t, out, "install a driver of version 418 or newer")
	}
}

// On a real driver a sample costs what its calls cost. docs/gpu.md has their
// numbers.
func TestLook_TakesHalfTheCallsOfANaiveSample(t *testing.T) {
	for _, n := range []int{1, 8} {
		f := open(t, n, Want{Processes: true}, func(o *Options) { o.SlowEvery = time.Hour })
		connected := callsOf(func() { f.look() })
		own := callsOf(func() { f.look() })
		f.Close() // the binding has variables of its own, which Init sets
		lib := nvml.New(nvml.WithLibraryPath(fake.Path))
		require.Equal(t, nvml.SUCCESS, lib.Init())
		asWritten := callsOf(func() { naive(t, lib) })
		use(lib.Shutdown())
		assert.Equal(t, 16*n, own)
		const opening, opened, slow = 3, 5, 14 // of the driver, of a GPU; what is read every 10 s, and the number of fans
		assert.Equal(t, opening+(opened+slow)*n+own, connected)
		assert.Equal(t, 1+40*n, asWritten)
	}
}

// callsOf counts the calls of the driver, except the wait for events.
func callsOf(of func()) int {
	before := fake.AllCalls()
	of()
	return fake.AllCalls() - before
}

func BenchmarkLook(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("gpus=%d", n), func(b *testing.B) {
			f := open(b, n, Want{Processes: true}, func(o *Options) { o.SlowEvery = 10 * time.Second })
			require.Len(b, f.look(), n)
			b.ReportAllocs()
			before := fake.AllCalls()
			for b.Loop() {
				if len(f.Look(ctx(), 0, wait).Readings) != n {
					b.Fatal("a GPU is missing")
				}
			}
			b.ReportMetric(float64(fake.AllCalls()-before)/float64(b.N), "calls/op")
		})
	}
}

// BenchmarkNaive reads the same values as one would write it at first: each sample
// lists the GPUs and reads all identities and limits.
func BenchmarkNaive(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("gpus=%d", n), func(b *testing.B) {
			fake.Reset(n)
			lib := nvml.New(nvml.WithLibraryPath(fake.Path))
			require.Equal(b, nvml.SUCCESS, lib.Init())
			defer func() { use(lib.Shutdown()) }()
			b.ReportAllocs()
			before := fake.AllCalls()
			for b.Loop() {
				naive(b, lib)
			}
			b.ReportMetric(float64(fake.AllCalls()-before)/float64(b.N), "calls/op")
		})
	}
}

// use stands for the use of a result.
func use(...any) {}

func naive(b testing.TB, lib nvml.Interface) {
	b.Helper()
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		b.Fatal(ret)
	}
	for i := range n {
		d, _ := lib.DeviceGetHandleByIndex(i)
		use(d.GetUUID())
		use(d.GetName())
		use(d.GetUtilizationRates())
		use(d.GetEncoderUtilization())
		use(d.GetDecoderUtilization())
		use(d.GetMemoryInfo_v2())
		for _, c := range clockTypes {
			use(d.GetClockInfo(c))
			use(d.GetMaxClockInfo(c))
		}
		use(d.GetPowerUsage())
		use(d.GetEnforcedPowerLimit())
		use(d.GetTotalEnergyConsumption())
		use(d.GetTemperatureV().V1())
		for _, threshold := range []nvml.TemperatureThresholds{0, 1, 2, 3} {
			use(d.GetTemperatureThreshold(threshold))
		}
		use(d.GetCurrentClocksEventReasons())
		for _, id := range fieldIDs {
			use(d.GetFieldValues([]nvml.FieldValue{{FieldId: id}}))
		}
		use(d.GetPerformanceState())
		fans, _ := d.GetNumFans()
		for fan := range fans {
			use(d.GetFanSpeed_v2(fan))
		}
		use(d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC))
		use(d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC))
		use(d.GetRemappedRows())
		use(d.GetMigMode())
		use(d.GetComputeRunningProcesses())
	}
}
