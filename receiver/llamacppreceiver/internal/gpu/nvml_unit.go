// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// verdict is what has been learnt of a function on one GPU.
type verdict uint8

const (
	untried verdict = iota
	works
	refused // and not called again
	failing // and called again
)

// nvmlUnit is one GPU.
type nvmlUnit struct {
	lib      *library
	handle   nvml.Device
	id       Identity
	verdicts [calls]verdict
	gone     error // why nothing more is to be asked in this reading
	failed   bool  // a call has, in this reading
	fields   []nvml.FieldValue
	fans     int
	mig      bool
	migs     []*migUnit
	profile  profiler
	underWay [calls]underWay // made once, as each call stores one
}

type migUnit struct {
	handle   nvml.Device
	id       Identity
	instance Opt[int] // number of its GPU instance
	profile  profiler
}

// fieldIDs are the fields that are read with one call.
var fieldIDs = [...]uint32{
	nvml.FI_DEV_MEMORY_TEMP, nvml.FI_DEV_PCIE_COUNT_TX_BYTES, nvml.FI_DEV_PCIE_COUNT_RX_BYTES,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, nvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
	nvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
}

// begin forgets what has been learnt of the functions.
func (u *nvmlUnit) begin() {
	u.verdicts = [calls]verdict{}
	for c, missing := range u.lib.missing {
		if missing {
			u.verdicts[c] = refused
		}
		u.underWay[c] = underWay{call: call(c), gpu: u.id.ID}
	}
	u.fields = u.fields[:0]
	for _, id := range fieldIDs {
		u.fields = append(u.fields, nvml.FieldValue{FieldId: id})
	}
	u.fans = -1
}

func (u *nvmlUnit) identity() Identity { return u.id }

// may reports whether to make a call, and notes that it is under way.
func (u *nvmlUnit) may(c call) bool {
	if u.gone != nil || u.verdicts[c] == refused {
		return false
	}
	u.lib.current.Store(&u.underWay[c])
	return true
}

// took reports whether a call gave a value, and learns from its result.
func (u *nvmlUnit) took(c call, ret nvml.Return) bool {
	if ret == nvml.SUCCESS {
		if u.verdicts[c] != works {
			u.verdicts[c] = works
			u.lib.log.recovered(u.failure(c), "a value of a GPU can be read again")
		}
		return true
	}
	switch ret {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_ARGUMENT_VERSION_MISMATCH,
		nvml.ERROR_DEPRECATED, nvml.ERROR_VGPU_ECC_NOT_SUPPORTED:
		u.verdicts[c] = refused
	case nvml.ERROR_NO_PERMISSION:
		u.verdicts[c] = refused
		u.lib.log.failed(u.failure(c), "a value of a GPU is left out: no permission; run the collector as a user for whom nvidia-smi shows it, or give it CAP_SYS_ADMIN")
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		u.gone = u.lib.gpuCondition(ret)
	case nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_UNINITIALIZED:
		u.gone = u.lib.driverCondition(ret)
	case nvml.ERROR_NO_DATA, nvml.ERROR_NOT_READY, nvml.ERROR_NOT_FOUND:
	default:
		u.failed = true
		if u.verdicts[c] != failing {
			u.verdicts[c] = failing
			u.lib.log.failed(u.failure(c), "a value of a GPU cannot be read: "+name(ret))
		}
	}
	return false
}

func (u *nvmlUnit) failure(c call) failure { return failure{symbols[c][0], u.id.ID} }

func (u *nvmlUnit) read(r *raw, want Want, slow bool) error {
	u.gone, u.failed = nil, false
	defer u.lib.current.Store(nil)
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
	r.Incomplete = r.Incomplete || u.failed
	return u.gone
}

// readMode finds the MIG instances. What is supported changes with the mode.
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
		u.migs = known
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

// tookOfInstance is took for a call on a MIG instance: if that was destroyed
// meanwhile, nothing is learnt of the GPU.
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

// readMemory leaves out what the driver itself holds, where the library has that
// apart.
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

// number is a field's value. None of the fields is negative.
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

// readProcesses asks the MIG instances for theirs where there are any, else the
// GPU.
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
