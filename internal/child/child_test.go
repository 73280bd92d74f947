// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package child

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script runs a shell script until it has said "ready".
func script(t *testing.T, text string) (*Process, *Output) {
	t.Helper()
	var out Output
	p, err := Start(exec.Command("sh", "-c", text), &out)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return out.String() == "ready\n" }, 20*time.Second, 5*time.Millisecond)
	return p, &out
}

func TestTerminate_LetsTheProgramEnd(t *testing.T) {
	p, out := script(t, "trap 'echo bye >&2; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	require.NoError(t, p.Terminate(20*time.Second))
	assert.Equal(t, "ready\nbye\n", out.String(), "both streams, complete")
	require.ErrorContains(t, p.Terminate(time.Second), "finished", "it had ended before")
}

func TestTerminate_SaysHowABadEndWas(t *testing.T) {
	p, _ := script(t, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	assert.ErrorContains(t, p.Terminate(20*time.Second), "exit status 3")
}

func TestTerminate_KillsWhatDoesNotEnd(t *testing.T) {
	p, _ := script(t, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	require.ErrorContains(t, p.Terminate(100*time.Millisecond), "not ended within 100ms")
	assert.Equal(t, "signal: killed", p.State().String())
}

func TestStart_SaysWhatCannotBeStarted(t *testing.T) {
	_, err := Start(exec.Command("/no/such/program"), &Output{})
	assert.ErrorContains(t, err, "start /no/such/program")
}

func TestKill_EndsWhatTheProgramStarted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("process groups of their own are for Linux")
	}
	p, out := script(t, "sleep 60 & echo ready; wait")
	began := time.Now()
	p.Kill()
	assert.Less(t, time.Since(began), 900*time.Millisecond, "sleep, which keeps the streams open, has ended as well")
	assert.Equal(t, "ready\n", out.String())
}

func TestTerminate_LeavesNothingBehind(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("process groups of their own are for Linux")
	}
	p, _ := script(t, "sleep 60 >/dev/null 2>&1 & trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	require.NoError(t, p.Terminate(20*time.Second))
	assert.Eventually(t, func() bool { return errors.Is(syscall.Kill(-p.PID(), 0), syscall.ESRCH) }, 10*time.Second, 10*time.Millisecond)
}

func TestTail_KeepsTheLastLines(t *testing.T) {
	var out Tail
	for i := range 100 {
		fmt.Fprintf(&out, "line %d\nand", i)
	}
	fmt.Fprint(&out, strings.Repeat("x", 5000))
	lines := strings.Split(out.String(), "\n")
	assert.Len(t, lines, tailLines+1)
	assert.Equal(t, "  andline 99", lines[tailLines-1])
	assert.Len(t, lines[tailLines], lineBytes+2)
}
