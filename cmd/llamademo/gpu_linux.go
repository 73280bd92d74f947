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
	g := newGPU(driver.GPU(0))
	end := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		const tick = 100 * time.Millisecond
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for {
			g.advance(tick)
			// The simulator runs in this process.
			driver.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: g.MemoryUsed - driverMemory})
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

// driverMemory is what is used of a GPU's memory besides the server's own.
const driverMemory = 500 << 20

// Bits of NVML's mask of what holds the clocks down, and the counter of each.
const (
	reasonPowerCap, throttledPowerCap                 = 0x4, 0
	reasonThermalHardware, throttledByHardwareThermal = 0x40, 3
)

// gpu makes up what a GPU at work would show, so that each of its metrics moves:
// the work rises and falls, at its highest it would need more than the power
// limit, and every few minutes the cooling is weak for a while.
type gpu struct {
	*fakenvml.GPU
	at          time.Duration // since the start
	temperature float64       // degrees Celsius
	energy      float64       // millijoules
	corrected   uint64        // memory errors before the start
}

const (
	workCycle = 100 * time.Second // from one peak of the work to the next
	heatCycle = 4 * time.Minute   // from one weakness of the cooling to the next
	heatFor   = 45 * time.Second
	errorsAre = 3 * time.Minute // apart, those that the memory corrects itself
)

func newGPU(g *fakenvml.GPU) *gpu {
	g.Encoder, g.Decoder = 0, 0
	g.GPM = 1 // a Hopper, with the counters of what its cores do
	g.Throttled = [5]uint64{}
	return &gpu{GPU: g, temperature: 45, energy: float64(g.Energy), corrected: g.Corrected}
}

// advance brings the GPU some time forward.
func (g *gpu) advance(by time.Duration) {
	g.at += by
	seconds := by.Seconds()
	load := (1 - math.Cos(2*math.Pi*g.at.Seconds()/workCycle.Seconds())) / 2
	hot := g.at%heatCycle > heatCycle-heatFor

	power, clock := 180_000+590_000*load, float64(g.MaxClocks[0])
	g.Reasons = 0
	if limit := float64(g.PowerLimit); power > limit {
		clock *= 1 - 2*(power-limit)/power
		power = limit
		g.Reasons |= reasonPowerCap
		g.Throttled[throttledPowerCap] += uint64(by)
	}
	if g.temperature >= float64(g.Slowdown) {
		clock, power = clock/2, power*0.6
		g.Reasons |= reasonThermalHardware
		g.Throttled[throttledByHardwareThermal] += uint64(by)
	}
	// The chip follows its power within seconds.
	cooling, inertia := 0.055, 6.0
	if hot {
		cooling = 0.14
	}
	g.temperature += (30 + cooling*power/1000 - g.temperature) * min(1, seconds/inertia)
	g.energy += power * seconds

	percent := func(low, high float64) uint64 { return uint64(low + (high-low)*load) }
	g.Utilization, g.MemoryUtilization = percent(55, 99), percent(30, 90)
	g.GPMValues = [4]float64{50 + 45*load, 25 + 35*load, 15 + 40*load, 30 + 60*load}
	g.Power, g.Energy = uint64(power), uint64(g.energy)
	g.Temperature, g.MemoryTemperature = uint64(g.temperature), min(uint64(g.temperature)+6, g.MemMax-1)
	g.Clocks = [4]uint64{uint64(clock), uint64(clock), g.MaxClocks[2], uint64(clock * 0.9)}
	g.Fan = min(100, uint64(max(0, g.temperature-30)*1.5))
	g.MemoryUsed = driverMemory + 9<<30 + uint64(load*float64(3<<30))
	g.Received += uint64((20 + 200*load) * 1e6 * seconds)
	g.Transmitted += uint64((5 + 60*load) * 1e6 * seconds)
	g.Corrected = g.corrected + uint64(g.at/errorsAre)
}
