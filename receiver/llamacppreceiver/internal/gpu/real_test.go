// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build gpu && cgo && linux

package gpu

import (
	"os/exec"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// BenchmarkDriver takes one sample of this machine's GPUs. NVML's functions are
// bound to the library that is used first, so that no test with another one may
// run before.
func BenchmarkDriver(b *testing.B) {
	h := Open(zap.NewNop(), Want{Processes: true}, Options{})
	defer h.Close()
	require.NotEmpty(b, h.Look(ctx(), 0, wait).Readings)
	b.ReportAllocs()
	for b.Loop() {
		if len(h.Look(ctx(), 0, wait).Readings) == 0 {
			b.Fatal("no GPU answers")
		}
	}
}

// BenchmarkDriverNaive reads the same values as one would write it at first.
func BenchmarkDriverNaive(b *testing.B) {
	lib := nvml.New()
	require.Equal(b, nvml.SUCCESS, lib.Init())
	defer func() { use(lib.Shutdown()) }()
	missing := func(name string) bool { return lib.Extensions().LookupSymbol(name) != nil }
	if missing("nvmlDeviceGetTemperatureV") || missing("nvmlDeviceGetCurrentClocksEventReasons") || missing("nvmlDeviceGetMemoryInfo_v2") {
		b.Skip("the driver is older than version 560 and would end the process")
	}
	b.ReportAllocs()
	for b.Loop() {
		naive(b, lib)
	}
}

// BenchmarkDriverNvidiaSMI asks nvidia-smi for the same values.
func BenchmarkDriverNvidiaSMI(b *testing.B) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		b.Skip("nvidia-smi is not installed")
	}
	const fields = "uuid,name,utilization.gpu,utilization.memory,memory.used,memory.total,power.draw,enforced.power.limit," +
		"temperature.gpu,temperature.memory,clocks.current.graphics,clocks.current.sm,clocks.current.memory,clocks.current.video,clocks.max.graphics,clocks.max.sm,clocks.max.memory," +
		"pstate,fan.speed,ecc.errors.corrected.volatile.total,ecc.errors.uncorrected.volatile.total,mig.mode.current"
	for b.Loop() {
		out, err := exec.Command(path, "--query-gpu="+fields, "--format=csv").CombinedOutput()
		require.NoError(b, err, "%s", out)
	}
}
