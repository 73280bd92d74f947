// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

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
