// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// name is what nvml.h calls a result. The library is not asked for its text: it
// may lack the function.
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

// unusable is the condition of a library that lacks a function nothing works
// without.
func unusable(symbol string) error {
	return &condition{code: "symbol " + symbol, text: systemLibrary + " has no " + symbol + ": it is not NVIDIA's, or too old; install a driver of version 418 or newer"}
}

// driverCondition is that of the driver, and so of all GPUs.
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
			"when systemd is reloaded on the host: start the container again"
	default:
		c.text = "the NVIDIA driver answers " + name(ret) + ": trying again from time to time"
	}
	return c
}

// gpuCondition is that of one GPU, or of the driver where the result says so.
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
