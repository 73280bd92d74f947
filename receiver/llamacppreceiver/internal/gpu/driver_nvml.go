// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const systemLibrary = "libnvidia-ml.so.1"

// call is a function of the driver's library.
type call int

const (
	noCall call = iota
	callInit
	callShutdown
	callCount
	callHandle
	callUUID
	callName
	callUtilization
	callEncoder
	callDecoder
	callMemoryV2
	callMemory
	callPower
	callPowerLimit
	callEnergy
	callTemperatureV
	callTemperature
	callThresholdSlowdown
	callThresholdShutdown
	callThresholdMax
	callThresholdMemory
	callClockGraphics
	callClockSM
	callClockMemory
	callClockVideo
	callMaxClockGraphics
	callMaxClockSM
	callMaxClockMemory
	callMaxClockVideo
	callReasons
	callOldReasons
	callViolationPower
	callViolationSyncBoost
	callFields
	callECC
	callRows
	callFans
	callFan
	callPerformanceState
	callProcesses
	callMIG
	callMIGCount
	callMIGHandle
	callMIGInstance
	callMIGMemoryV2
	callMIGMemory
	callProfileSupport
	callProfileAlloc
	callProfileFree
	callProfileSample
	callProfileSampleMIG
	callProfile
	callEventSet
	callEventSetFree
	callEventTypes
	callEventRegister
	callEventWait
	calls
)

// symbols are the names of each function, the newest first. The binding calls
// the newest that the library has.
var symbols = [calls][]string{
	callInit:               {"nvmlInit_v2", "nvmlInit"},
	callShutdown:           {"nvmlShutdown"},
	callCount:              {"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
	callHandle:             {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
	callUUID:               {"nvmlDeviceGetUUID"},
	callName:               {"nvmlDeviceGetName"},
	callUtilization:        {"nvmlDeviceGetUtilizationRates"},
	callEncoder:            {"nvmlDeviceGetEncoderUtilization"},
	callDecoder:            {"nvmlDeviceGetDecoderUtilization"},
	callMemoryV2:           {"nvmlDeviceGetMemoryInfo_v2"},
	callMemory:             {"nvmlDeviceGetMemoryInfo"},
	callPower:              {"nvmlDeviceGetPowerUsage"},
	callPowerLimit:         {"nvmlDeviceGetEnforcedPowerLimit"},
	callEnergy:             {"nvmlDeviceGetTotalEnergyConsumption"},
	callTemperatureV:       {"nvmlDeviceGetTemperatureV"},
	callTemperature:        {"nvmlDeviceGetTemperature"},
	callThresholdSlowdown:  {"nvmlDeviceGetTemperatureThreshold"},
	callThresholdShutdown:  {"nvmlDeviceGetTemperatureThreshold"},
	callThresholdMax:       {"nvmlDeviceGetTemperatureThreshold"},
	callThresholdMemory:    {"nvmlDeviceGetTemperatureThreshold"},
	callClockGraphics:      {"nvmlDeviceGetClockInfo"},
	callClockSM:            {"nvmlDeviceGetClockInfo"},
	callClockMemory:        {"nvmlDeviceGetClockInfo"},
	callClockVideo:         {"nvmlDeviceGetClockInfo"},
	callMaxClockGraphics:   {"nvmlDeviceGetMaxClockInfo"},
	callMaxClockSM:         {"nvmlDeviceGetMaxClockInfo"},
	callMaxClockMemory:     {"nvmlDeviceGetMaxClockInfo"},
	callMaxClockVideo:      {"nvmlDeviceGetMaxClockInfo"},
	callReasons:            {"nvmlDeviceGetCurrentClocksEventReasons"},
	callOldReasons:         {"nvmlDeviceGetCurrentClocksThrottleReasons"},
	callViolationPower:     {"nvmlDeviceGetViolationStatus"},
	callViolationSyncBoost: {"nvmlDeviceGetViolationStatus"},
	callFields:             {"nvmlDeviceGetFieldValues"},
	callECC:                {"nvmlDeviceGetTotalEccErrors"},
	callRows:               {"nvmlDeviceGetRemappedRows"},
	callFans:               {"nvmlDeviceGetNumFans"},
	callFan:                {"nvmlDeviceGetFanSpeed_v2"},
	callPerformanceState:   {"nvmlDeviceGetPerformanceState"},
	callProcesses: {
		"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetComputeRunningProcesses",
	},
	callMIG:              {"nvmlDeviceGetMigMode"},
	callMIGCount:         {"nvmlDeviceGetMaxMigDeviceCount"},
	callMIGHandle:        {"nvmlDeviceGetMigDeviceHandleByIndex"},
	callMIGInstance:      {"nvmlDeviceGetGpuInstanceId"},
	callMIGMemoryV2:      {"nvmlDeviceGetMemoryInfo_v2"},
	callMIGMemory:        {"nvmlDeviceGetMemoryInfo"},
	callProfileSupport:   {"nvmlGpmQueryDeviceSupport"},
	callProfileAlloc:     {"nvmlGpmSampleAlloc"},
	callProfileFree:      {"nvmlGpmSampleFree"},
	callProfileSample:    {"nvmlGpmSampleGet"},
	callProfileSampleMIG: {"nvmlGpmMigSampleGet"},
	callProfile:          {"nvmlGpmMetricsGet"},
	callEventSet:         {"nvmlEventSetCreate"},
	callEventSetFree:     {"nvmlEventSetFree"},
	callEventTypes:       {"nvmlDeviceGetSupportedEventTypes"},
	callEventRegister:    {"nvmlDeviceRegisterEvents"},
	callEventWait:        {"nvmlEventSetWait_v2", "nvmlEventSetWait"},
}

// library is the driver's, reached through the binding.
type library struct {
	path    string
	nvml    nvml.Interface
	loaded  bool
	file    string      // that was loaded
	info    os.FileInfo // of that file; nil where it is not known
	missing [calls]bool
	units   []*nvmlUnit
	set     nvml.EventSet // nil without events
	say     *sayer
	under   atomic.Pointer[underWay]
}

// underWay is the call being made.
type underWay struct {
	call call
	gpu  string
}

func newDriver(path string) driver {
	return &library{path: cmp.Or(path, systemLibrary)}
}

func (l *library) calling() string {
	u := l.under.Load()
	if u == nil || u.call == noCall {
		return ""
	}
	if u.gpu == "" {
		return symbols[u.call][0]
	}
	return symbols[u.call][0] + " of " + u.gpu
}

func (l *library) open(say *sayer) (units []unit, absent, err error) {
	l.say = say
	if err := l.load(); err != nil {
		return nil, nil, err
	}
	l.nvml = nvml.New(nvml.WithLibraryPath(l.path))
	l.under.Store(&underWay{call: callInit})
	defer l.under.Store(nil)
	if ret := l.nvml.Init(); ret != nvml.SUCCESS {
		return nil, nil, l.driverCondition(ret)
	}
	// The symbols can be looked up from now on.
	extensions := l.nvml.Extensions()
	for c := noCall + 1; c < calls; c++ {
		l.missing[c] = true
		for _, name := range symbols[c] {
			if extensions.LookupSymbol(name) == nil {
				l.missing[c] = false
				break
			}
		}
	}
	for _, c := range [...]call{callCount, callHandle, callUUID, callName} {
		if l.missing[c] {
			l.close()
			return nil, nil, unusable(symbols[c][0])
		}
	}
	l.under.Store(&underWay{call: callCount})
	n, ret := l.nvml.DeviceGetCount()
	if ret != nvml.SUCCESS {
		l.close()
		return nil, nil, l.driverCondition(ret)
	}
	l.units = nil
	l.under.Store(&underWay{call: callHandle})
	for i := range n {
		u, err := l.openUnit(i)
		if err != nil {
			absent = err
			continue
		}
		l.units = append(l.units, u)
		units = append(units, u)
	}
	if len(units) == 0 && absent == nil {
		l.close()
		return nil, nil, &condition{code: "none", absent: true, text: "the NVIDIA driver is there, but no GPU: checked again from time to time"}
	}
	l.listen()
	return units, absent, nil
}

// load opens the library for good: functions that have been called once are
// bound to it for the life of the process, which is why the C library itself
// never unloads it again. One without the first function to be called would end
// the process.
func (l *library) load() error {
	if l.loaded {
		return nil
	}
	lib := dl.New(l.path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := lib.Open(); err != nil {
		return &condition{code: "library", absent: true, text: "no NVIDIA driver on this machine (" + err.Error() +
			"): checked again from time to time; in a container, have the NVIDIA runtime mount it with NVIDIA_DRIVER_CAPABILITIES=utility"}
	}
	if lib.Lookup("nvmlInit_v2") != nil && lib.Lookup("nvmlInit") != nil {
		return unusable("nvmlInit")
	}
	if lib.Lookup("nvmlShutdown") != nil {
		return unusable("nvmlShutdown")
	}
	l.loaded = true
	if file, err := lib.Path(); err == nil {
		if info, err := os.Stat(file); err == nil {
			l.file, l.info = file, info
		}
	}
	return nil
}

// replaced tells that another library lies where the loaded one came from, as
// after an upgrade of the driver's package.
func (l *library) replaced() bool {
	if l.info == nil {
		return false
	}
	now, err := os.Stat(l.file)
	return err == nil && !os.SameFile(l.info, now)
}

func unusable(symbol string) error {
	return &condition{code: "symbol " + symbol, text: systemLibrary + " has no " + symbol + ": it is not NVIDIA's, or too old; install a driver of version 418 or newer"}
}

func (l *library) openUnit(i int) (*nvmlUnit, error) {
	h, ret := l.nvml.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	id, ret := h.GetUUID()
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	name, ret := h.GetName()
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	u := &nvmlUnit{lib: l, handle: h, id: Identity{ID: id, Name: name, Index: i}}
	u.begin()
	return u, nil
}

func (l *library) close() {
	l.under.Store(&underWay{call: callShutdown})
	defer l.under.Store(nil)
	for _, u := range l.units {
		u.freeSamples()
	}
	if l.set != nil {
		if !l.missing[callEventSetFree] {
			_ = l.set.Free()
		}
		l.set = nil
	}
	_ = l.nvml.Shutdown() // whatever it returns, there is nothing left to do
	l.units = nil
}

// listen registers for the errors that GPUs report.
func (l *library) listen() {
	for _, c := range [...]call{callEventSet, callEventTypes, callEventRegister, callEventWait} {
		if l.missing[c] {
			return
		}
	}
	set, ret := l.nvml.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	l.set = set
	for _, u := range l.units {
		types, ret := u.handle.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || types&nvml.EventTypeXidCriticalError == 0 {
			continue
		}
		if ret := u.handle.RegisterEvents(nvml.EventTypeXidCriticalError, set); ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
			l.say.complain(u.failure(callEventRegister), "Xid errors of a GPU are not counted: "+name(ret))
		}
	}
}

func (l *library) waitEvent(timeout time.Duration) (id string, n uint64, more bool) {
	if l.set == nil {
		return "", 0, false
	}
	e, ret := l.set.Wait(uint32(timeout.Milliseconds()))
	switch ret {
	case nvml.SUCCESS:
	case nvml.ERROR_TIMEOUT:
		return "", 0, true
	case nvml.ERROR_GPU_IS_LOST:
		time.Sleep(timeout) // it returns at once, from now on
		return "", 0, true
	default:
		l.say.complain(failure{call: symbols[callEventWait][0]}, "Xid errors are not counted until the driver is opened anew: "+name(ret))
		return "", 0, false
	}
	if e.EventType != nvml.EventTypeXidCriticalError {
		return "", 0, true
	}
	for _, u := range l.units {
		if u.handle == e.Device {
			return u.id.ID, e.EventData, true
		}
	}
	return "", 0, true
}

// verdict is what has been learnt of a function on one GPU.
type verdict uint8

const (
	untried verdict = iota
	works
	refused
	failing
)

// nvmlUnit is one GPU.
type nvmlUnit struct {
	lib      *library
	handle   nvml.Device
	id       Identity
	verdicts [calls]verdict
	gone     error // why nothing more is to be asked in this reading
	fields   []nvml.FieldValue
	fans     int
	mig      bool
	migs     []*migUnit
	profile  profiler
	under    [calls]underWay // made once, as one is stored at each call
}

type migUnit struct {
	handle   nvml.Device
	id       Identity
	instance Opt[int] // number of its GPU instance
	profile  profiler
}

// wanted are the fields that are read with one call.
var wanted = [...]uint32{
	nvml.FI_DEV_MEMORY_TEMP, nvml.FI_DEV_PCIE_COUNT_TX_BYTES, nvml.FI_DEV_PCIE_COUNT_RX_BYTES,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, nvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
}

// begin forgets what has been learnt.
func (u *nvmlUnit) begin() {
	u.verdicts = [calls]verdict{}
	for c, missing := range u.lib.missing {
		if missing {
			u.verdicts[c] = refused
		}
		u.under[c] = underWay{call: call(c), gpu: u.id.ID}
	}
	u.fields = u.fields[:0]
	for _, id := range wanted {
		u.fields = append(u.fields, nvml.FieldValue{FieldId: id})
	}
	u.fans = -1
}

func (u *nvmlUnit) identity() Identity { return u.id }

// may tells whether to make a call.
func (u *nvmlUnit) may(c call) bool {
	if u.gone != nil || u.verdicts[c] == refused {
		return false
	}
	u.lib.under.Store(&u.under[c])
	return true
}

// took tells whether a call gave a value, and learns from it.
func (u *nvmlUnit) took(c call, ret nvml.Return) bool {
	if ret == nvml.SUCCESS {
		if u.verdicts[c] != works {
			u.verdicts[c] = works
			u.lib.say.relent(u.failure(c), "a value of a GPU can be read again")
		}
		return true
	}
	switch ret {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_ARGUMENT_VERSION_MISMATCH,
		nvml.ERROR_DEPRECATED, nvml.ERROR_VGPU_ECC_NOT_SUPPORTED:
		u.verdicts[c] = refused
	case nvml.ERROR_NO_PERMISSION:
		u.verdicts[c] = refused
		u.lib.say.complain(u.failure(c), "a value of a GPU is left out: no permission; give the collector that of nvidia-smi's user, or CAP_SYS_ADMIN")
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		u.gone = u.lib.gpuCondition(ret)
	case nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_UNINITIALIZED:
		u.gone = u.lib.driverCondition(ret)
	case nvml.ERROR_NO_DATA, nvml.ERROR_NOT_READY, nvml.ERROR_NOT_FOUND:
	default:
		if u.verdicts[c] != failing {
			u.verdicts[c] = failing
			u.lib.say.complain(u.failure(c), "a value of a GPU cannot be read: "+name(ret))
		}
	}
	return false
}

func (u *nvmlUnit) failure(c call) failure { return failure{symbols[c][0], u.id.ID} }

func (u *nvmlUnit) read(r *raw, want Want, slow bool) error {
	u.gone = nil
	defer u.lib.under.Store(nil)
	if slow {
		u.readMode()
		u.readSlow(r)
	}
	u.readUse(r)
	u.readPower(r)
	u.readFields(r)
	u.readInstances(r)
	if want.Processes {
		u.readProcesses(r)
	}
	if want.Profile {
		u.readProfiles(r)
	}
	return u.gone
}

// readMode finds the MIG instances. With the mode changes what is supported.
func (u *nvmlUnit) readMode() {
	if !u.may(callMIG) {
		return
	}
	mode, _, ret := u.handle.GetMigMode()
	if !u.took(callMIG, ret) {
		return
	}
	if mig := mode == nvml.DEVICE_MIG_ENABLE; mig != u.mig {
		u.begin()
		u.profile.free(u)
		u.mig = mig
	}
	before := u.migs
	u.migs = nil
	u.listInstances(before)
	for _, m := range before {
		if !slices.Contains(u.migs, m) {
			m.profile.free(u)
		}
	}
}

func (u *nvmlUnit) listInstances(known []*migUnit) {
	if !u.mig || !u.may(callMIGCount) {
		return
	}
	n, ret := u.handle.GetMaxMigDeviceCount()
	if !u.took(callMIGCount, ret) {
		return
	}
	for i := range n {
		if !u.may(callMIGHandle) {
			return
		}
		h, ret := u.handle.GetMigDeviceHandleByIndex(i)
		if !u.took(callMIGHandle, ret) {
			continue
		}
		id, ret := h.GetUUID()
		if !u.tookOfInstance(callUUID, ret) {
			continue
		}
		m := &migUnit{id: Identity{ID: id, Index: i}}
		if at := slices.IndexFunc(known, func(m *migUnit) bool { return m.id.ID == id && m.id.Index == i }); at >= 0 {
			m = known[at]
		} else {
			if m.id.Name, ret = h.GetName(); !u.tookOfInstance(callName, ret) {
				continue
			}
			if u.may(callMIGInstance) {
				if number, ret := h.GetGpuInstanceId(); u.tookOfInstance(callMIGInstance, ret) {
					m.instance = some(number)
				}
			}
		}
		m.handle = h
		u.migs = append(u.migs, m)
	}
}

// tookOfInstance is took for a call on a MIG instance: that one is destroyed
// meanwhile says nothing of the GPU.
func (u *nvmlUnit) tookOfInstance(c call, ret nvml.Return) bool {
	if ret == nvml.ERROR_INVALID_ARGUMENT || ret == nvml.ERROR_NOT_FOUND {
		return false
	}
	return u.took(c, ret)
}

func (u *nvmlUnit) readSlow(r *raw) {
	if u.may(callPowerLimit) {
		if v, ret := u.handle.GetEnforcedPowerLimit(); u.took(callPowerLimit, ret) {
			r.PowerLimit = some(float64(v) / 1000)
		}
	}
	for i, which := range [limits]nvml.TemperatureThresholds{
		nvml.TEMPERATURE_THRESHOLD_SLOWDOWN, nvml.TEMPERATURE_THRESHOLD_SHUTDOWN, nvml.TEMPERATURE_THRESHOLD_GPU_MAX, nvml.TEMPERATURE_THRESHOLD_MEM_MAX,
	} {
		c := callThresholdSlowdown + call(i)
		if !u.may(c) {
			continue
		}
		// Zero stands for none on some cards.
		if v, ret := u.handle.GetTemperatureThreshold(which); u.took(c, ret) && v > 0 {
			r.Limits[i] = some(float64(v))
		}
	}
	for i, which := range clockTypes {
		c := callMaxClockGraphics + call(i)
		if !u.may(c) {
			continue
		}
		if v, ret := u.handle.GetMaxClockInfo(which); u.took(c, ret) {
			r.MaxClocks[i] = some(uint64(v) * 1e6)
		}
	}
	if u.may(callECC) {
		if v, ret := u.handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC); u.took(callECC, ret) {
			r.Corrected = some(v)
		}
	}
	if u.may(callECC) {
		if v, ret := u.handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); u.took(callECC, ret) {
			r.Uncorrected = some(v)
		}
	}
	if u.may(callRows) {
		corrected, uncorrected, pending, failed, ret := u.handle.GetRemappedRows()
		if u.took(callRows, ret) {
			r.remapped = some(uint64(corrected) + uint64(uncorrected))
			r.remapPending, r.remapFailed = pending, failed
		}
	}
	if u.fans < 0 && u.may(callFans) {
		if n, ret := u.handle.GetNumFans(); u.took(callFans, ret) {
			u.fans = n
		}
	}
}

var clockTypes = [clocks]nvml.ClockType{
	Graphics: nvml.CLOCK_GRAPHICS, SM: nvml.CLOCK_SM, Memory: nvml.CLOCK_MEM, Video: nvml.CLOCK_VIDEO,
}

func percent[T uint32 | float64](v T) Opt[float64] { return some(float64(v) / 100) }

func (u *nvmlUnit) readUse(r *raw) {
	if u.may(callUtilization) {
		if v, ret := u.handle.GetUtilizationRates(); u.took(callUtilization, ret) {
			r.Utilization, r.MemoryBusy = percent(v.Gpu), percent(v.Memory)
		}
	}
	if u.may(callEncoder) {
		if v, _, ret := u.handle.GetEncoderUtilization(); u.took(callEncoder, ret) {
			r.Encoder = percent(v)
		}
	}
	if u.may(callDecoder) {
		if v, _, ret := u.handle.GetDecoderUtilization(); u.took(callDecoder, ret) {
			r.Decoder = percent(v)
		}
	}
	r.MemoryUsed, r.MemoryTotal = u.readMemory(u.handle, callMemoryV2, callMemory, u.took)
	for i, which := range clockTypes {
		c := callClockGraphics + call(i)
		if !u.may(c) {
			continue
		}
		if v, ret := u.handle.GetClockInfo(which); u.took(c, ret) {
			r.Clocks[i] = some(uint64(v) * 1e6)
		}
	}
	if u.may(callPerformanceState) {
		if v, ret := u.handle.GetPerformanceState(); u.took(callPerformanceState, ret) && v < nvml.PSTATE_UNKNOWN {
			r.PerformanceState = some(uint64(v))
		}
	}
	for i := range u.fans {
		if !u.may(callFan) {
			break
		}
		if v, ret := u.handle.GetFanSpeed_v2(i); u.took(callFan, ret) {
			r.Fan = some(max(r.Fan.V, float64(v)/100))
		}
	}
}

// readMemory leaves out what the driver itself holds, where the library tells
// it apart.
func (u *nvmlUnit) readMemory(of nvml.Device, v2, v1 call, took func(call, nvml.Return) bool) (used, total Opt[uint64]) {
	if u.may(v2) {
		if v, ret := of.GetMemoryInfo_v2(); took(v2, ret) {
			return some(v.Used), some(v.Total)
		}
		if u.verdicts[v2] != refused {
			return used, total
		}
	}
	if u.may(v1) {
		if v, ret := of.GetMemoryInfo(); took(v1, ret) {
			return some(v.Used), some(v.Total)
		}
	}
	return used, total
}

func (u *nvmlUnit) readPower(r *raw) {
	if u.may(callPower) {
		if v, ret := u.handle.GetPowerUsage(); u.took(callPower, ret) {
			r.Power = some(float64(v) / 1000)
		}
	}
	if u.may(callEnergy) {
		if v, ret := u.handle.GetTotalEnergyConsumption(); u.took(callEnergy, ret) {
			r.Energy = some(float64(v))
		}
	}
	if u.may(callTemperatureV) {
		if v, ret := u.handle.GetTemperatureV().V1(); u.took(callTemperatureV, ret) {
			r.Temperature = some(float64(v.Temperature))
		}
	}
	if u.verdicts[callTemperatureV] == refused && u.may(callTemperature) {
		// Drivers before version 560 have no other.
		if v, ret := u.handle.GetTemperature(nvml.TEMPERATURE_GPU); u.took(callTemperature, ret) {
			r.Temperature = some(float64(v))
		}
	}
	if u.may(callReasons) {
		if v, ret := u.handle.GetCurrentClocksEventReasons(); u.took(callReasons, ret) {
			r.reasons = some(v)
		}
	}
	if u.verdicts[callReasons] == refused && u.may(callOldReasons) {
		// Drivers before version 535 have no other.
		if v, ret := u.handle.GetCurrentClocksThrottleReasons(); u.took(callOldReasons, ret) {
			r.reasons = some(v)
		}
	}
}

func (u *nvmlUnit) readFields(r *raw) {
	if len(u.fields) > 0 && u.may(callFields) && u.took(callFields, u.handle.GetFieldValues(u.fields)) {
		kept := u.fields[:0]
		for _, f := range u.fields {
			ret := nvml.Return(f.NvmlReturn)
			if ret == nvml.ERROR_NOT_SUPPORTED || ret == nvml.ERROR_INVALID_ARGUMENT || ret == nvml.ERROR_NO_PERMISSION {
				continue // not asked for again
			}
			kept = append(kept, f)
			if ret == nvml.SUCCESS {
				r.takeField(f)
			}
		}
		u.fields = kept
	}
	if !r.throttled[PowerCap].OK && u.may(callViolationPower) {
		if v, ret := u.handle.GetViolationStatus(nvml.PERF_POLICY_POWER); u.took(callViolationPower, ret) {
			r.throttled[PowerCap] = some(v.ViolationTime)
		}
	}
	if !r.throttled[SyncBoost].OK && u.may(callViolationSyncBoost) {
		if v, ret := u.handle.GetViolationStatus(nvml.PERF_POLICY_SYNC_BOOST); u.took(callViolationSyncBoost, ret) {
			r.throttled[SyncBoost] = some(v.ViolationTime)
		}
	}
}

func (r *raw) takeField(f nvml.FieldValue) {
	v := number(f)
	switch f.FieldId {
	case nvml.FI_DEV_MEMORY_TEMP:
		if v > 0 { // zero where the memory has no sensor
			r.MemoryTemperature = some(float64(v))
		}
	case nvml.FI_DEV_PCIE_COUNT_TX_BYTES:
		r.Transmitted = some(v)
	case nvml.FI_DEV_PCIE_COUNT_RX_BYTES:
		r.Received = some(v)
	case nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP:
		r.throttled[PowerCap] = some(v)
	case nvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST:
		r.throttled[SyncBoost] = some(v)
	case nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN:
		r.throttled[ThermalSoftware] = some(v)
	case nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN:
		r.throttled[ThermalHardware] = some(v)
	case nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN:
		r.throttled[PowerBrake] = some(v)
	}
}

// number is a field's value, none of which is negative.
func number(f nvml.FieldValue) uint64 {
	b := f.Value[:]
	switch nvml.ValueType(f.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		return uint64(math.Float64frombits(binary.NativeEndian.Uint64(b)))
	case nvml.VALUE_TYPE_UNSIGNED_INT, nvml.VALUE_TYPE_SIGNED_INT:
		return uint64(binary.NativeEndian.Uint32(b))
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return uint64(binary.NativeEndian.Uint16(b))
	}
	return binary.NativeEndian.Uint64(b)
}

func (u *nvmlUnit) readInstances(r *raw) {
	for _, m := range u.migs {
		in := Instance{Identity: m.id}
		in.MemoryUsed, in.MemoryTotal = u.readMemory(m.handle, callMIGMemoryV2, callMIGMemory, u.tookOfInstance)
		r.Instances = append(r.Instances, in)
	}
}

// readProcesses asks each MIG instance for its own, where there are any.
func (u *nvmlUnit) readProcesses(r *raw) {
	if len(u.migs) == 0 {
		if u.may(callProcesses) {
			if ps, ret := u.handle.GetComputeRunningProcesses(); u.took(callProcesses, ret) {
				r.Processes = some(processes(nil, ps, ""))
			}
		}
		return
	}
	for _, m := range u.migs {
		if !u.may(callProcesses) {
			return
		}
		if ps, ret := m.handle.GetComputeRunningProcesses(); u.tookOfInstance(callProcesses, ret) {
			r.Processes = some(processes(r.Processes.V, ps, m.id.ID))
		}
	}
}

func processes(to []Process, from []nvml.ProcessInfo, instance string) []Process {
	for _, p := range from {
		q := Process{PID: int(p.Pid), Instance: instance}
		if p.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
			q.Memory = some(p.UsedGpuMemory)
		}
		to = append(to, q)
	}
	return to
}

// profiler compares a sample with the one before.
type profiler struct {
	samples [2]nvml.GpmSample // the last one and the next
	at      time.Time         // of the last one; zero without one
	last    Opt[Profile]
}

// profileGap is how often the driver refreshes what it samples: two samples that
// are nearer say nothing.
const profileGap = 100 * time.Millisecond

func (u *nvmlUnit) readProfiles(r *raw) {
	if !u.mig {
		r.Profile = u.profile.read(u, callProfileSample, func(s nvml.GpmSample) nvml.Return { return s.Get(u.handle) })
		return
	}
	for i, m := range u.migs {
		if m.instance.OK {
			r.Instances[i].Profile = m.profile.read(u, callProfileSampleMIG, func(s nvml.GpmSample) nvml.Return { return s.MigGet(u.handle, m.instance.V) })
		}
	}
}

func (p *profiler) read(u *nvmlUnit, c call, sample func(nvml.GpmSample) nvml.Return) (profile Opt[Profile]) {
	now := time.Now()
	if now.Sub(p.at) < profileGap {
		return p.last
	}
	p.last = profile
	if p.samples[0] == nil && !p.alloc(u) || !u.may(c) {
		return profile
	}
	if ret := sample(p.samples[1]); !u.tookOfInstance(c, ret) {
		return profile
	}
	first := p.at.IsZero()
	p.samples[0], p.samples[1], p.at = p.samples[1], p.samples[0], now
	if first || !u.may(callProfile) {
		return profile
	}
	ids := [...]nvml.GpmMetricId{nvml.GPM_METRIC_SM_UTIL, nvml.GPM_METRIC_SM_OCCUPANCY, nvml.GPM_METRIC_ANY_TENSOR_UTIL, nvml.GPM_METRIC_DRAM_BW_UTIL}
	get := &nvml.GpmMetricsGetType{NumMetrics: uint32(len(ids)), Sample1: p.samples[1], Sample2: p.samples[0]}
	for i, id := range ids {
		get.Metrics[i].MetricId = uint32(id)
	}
	if !u.took(callProfile, u.lib.nvml.GpmMetricsGet(get)) {
		return profile
	}
	profile.OK = true
	for i, to := range [...]*Opt[float64]{&profile.V.SM, &profile.V.Occupancy, &profile.V.Tensor, &profile.V.DRAM} {
		if nvml.Return(get.Metrics[i].NvmlReturn) == nvml.SUCCESS {
			*to = percent(get.Metrics[i].Value)
		}
	}
	p.last = profile
	return profile
}

func (p *profiler) alloc(u *nvmlUnit) bool {
	if !u.may(callProfileSupport) {
		return false
	}
	s, ret := u.handle.GpmQueryDeviceSupport()
	if !u.took(callProfileSupport, ret) {
		return false
	}
	if s.IsSupportedDevice == 0 {
		u.verdicts[callProfileSupport] = refused
		return false
	}
	for i := range p.samples {
		if !u.may(callProfileAlloc) {
			p.free(u)
			return false
		}
		sample, ret := u.lib.nvml.GpmSampleAlloc()
		if !u.took(callProfileAlloc, ret) {
			p.free(u)
			return false
		}
		p.samples[i] = sample
	}
	return true
}

func (p *profiler) free(u *nvmlUnit) {
	for _, s := range p.samples {
		if s != nil && !u.lib.missing[callProfileFree] {
			_ = s.Free()
		}
	}
	*p = profiler{}
}

func (u *nvmlUnit) freeSamples() {
	u.profile.free(u)
	for _, m := range u.migs {
		m.profile.free(u)
	}
}

// name is what nvml.h calls a result. The library's own text is not asked for:
// it may lack the function.
func name(ret nvml.Return) string {
	switch ret {
	case nvml.ERROR_NO_PERMISSION:
		return "NVML_ERROR_NO_PERMISSION"
	case nvml.ERROR_INSUFFICIENT_POWER:
		return "NVML_ERROR_INSUFFICIENT_POWER"
	case nvml.ERROR_TIMEOUT:
		return "NVML_ERROR_TIMEOUT"
	case nvml.ERROR_IRQ_ISSUE:
		return "NVML_ERROR_IRQ_ISSUE"
	case nvml.ERROR_CORRUPTED_INFOROM:
		return "NVML_ERROR_CORRUPTED_INFOROM"
	case nvml.ERROR_OPERATING_SYSTEM:
		return "NVML_ERROR_OPERATING_SYSTEM"
	case nvml.ERROR_IN_USE:
		return "NVML_ERROR_IN_USE"
	case nvml.ERROR_MEMORY:
		return "NVML_ERROR_MEMORY"
	case nvml.ERROR_UNKNOWN:
		return "NVML_ERROR_UNKNOWN"
	}
	return fmt.Sprintf("nvmlReturn_t %d", int32(ret))
}

// driverCondition is of all GPUs.
func (l *library) driverCondition(ret nvml.Return) error {
	c := &condition{code: name(ret), whole: true}
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		c.absent, c.text = true, "no NVIDIA driver on this machine: checked again from time to time"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		c.text = "the NVIDIA driver's kernel module is not loaded: load it (modprobe nvidia), or mount /dev/nvidiactl and /dev/nvidia* into the container"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		c.text = "the NVIDIA driver was upgraded, and its kernel module and library are of two versions: reload the module or reboot"
		if l.replaced() {
			c.code += " replaced"
			c.text = "the NVIDIA driver was upgraded: this process keeps the library that it has loaded, which does not fit the kernel module any more, " +
				"and cannot load the new " + l.file + ": restart the collector"
		}
	case nvml.ERROR_NO_PERMISSION:
		c.text = "no permission to talk to the NVIDIA driver: let the collector's user read and write /dev/nvidiactl and /dev/nvidia*"
	case nvml.ERROR_OPERATING_SYSTEM:
		c.text = "the operating system keeps the collector from the NVIDIA driver: allow the devices /dev/nvidia* in its control group"
	case nvml.ERROR_UNKNOWN:
		c.text = "the NVIDIA driver answers NVML_ERROR_UNKNOWN: trying again from time to time; a container can lose its GPUs for good " +
			"when systemd is reloaded on the host, until it is started anew"
	default:
		c.text = "the NVIDIA driver answers " + name(ret) + ": trying again from time to time"
	}
	return c
}

// gpuCondition is of one GPU.
func (l *library) gpuCondition(ret nvml.Return) error {
	c := &condition{code: name(ret)}
	switch ret {
	case nvml.ERROR_GPU_IS_LOST:
		c.text = "it has fallen off the bus (NVML_ERROR_GPU_IS_LOST): see the kernel's log; checked again from time to time"
	case nvml.ERROR_RESET_REQUIRED:
		c.text = "it needs a reset (NVML_ERROR_RESET_REQUIRED): nvidia-smi --gpu-reset, or reboot"
	case nvml.ERROR_NO_PERMISSION:
		c.text = "no permission (NVML_ERROR_NO_PERMISSION): let the collector's user read and write its /dev/nvidia*"
	case nvml.ERROR_INSUFFICIENT_POWER:
		c.text = "its power cables are not attached properly (NVML_ERROR_INSUFFICIENT_POWER)"
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return l.driverCondition(ret)
	default:
		c.text = name(ret)
	}
	return c
}
