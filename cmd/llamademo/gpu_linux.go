// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
)

// startGPU makes a GPU that is not there, which seems to work. A collector with
// the variable sees it.
func startGPU() (variable string, stop func(), err error) {
	folder, err := os.MkdirTemp("", "llamademo-gpu")
	if err != nil {
		return "", nil, err
	}
	driver, err := fakenvml.New(folder, fakenvml.Options{GPUs: 1})
	if err != nil {
		_ = os.RemoveAll(folder)
		return "", nil, fmt.Errorf("make the simulated GPU: %w", err)
	}
	// The simulator runs in this process.
	driver.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 9 << 30})
	end := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		const tick = 100 * time.Millisecond
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		g := driver.GPU(0)
		for n := 0; ; n++ {
			load := (1 + math.Sin(float64(n)/40)) / 2
			g.Utilization = 70 + uint64(30*load)
			g.MemoryUtilization = 40 + uint64(50*load)
			g.Power = 150_000 + uint64(450_000*load)
			g.Energy += g.Power * uint64(tick) / uint64(time.Second)
			g.Temperature = 45 + uint64(25*load)
			select {
			case <-end:
				return
			case <-ticker.C:
			}
		}
	})
	return "LD_LIBRARY_PATH=" + driver.Folder(), func() {
		close(end)
		working.Wait()
		_ = os.RemoveAll(folder)
	}, nil
}
