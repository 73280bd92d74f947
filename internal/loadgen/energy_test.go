// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/energy"
)

func reportOf(r *Results) *Report { return NewReport(&Config{}, r, About{}, Workload{}) }

func TestReport_EnergyIsSharedByAllTokensThatWereGenerated(t *testing.T) {
	r := newRecorder(&Config{}, nil).results()
	r.AllTokens.Output = 200
	used := energy.Used{Joules: 500, Within: 2 * time.Second, GPUs: 2, Source: "hw_energy_joules_total at http://h/metrics"}
	for name, test := range map[string]struct {
		change     func(*Results)
		json, text string
	}{
		"all counted": {
			func(*Results) {}, `{"joules":500,"joules_per_output_token":2.5,"watts":250,"gpus":2,"source":"hw_energy_joules_total at http://h/metrics"}`,
			"energy 2.5 J an output token, 500 J, 250 W on average of 2 GPUs, idle power included (hw_energy_joules_total at http://h/metrics)",
		},
		"some were left": {
			func(r *Results) { r.Uncounted = 3 }, `{"joules":500,"joules_per_output_token":2.5,"watts":250,"gpus":2,"source":"hw_energy_joules_total at http://h/metrics",
			"note":"a token cost less: 3 requests were left or cut before the server told their tokens"}`,
			"; a token cost less: 3 requests were left",
		},
		"no tokens": {
			func(r *Results) { r.AllTokens.Output = 0 }, `{"joules":500,"joules_per_output_token":null,"watts":250,"gpus":2,"source":"hw_energy_joules_total at http://h/metrics"}`,
			"energy no output tokens, 500 J",
		},
	} {
		changed := *r
		test.change(&changed)
		p := reportOf(&changed)
		p.setEnergy(used, nil, &changed)
		got, err := json.Marshal(p.Energy)
		require.NoError(t, err)
		assert.JSONEq(t, test.json, string(got), name)
		assert.Empty(t, p.NoEnergy, name)
		assert.Contains(t, text(t, p), test.text, name)
	}
}

// text returns the report with single spaces.
func text(t *testing.T, p *Report) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, p.WriteText(&b))
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestReport_SaysWhyThereIsNoEnergy(t *testing.T) {
	r := newRecorder(&Config{}, nil).results()
	p := reportOf(r)
	assert.Equal(t, "no GPU metrics were given", p.NoEnergy)
	assert.NotContains(t, text(t, p), "energy", "nobody asked for it")

	p.setEnergy(energy.Used{}, errors.New("nobody there"), r)
	assert.Nil(t, p.Energy)
	assert.Contains(t, text(t, p), "energy unknown: nobody there")
}

func TestMetering_AddsWhatGPUsUsedDuringTheRun(t *testing.T) {
	began := time.Now()
	gpus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hw_energy_joules_total{hw_type=\"gpu\"} %g\n", 1e6+100*time.Since(began).Seconds())
	}))
	defer gpus.Close()
	s, err := energy.NewSource(gpus.URL, gpus.Client())
	require.NoError(t, err)
	r := newRecorder(&Config{}, nil).results()
	p := reportOf(r)
	m := MeterEnergy(t.Context(), s)
	require.NoError(t, m.Err)
	from := time.Now()
	time.Sleep(time.Second)
	took := time.Since(from).Seconds()
	m.End(t.Context(), time.Now(), p, r)
	require.NotNil(t, p.Energy, p.NoEnergy)
	assert.InDelta(t, 100*took, p.Energy.Joules, 30)
	assert.InDelta(t, 100, p.Energy.Watts, 30)

	var none *Metering
	none.End(t.Context(), time.Now(), p, r)
	none.Discard()
	gpus.Close()
	m = MeterEnergy(t.Context(), s)
	require.Error(t, m.Err)
	m.Discard()
	p = reportOf(r)
	m.End(t.Context(), time.Now(), p, r)
	assert.Equal(t, m.Err.Error(), p.NoEnergy)
}
