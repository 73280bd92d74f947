// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// demo is the program behind `make demo`.
type demo struct {
	*child.Process
	out    child.Output
	folder string // for its temporary files
}

func startDemo(t *testing.T, environment []string, flags ...string) *demo {
	t.Helper()
	program := filepath.Join(t.TempDir(), "llamademo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/llamademo")
	build.Dir = "../.."
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)

	d := &demo{folder: t.TempDir()}
	cmd := exec.Command(program, append([]string{"-collector", collectortest.Program(t), "-config", "../../collector-config.yaml"}, flags...)...)
	cmd.Env = append(append(os.Environ(), "TMPDIR="+d.folder), environment...)
	d.Process, err = child.Start(cmd, &d.out)
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	return d
}

// awaitLine waits until the demo has printed a line with all the parts.
func (d *demo) awaitLine(t *testing.T, parts ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
	lines:
		for line := range strings.Lines(d.out.String()) {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			return true
		}
		return false
	}, time.Minute, 50*time.Millisecond, "%s", &d.out)
}

// left returns the processes that still have the demo's environment.
func (d *demo) left(t *testing.T) (left []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, file := range files {
		environment, err := os.ReadFile(file)
		if err == nil && bytes.Contains(environment, []byte("TMPDIR="+d.folder+"\x00")) {
			left = append(left, file)
		}
	}
	return left
}

func TestDemo_ShowsWhatServerAndClientsSay(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	d := startDemo(t, []string{"LLAMACPP_ENDPOINT=" + s.URL(), "LLAMACPP_LOG=" + s.Log()}, "-duration", "10s", "-concurrency", "3")
	d.awaitLine(t, "state ok", " | latency P50 ", " | wait P50 ", " | clients P50 ", ", first token P50 ")
	assert.Equal(t, 0, d.State().ExitCode(), "%s", &d.out)
	assert.Contains(t, d.out.String(), "requests   from 3 clients, through the proxy to this server only")
	assert.NotContains(t, d.out.String(), "errors")
	assert.Empty(t, d.left(t))
}

func TestDemo_OnlyWatchesWithNoLoad(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{})
	d := startDemo(t, []string{"LLAMACPP_ENDPOINT=" + s.URL()}, "-duration", "3s", "-no-load")
	assert.Equal(t, 0, d.State().ExitCode(), "%s", &d.out)
	assert.Contains(t, d.out.String(), "decoding 0.0 tok/s")
	assert.NotContains(t, d.out.String(), "clients P50")
}

func TestDemo_SaysWhyNoRequestIsAnswered(t *testing.T) {
	s := llamatest.Start(t, llamatest.Options{Args: []string{"--api-key", "right"}})
	d := startDemo(t, []string{"LLAMACPP_ENDPOINT=" + s.URL(), "LLAMACPP_API_KEY=wrong"}, "-duration", "3s")
	assert.Equal(t, 1, d.State().ExitCode())
	assert.Contains(t, d.out.String(), "for the demo, set LLAMACPP_API_KEY")
}

func TestDemo_LeavesNothingBehind(t *testing.T) {
	// Where the tests run under nohup, the demo would ignore the signal as it should.
	// What this program catches has its default again in those that it starts.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(fmt.Sprint(end), func(t *testing.T) {
			d := startDemo(t, nil, "-simulator")
			d.awaitLine(t, "state ok", "running")
			require.Len(t, d.left(t), 2, "the demo and its collector")
			require.NoError(t, d.Signal(end))
			state := d.State()
			if end != syscall.SIGKILL {
				assert.Equal(t, 0, state.ExitCode(), "%s", &d.out)
				files, err := os.ReadDir(d.folder)
				require.NoError(t, err)
				assert.Empty(t, files)
			}
			assert.Eventually(t, func() bool { return len(d.left(t)) == 0 }, 10*time.Second, 20*time.Millisecond)
		})
	}
}
