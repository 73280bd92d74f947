// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build gpu && cgo && linux

package gpu

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// BenchmarkDriver is one sample of this machine's GPUs. NVML's functions get
// bound to the library that is used first, so that no other may run before.
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

// BenchmarkDriverNvidiaSMI asks for a few of the same values.
func BenchmarkDriverNvidiaSMI(b *testing.B) {
	for b.Loop() {
		began := time.Now()
		out, err := exec.Command("nvidia-smi", "--query-gpu=uuid,utilization.gpu,memory.used,temperature.gpu,power.draw", "--format=csv").CombinedOutput()
		require.NoError(b, err, "%s after %s", out, time.Since(began))
	}
}
