// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

func TestRun_ReportsTheEnergyOfGPUs(t *testing.T) {
	began := time.Now()
	gpus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hw_energy_joules_total{hw_type=\"gpu\"} %g\n", 200*time.Since(began).Seconds())
	}))
	defer gpus.Close()
	_, url := simulator(t, llamasim.Options{TokensPerSecond: 1000, PromptTokensPerSecond: 1e6})
	file := filepath.Join(t.TempDir(), "report.json")
	run := func(args ...string) (code int, stdout, stderr string, report struct {
		Tokens struct{ Output int }
		Energy *struct {
			Joules, JoulesPerOutputToken, Watts float64
			Each                                float64 `json:"joules_per_output_token"`
			Source                              string
		}
		NoEnergy string `json:"no_energy"`
	},
	) {
		code, stdout, stderr = llamaload(t, append([]string{"run", "--url", url, "--rate", "20", "--duration", "2s", "--max-tokens", "10", "--json", file}, args...)...)
		if content, err := os.ReadFile(file); err == nil {
			require.NoError(t, json.Unmarshal(content, &report))
		}
		return code, stdout, stderr, report
	}

	code, _, stderr, _ := run("--gpu-metrics", "localhost:9464")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, `--gpu-metrics: "localhost:9464": want the address of a page of metrics`)

	code, stdout, stderr, report := run("--gpu-metrics", gpus.URL)
	require.Equal(t, exitDone, code, stderr)
	require.NotNil(t, report.Energy, report.NoEnergy)
	assert.InDelta(t, 200, report.Energy.Watts, 60)
	assert.InDelta(t, report.Energy.Joules/float64(report.Tokens.Output), report.Energy.Each, 1e-9)
	assert.Equal(t, "hw_energy_joules_total at "+gpus.URL, report.Energy.Source)
	assert.Contains(t, stdout, "idle power included")

	code, stdout, stderr, report = run("--gpu-metrics", url+"/metrics") // no GPUs there
	require.Equal(t, exitDone, code, "the requests were measured all the same")
	assert.Contains(t, stderr, "the report will have no energy: "+url+"/metrics has neither hw_energy_joules_total nor hw_power_watts")
	assert.Nil(t, report.Energy)
	assert.Contains(t, report.NoEnergy, "has neither")
	assert.Contains(t, stdout, "unknown: "+url)

	_, _, _, report = run()
	assert.Equal(t, "no GPU metrics were given", report.NoEnergy)
}
