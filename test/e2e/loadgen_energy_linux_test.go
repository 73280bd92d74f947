// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// watchGPUsToo makes a collector that generates load read GPUs as well, and serve
// their metrics to Prometheus and to itself; %d is the port, twice.
const watchGPUsToo = `
receivers:
  llamacpp: {scrapers: {gpu: {collection_interval: 200ms}}}
exporters:
  prometheus: {endpoint: "127.0.0.1:%[1]d"}
extensions:
  loadgen: {gpu_metrics: {endpoint: "http://127.0.0.1:%[1]d/metrics"}}
service:
  pipelines:
    metrics/gpus: {receivers: [llamacpp], exporters: [prometheus]}
`

// energyReport is what a report says of energy.
type energyReport struct {
	Energy *struct {
		Joules, Watts float64
		Each          float64 `json:"joules_per_output_token"`
		GPUs          int
		Source        string
	}
	NoEnergy string `json:"no_energy"`
	Tokens   struct{ Output int }
}

// energyOf runs load on a real server while the collector reads a driver's GPUs, and
// returns what the report says, and the page that was read.
func energyOf(t *testing.T, d *fakenvml.Driver) (r energyReport, page string) {
	t.Helper()
	s := llamatest.Start(t, llamatest.Options{})
	port := freeport.For(t)
	g := generateIn(t, []string{"LD_LIBRARY_PATH=" + d.Folder()}, s.URL(), "      steady: {rate: 10, duration: 5s, max_tokens: {min: 20, max: 20}}", fmt.Sprintf(watchGPUsToo, port))
	page = fmt.Sprintf("http://127.0.0.1:%d/metrics", port)
	g.eventually(func() bool { return d.Calls("nvmlDeviceGetPowerUsage") > 4 }, "the GPUs are read")
	run := g.start("steady")
	run = g.awaitRun(run.ID, over, "the run ends")
	require.Equal(t, 50, run.Requests.OK)
	g.ask(http.StatusOK, "GET", "/api/v1/runs/"+run.ID+"/results", "", &r)
	require.NotNil(t, r.Energy, r.NoEnergy)
	assert.Equal(t, 2, r.Energy.GPUs)
	assert.Equal(t, 1000, r.Tokens.Output)
	assert.InDelta(t, r.Energy.Joules/1000, r.Energy.Each, 1e-9)
	return r, page
}

func TestLoad_ReportsTheEnergyOfTheGPUsThatTheCollectorReads(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	d.Burn(t, 300, 50)
	r, page := energyOf(t, d)
	assert.InEpsilon(t, 350, r.Energy.Watts, 0.2, "of both")
	assert.InEpsilon(t, 350*5, r.Energy.Joules, 0.3)
	assert.Equal(t, "hw_energy_joules_total at "+page, r.Energy.Source)
}

// GPUs before Volta count no energy; their power is read only now and then.
func TestLoad_IntegratesThePowerOfGPUsThatCountNoEnergy(t *testing.T) {
	t.Parallel()
	d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	d.Fail("nvmlDeviceGetTotalEnergyConsumption", -1, fakenvml.NotSupported)
	r, page := energyOf(t, d)
	assert.InEpsilon(t, 2*310.5, r.Energy.Watts, 0.01)
	assert.Equal(t, "integral of hw_power_watts at "+page, r.Energy.Source)
}
