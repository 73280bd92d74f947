// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// Each panel of GPUs shows what the driver says, of each GPU.
func TestDashboard_ShowsWhatTheDriverSays(t *testing.T) {
	t.Parallel()
	driver := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	// The simulator listens in this process.
	driver.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 7 << 30})
	driver.SetProcesses(1, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 5 << 30})
	driver.GPU(1).Temperature, driver.GPU(1).Reasons = 87, 0x40
	driver.XID(1, 31)
	server := llamasim.Start(t, llamasim.Options{})
	c := watch(t, []string{"LLAMACPP_ENDPOINT=" + server.URL(), "LD_LIBRARY_PATH=" + driver.Folder(), "LLAMACPP_LOG=/dev/null"}, `
receivers:
  llamacpp:
    scrapers: {gpu: {collection_interval: 500ms}}
`)
	type values = map[string]float64
	want := map[string]values{}
	put := func(panel, line string, value float64) {
		if want[panel] == nil {
			want[panel] = values{}
		}
		want[panel][line] = value
	}
	const model = "NVIDIA Fake H100"
	for i := range 2 {
		g, id := driver.GPU(i), driver.UUID(i)
		gpu := model + " " + id
		put("gpu-utilization", gpu, float64(g.Utilization)/100)
		put("gpu-bandwidth", gpu+" busy", float64(g.MemoryUtilization)/100)
		put("gpu-memory", gpu, float64(g.MemoryUsed))
		put("gpu-memory", "size of "+gpu, float64(g.MemoryTotal))
		put("gpu-memory", host(server)+" on "+id, float64(g.Processes[0].Memory))
		put("gpu-temperature", gpu+" gpu", float64(g.Temperature))
		put("gpu-temperature", gpu+" memory", float64(g.MemoryTemperature))
		put("gpu-power", "limit of "+gpu, float64(g.PowerLimit)/1000)
		put("gpu-clocks", gpu+" sm", float64(g.Clocks[1])*1e6)
		put("gpu-clocks", gpu+" memory", float64(g.Clocks[2])*1e6)
		put("gpu-fan", gpu, float64(g.Fan)/100)
		put("gpu-state", "ok "+gpu, 1)
		put("gpu-state", "failed "+gpu, 0)
	}
	put("gpu-throttle", "power_cap "+model+" "+driver.UUID(0), 1)
	put("gpu-throttle", "power_cap "+model+" "+driver.UUID(1), 0)
	put("gpu-clocks", model+" sm limit", float64(driver.GPU(0).MaxClocks[1])*1e6)
	put("gpu-temperature", model+" gpu throttled", float64(driver.GPU(0).Slowdown))
	put("gpu-temperature", model+" gpu high.critical", float64(driver.GPU(0).Shutdown))
	put("gpu-temperature", model+" gpu high.degraded", float64(driver.GPU(0).MaxTemperature))
	driver.Burn(t, 310.5, 95)

	same := func(panel string, got values) bool {
		for line, v := range want[panel] {
			// The page gets six digits.
			if shown, ok := got[line]; !ok || math.Abs(shown-v) > 5e-6*v {
				return false
			}
		}
		return true
	}
	var s snapshot
	c.eventually(func() bool {
		s = c.snapshot("window=60&server=" + host(server))
		for panel := range want {
			if !same(panel, s.last(panel)) {
				return false
			}
		}
		return true
	}, "all panels show it: %s", lazily(func() string {
		text := ""
		for _, panel := range slices.Sorted(maps.Keys(want)) {
			if got := s.last(panel); !same(panel, got) {
				text += fmt.Sprintf("\n%s: want %v, got %v", panel, want[panel], got)
			}
		}
		return text
	}))
	c.eventually(func() bool {
		return slices.Equal([]string{driver.UUID(0), driver.UUID(1)}, c.snapshot("window=60&server="+host(server)).GPUs)
	}, "the server's own GPUs are chosen")
	c.eventually(func() bool {
		shown := c.snapshot("window=60").last("gpu-power")
		near := func(i int, watts float64) bool {
			got := shown[model+" "+driver.UUID(i)]
			return got > 0.95*watts && got < 1.05*watts
		}
		return near(0, 310.5) && near(1, 95)
	}, "power, from the counters of energy")
	errors := c.snapshot("window=60").last("gpu-errors")
	assert.InDelta(t, 1, errors["xid.31 "+model+" "+driver.UUID(1)], 0, "%v", errors)

	alone := c.snapshot("window=60&gpu=" + driver.UUID(1))
	for line := range alone.last("gpu-utilization") {
		assert.Contains(t, line, driver.UUID(1), "only the GPU that was chosen")
	}
	t.Run("wrong parameters", c.explainsWrongParameters)
}
