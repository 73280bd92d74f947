// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
)

func TestGPU_EveryNumberMovesWithinItsLimits(t *testing.T) {
	typical := fakenvml.Typical(0)
	g := newGPU(&typical)
	start := *g.GPU
	seen := map[string]map[uint64]bool{}
	note := func(name string, v uint64) {
		if seen[name] == nil {
			seen[name] = map[uint64]bool{}
		}
		seen[name][v] = true
	}
	const tick = 100 * time.Millisecond
	var joules float64
	var capped, slowed, free int
	for range 2 * heatCycle / tick {
		before := *g.GPU
		g.advance(tick)
		joules += float64(g.Power) / 1000 * tick.Seconds()
		assert.LessOrEqual(t, g.Power, g.PowerLimit)
		assert.LessOrEqual(t, g.Clocks[0], g.MaxClocks[0])
		assert.Less(t, g.Temperature, g.Shutdown)
		assert.LessOrEqual(t, g.Temperature, g.Slowdown+1)
		assert.Less(t, g.MemoryTemperature, g.MemMax)
		assert.LessOrEqual(t, g.MemoryUsed+g.MemoryReserved, g.MemoryTotal)
		assert.GreaterOrEqual(t, g.Energy, before.Energy)
		assert.GreaterOrEqual(t, g.Received, before.Received)
		switch {
		case g.Reasons&reasonThermalHardware != 0:
			slowed++
		case g.Reasons&reasonPowerCap != 0:
			capped++
		case g.Reasons == 0:
			free++
		}
		for name, v := range map[string]uint64{
			"power": g.Power / 10_000, "temperature": g.Temperature, "memory temperature": g.MemoryTemperature, "clock": g.Clocks[0] / 10,
			"utilization": g.Utilization, "memory utilization": g.MemoryUtilization, "memory": g.MemoryUsed >> 28, "fan": g.Fan, "GPM": uint64(g.GPMValues[2]),
		} {
			note(name, v)
		}
	}
	for name, values := range seen {
		assert.Greater(t, len(values), 8, name)
	}
	assert.InDelta(t, joules, float64(g.Energy-start.Energy)/1000, 1)
	assert.Greater(t, free, capped, "as a rule nothing holds it down")
	assert.Positive(t, capped)
	assert.Positive(t, slowed)
	assert.Less(t, slowed, free/4, "now and then")
	assert.Positive(t, g.Throttled[throttledPowerCap])
	assert.Positive(t, g.Throttled[throttledByHardwareThermal])
	assert.Greater(t, g.Corrected, start.Corrected)
	t.Log(free, capped, slowed)
}
