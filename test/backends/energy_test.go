// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// The load generator asks Prometheus what GPUs used, however their metrics got there.
func TestEnergy_IsWhatPrometheusKnowsOfTheGPUs(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			d := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
			d.Burn(t, 300, 50)
			prometheus, _ := startWay(t, w, "1s", "receivers: {llamacpp: {scrapers: {gpu: {collection_interval: 500ms}}}}", "LD_LIBRARY_PATH="+d.Folder(), "LLAMACPP_ENDPOINT=http://127.0.0.1:1")
			otlpsink.Eventually(t, 40*time.Second, func() bool { return len(prometheus.Query("hw_energy_joules_total")) == 2 }, "both GPUs")
			for query, watts := range map[string]float64{
				"": 350,
				"?query=hw_energy_joules_total{hw_id=\"" + d.UUID(1) + "\"}": 50,
				"?query=sum(hw_energy_joules_total)":                         350,
			} {
				s, err := energy.NewSource(prometheus.URL()+"/api/v1/query"+query, http.DefaultClient)
				require.NoError(t, err)
				m, err := s.Start(t.Context())
				require.NoError(t, err)
				from := time.Now()
				time.Sleep(6 * time.Second)
				used, err := m.End(t.Context(), from, time.Now())
				require.NoError(t, err)
				assert.InEpsilon(t, watts*used.Within.Seconds(), used.Joules, 0.3, "%s %s", w.name, query)
			}
		})
	}
}
