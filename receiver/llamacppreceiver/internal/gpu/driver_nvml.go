// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"go.uber.org/zap"
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
	callProfileSupport
	callProfileAlloc
	callProfileFree
	callProfileSample
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
	callMIG:            {"nvmlDeviceGetMigMode"},
	callMIGCount:       {"nvmlDeviceGetMaxMigDeviceCount"},
	callMIGHandle:      {"nvmlDeviceGetMigDeviceHandleByIndex"},
	callProfileSupport: {"nvmlGpmQueryDeviceSupport"},
	callProfileAlloc:   {"nvmlGpmSampleAlloc"},
	callProfileFree:    {"nvmlGpmSampleFree"},
	callProfileSample:  {"nvmlGpmSampleGet"},
	callProfile:        {"nvmlGpmMetricsGet"},
	callEventSet:       {"nvmlEventSetCreate"},
	callEventSetFree:   {"nvmlEventSetFree"},
	callEventTypes:     {"nvmlDeviceGetSupportedEventTypes"},
	callEventRegister:  {"nvmlDeviceRegisterEvents"},
	callEventWait:      {"nvmlEventSetWait_v2", "nvmlEventSetWait"},
}

// library is the driver's, reached through the binding.
type library struct {
	path    string
	nvml    nvml.Interface
	loaded  bool
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
		return nil, nil, driverCondition(ret)
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
		return nil, nil, driverCondition(ret)
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

// load opens the library for good. Functions that have been called once are
// bound to it for the life of the process, so that it must not go away; and a
// library without the first function to be called would end the process.
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
	return nil
}

func unusable(symbol string) error {
	return &condition{code: "symbol " + symbol, text: systemLibrary + " has no " + symbol + ": it is not NVIDIA's, or too old; install a driver of version 418 or newer"}
}

func (l *library) openUnit(i int) (*nvmlUnit, error) {
	h, ret := l.nvml.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, gpuCondition(ret)
	}
	id, ret := h.GetUUID()
	if ret != nvml.SUCCESS {
		return nil, gpuCondition(ret)
	}
	name, ret := h.GetName()
	if ret != nvml.SUCCESS {
		return nil, gpuCondition(ret)
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
			l.say.log().Info("Xid errors of a GPU are not counted: "+name(ret), zap.String("gpu", u.id.ID))
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
	works verdict = iota
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
	migs     []migUnit
	profile  [2]nvml.GpmSample // the last one and the next
	sampled  bool
	under    [calls]underWay // made once, as one is stored at each call
}

type migUnit struct {
	handle nvml.Device
	id     Identity
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
		if u.verdicts[c] == failing {
			u.verdicts[c] = works
			u.lib.say.log().Info("a value of a GPU can be read again", zap.String("gpu", u.id.ID), zap.String("call", symbols[c][0]))
		}
		return true
	}
	switch ret {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_ARGUMENT_VERSION_MISMATCH,
		nvml.ERROR_DEPRECATED, nvml.ERROR_VGPU_ECC_NOT_SUPPORTED:
		u.verdicts[c] = refused
	case nvml.ERROR_NO_PERMISSION:
		u.verdicts[c] = refused
		u.lib.say.log().Warn("a value of a GPU is left out: no permission; give the collector that of nvidia-smi's user, or CAP_SYS_ADMIN",
			zap.String("gpu", u.id.ID), zap.String("call", symbols[c][0]))
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		u.gone = gpuCondition(ret)
	case nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_UNINITIALIZED:
		u.gone = driverCondition(ret)
	case nvml.ERROR_NO_DATA, nvml.ERROR_NOT_READY, nvml.ERROR_NOT_FOUND:
	default:
		if u.verdicts[c] != failing {
			u.verdicts[c] = failing
			u.lib.say.log().Warn("a value of a GPU cannot be read: "+name(ret), zap.String("gpu", u.id.ID), zap.String("call", symbols[c][0]))
		}
	}
	return false
}

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
	if want.Processes && u.may(callProcesses) {
		if ps, ret := u.handle.GetComputeRunningProcesses(); u.took(callProcesses, ret) {
			r.Processes = some(processes(ps))
		}
	}
	if want.Profile {
		u.readProfile(r)
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
		u.mig = mig
	}
	u.migs = u.migs[:0]
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
		if !u.took(callUUID, ret) {
			continue
		}
		if name, ret := h.GetName(); u.took(callName, ret) {
			u.migs = append(u.migs, migUnit{h, Identity{ID: id, Name: name, Index: i}})
		}
	}
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
	r.MemoryUsed, r.MemoryTotal = u.readMemory()
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
func (u *nvmlUnit) readMemory() (used, total Opt[uint64]) {
	if u.may(callMemoryV2) {
		if v, ret := u.handle.GetMemoryInfo_v2(); u.took(callMemoryV2, ret) {
			return some(v.Used), some(v.Total)
		}
		if u.verdicts[callMemoryV2] != refused {
			return used, total
		}
	}
	if u.may(callMemory) {
		if v, ret := u.handle.GetMemoryInfo(); u.took(callMemory, ret) {
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
		if !u.may(callMemory) {
			return
		}
		// One that was destroyed meanwhile is an error of no importance.
		if v, ret := m.handle.GetMemoryInfo(); ret == nvml.SUCCESS {
			r.Instances = append(r.Instances, Instance{Identity: m.id, MemoryUsed: some(v.Used), MemoryTotal: some(v.Total)})
		}
	}
}

func processes(from []nvml.ProcessInfo) []Process {
	ps := make([]Process, 0, len(from))
	for _, p := range from {
		q := Process{PID: int(p.Pid)}
		if p.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
			q.Memory = some(p.UsedGpuMemory)
		}
		ps = append(ps, q)
	}
	return ps
}

// readProfile compares a sample with the one before.
func (u *nvmlUnit) readProfile(r *raw) {
	if u.profile[0] == nil && !u.allocSamples() || !u.may(callProfileSample) {
		return
	}
	if !u.took(callProfileSample, u.profile[1].Get(u.handle)) {
		return
	}
	u.profile[0], u.profile[1] = u.profile[1], u.profile[0]
	if !u.sampled { // there is none before
		u.sampled = true
		return
	}
	if !u.may(callProfile) {
		return
	}
	ids := [...]nvml.GpmMetricId{nvml.GPM_METRIC_SM_UTIL, nvml.GPM_METRIC_SM_OCCUPANCY, nvml.GPM_METRIC_ANY_TENSOR_UTIL, nvml.GPM_METRIC_DRAM_BW_UTIL}
	get := &nvml.GpmMetricsGetType{NumMetrics: uint32(len(ids)), Sample1: u.profile[1], Sample2: u.profile[0]}
	for i, id := range ids {
		get.Metrics[i].MetricId = uint32(id)
	}
	if !u.took(callProfile, u.lib.nvml.GpmMetricsGet(get)) {
		return
	}
	r.Profile = some(Profile{})
	for i, to := range [...]*Opt[float64]{&r.Profile.V.SM, &r.Profile.V.Occupancy, &r.Profile.V.Tensor, &r.Profile.V.DRAM} {
		if nvml.Return(get.Metrics[i].NvmlReturn) == nvml.SUCCESS {
			*to = percent(get.Metrics[i].Value)
		}
	}
}

func (u *nvmlUnit) allocSamples() bool {
	if u.mig || !u.may(callProfileSupport) {
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
	for i := range u.profile {
		if !u.may(callProfileAlloc) {
			u.freeSamples()
			return false
		}
		sample, ret := u.lib.nvml.GpmSampleAlloc()
		if !u.took(callProfileAlloc, ret) {
			u.freeSamples()
			return false
		}
		u.profile[i] = sample
	}
	return true
}

func (u *nvmlUnit) freeSamples() {
	for i, s := range u.profile {
		if s != nil && !u.lib.missing[callProfileFree] {
			_ = s.Free()
		}
		u.profile[i] = nil
	}
	u.sampled = false
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
func driverCondition(ret nvml.Return) error {
	c := &condition{code: name(ret), whole: true}
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		c.absent, c.text = true, "no NVIDIA driver on this machine: checked again from time to time"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		c.text = "the NVIDIA driver's kernel module is not loaded: load it (modprobe nvidia), or mount /dev/nvidiactl and /dev/nvidia* into the container"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		c.text = "the NVIDIA driver was upgraded, and its kernel module and library are of two versions: reload the module or reboot; " +
			"if nvidia-smi works again and this does not, restart the collector"
	case nvml.ERROR_NO_PERMISSION:
		c.text = "no permission to talk to the NVIDIA driver: let the collector's user read and write /dev/nvidiactl and /dev/nvidia*"
	case nvml.ERROR_OPERATING_SYSTEM:
		c.text = "the operating system keeps the collector from the NVIDIA driver: allow the devices /dev/nvidia* in its control group"
	default:
		c.text = "the NVIDIA driver answers " + name(ret) + ": trying again from time to time"
	}
	return c
}

// gpuCondition is of one GPU.
func gpuCondition(ret nvml.Return) error {
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
		return driverCondition(ret)
	default:
		c.text = name(ret)
	}
	return c
}
