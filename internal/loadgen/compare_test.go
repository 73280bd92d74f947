// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// measured returns a report of n requests with the given mean time to first token.
func measured(t *testing.T, seed uint64, n int, mean time.Duration) *Report {
	t.Helper()
	results := newRecorder(&Config{}, nil).results()
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		results.TTFT.record(mean + time.Duration(r.NormFloat64()*float64(10*ms)))
	}
	// The report as it is read back from a file.
	var b bytes.Buffer
	require.NoError(t, NewReport(&Config{}, results, About{Schedule: "s"}, Workload{Hash: "h"}).WriteJSON(&b))
	p := &Report{}
	require.NoError(t, json.Unmarshal(b.Bytes(), p))
	return p
}

func TestCompare_IntervalsHoldTheTruthAsOftenAsTheySay(t *testing.T) {
	const pairs = 40
	wrong := 0
	for i := range uint64(pairs) {
		d, err := Compare(measured(t, 2*i, 100, 100*ms), measured(t, 2*i+1, 100, 100*ms))
		require.NoError(t, err)
		require.Len(t, d, 3, "only of what was measured")
		if d[2].Shown() {
			wrong++
		}
	}
	assert.LessOrEqual(t, wrong, 4, "one in a hundred is expected; five of forty come by chance once in ten thousand times")
}

func TestCompare_ShowsADifferenceThatIsThere(t *testing.T) {
	d, err := Compare(measured(t, 1, 300, 100*ms), measured(t, 2, 300, 105*ms))
	require.NoError(t, err)
	for _, x := range []Difference{d[0], d[2]} {
		assert.True(t, x.Shown(), x)
		assert.Greater(t, x.High, 5*ms)
		assert.Less(t, x.Low, 5*ms)
		assert.InDelta(t, 105, float64(x.B)/1e6, 3)
	}
}

func TestCompare_RefusesUnequalWorkloadsAndSchedules(t *testing.T) {
	a, b := measured(t, 1, 10, ms), measured(t, 1, 10, ms)
	b.Run.Schedule = "faster"
	_, err := Compare(a, b)
	assert.EqualError(t, err, "different schedules: s and faster: run both with the same settings and --seed")
	b.Workload.Hash = "other"
	_, err = Compare(a, b)
	assert.EqualError(t, err, "different requests: hash h and other: run both with the same settings and --seed")
}

func TestHistogram_JSONThatIsNoneIsRefused(t *testing.T) {
	for _, s := range []string{`1`, `{"count":1}`, `{"count":1,"hdr":"x"}`} {
		assert.Error(t, json.Unmarshal([]byte(s), newHistogram()), s)
	}
}
