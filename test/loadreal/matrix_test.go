// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadreal

import (
	"encoding/json"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// matrix is what llamaload matrix --json writes, as far as it is looked at here.
type matrix struct {
	Cells []struct {
		Settings map[string]string `json:"settings"`
		Server   struct {
			Load       float64 `json:"load_seconds"`
			PeakMemory int64   `json:"peak_memory_bytes"`
			Build      string  `json:"build"`
			Slots      int     `json:"slots"`
			Context    int     `json:"context_per_slot"`
		} `json:"server"`
		Failed  string `json:"failed"`
		Log     string `json:"log"`
		Figures map[string]struct {
			Runs            int
			Mean, Low, High float64
		} `json:"figures"`
		Runs []loadgen.Report `json:"runs"`
	} `json:"cells"`
}

// runMatrix runs llamaload matrix with the real llama-server and the tiny model.
func runMatrix(t *testing.T, flags ...string) (m matrix, output string, err error) {
	t.Helper()
	b, err := llamatest.Find()
	require.NoError(t, err)
	server, err := b.Command(tinygguf.Tiny)
	require.NoError(t, err)
	dir := t.TempDir()
	program, file := filepath.Join(dir, "llamaload"), filepath.Join(dir, "m.json")
	build, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/llamaload").CombinedOutput()
	require.NoError(t, err, string(build))

	args := append([]string{"matrix", "--json", file}, flags...)
	args = append(append(append(args, "--"), server...), "--metrics", "-t", "1")
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	t.Logf("%s", out)
	content, readErr := os.ReadFile(file)
	require.NoError(t, readErr)
	require.NoError(t, json.Unmarshal(content, &m))
	return m, string(out), err
}

func TestMatrix_OfContextsAndSlots(t *testing.T) {
	m, _, err := runMatrix(t, "--vary", "-c=2048,4096", "--vary", "-np=1,2", "--users", "2", "--max-tokens", "30", "--ignore-eos",
		"--duration", "1500ms", "--repeat", "2")
	require.NoError(t, err)
	require.Len(t, m.Cells, 4)
	for i, c := range m.Cells {
		assert.Equal(t, []string{"2048", "2048", "4096", "4096"}[i], c.Settings["-c"])
		assert.Equal(t, []string{"1", "2", "1", "2"}[i], c.Settings["-np"])
		slots, err := strconv.Atoi(c.Settings["-np"])
		require.NoError(t, err)
		tokens, err := strconv.Atoi(c.Settings["-c"])
		require.NoError(t, err)
		assert.Equal(t, slots, c.Server.Slots)
		assert.Equal(t, tokens/slots, c.Server.Context)
		assert.Positive(t, c.Server.Load)
		assert.NotEmpty(t, c.Server.Build)
		assert.Greater(t, c.Server.PeakMemory, int64(10<<20))

		require.Len(t, c.Runs, 2)
		assert.NotEqual(t, c.Runs[0].Workload.Hash, c.Runs[1].Workload.Hash)
		for j, r := range c.Runs {
			assert.Equal(t, m.Cells[0].Runs[j].Workload.Hash, r.Workload.Hash, "each server gets the same requests")
			assert.Zero(t, r.Requests.Failed)
			assert.Equal(t, 30*r.Requests.OK, r.Tokens.Output)
			require.NotNil(t, r.Reconciliation)
			assert.True(t, r.Reconciliation.Agrees, r.Reconciliation.Note)
			assertGone(t, r.Run.URL)
		}
		f := c.Figures["output_tokens_per_second"]
		assert.Equal(t, 2, f.Runs)
		assert.True(t, 0 < f.Mean && f.Low < f.Mean && f.Mean < f.High, f)
	}
}

// assertGone checks that nobody listens at a URL any more.
func assertGone(t *testing.T, server string) {
	t.Helper()
	u, err := url.Parse(server)
	require.NoError(t, err)
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	if !assert.Error(t, err, "the server still runs") {
		c.Close()
	}
}

func TestMatrix_SaysWhyAServerDoesNotStart(t *testing.T) {
	m, output, err := runMatrix(t, "--vary", "-ctk f16 | -ctk nonsense", "--users", "1", "--count", "5", "--duration", "0s", "--max-tokens", "5")
	require.Error(t, err)
	require.Len(t, m.Cells, 2)
	assert.Len(t, m.Cells[0].Runs, 1)
	assert.Contains(t, m.Cells[1].Failed, "the server ended by itself: exit status 1")
	assert.Contains(t, m.Cells[1].Log, "nonsense")
	assert.Contains(t, output, "1 of 2 rows were not measured")
}
