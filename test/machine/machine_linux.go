// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
)

const (
	startTimeout = 40 * time.Second
	stopTimeout  = 20 * time.Second
)

//go:embed boot.sh
var boot string

// Machine is a Debian under test, with a network of its own that has only the
// loopback address.
type Machine struct {
	tb  testing.TB
	pid string // of its systemd, to us
}

// Start boots a machine, which runs until the end of the test. It needs root.
func Start(tb testing.TB) *Machine {
	tb.Helper()
	base, err := find()
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "memory"), 0o755); err != nil {
		tb.Fatal(err)
	}
	var log child.Output
	process, err := child.Start(exec.Command("unshare", "--mount", "bash", "-c", boot, "boot.sh", base, dir), &log)
	if err != nil {
		tb.Fatal(err)
	}
	m := &Machine{tb: tb}
	tb.Cleanup(func() {
		if tb.Failed() && m.pid != "" {
			journal, _ := m.Try("journalctl", "--no-pager", "--lines=200")
			tb.Logf("the machine's journal:\n%s", journal)
		}
		if err := process.Terminate(stopTimeout); err != nil {
			tb.Errorf("end the machine: %v\n%s", err, log.String())
		}
	})
	m.await("started", startTimeout, func() bool {
		select {
		case <-process.Exited():
			tb.Fatalf("the machine did not start, which needs root:\n%s", log.String())
		default:
		}
		pid, err := os.ReadFile(filepath.Join(dir, "pid"))
		m.pid = strings.TrimSpace(string(pid))
		return err == nil
	})
	state := ""
	m.await("booted", startTimeout, func() bool {
		state, _ = m.Try("systemctl", "is-system-running")
		state = strings.TrimSpace(state)
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		tb.Fatalf("the machine is %s:\n%s", state, m.Run("systemctl", "--failed"))
	}
	return m
}

// await waits for a condition of the machine.
func (m *Machine) await(what string, timeout time.Duration, condition func() bool) {
	m.tb.Helper()
	for end := time.Now().Add(timeout); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.tb.Fatalf("the machine has not %s within %s", what, timeout)
		}
	}
}

// Path is where a path of the machine's is to us.
func (m *Machine) Path(path string) string { return "/proc/" + m.pid + "/root" + path }

// Try runs a command in the machine, as its root, and returns what it prints.
func (m *Machine) Try(args ...string) (string, error) {
	enter := []string{
		"--target", m.pid, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "env", "--chdir=/", "-i",
		"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.WaitDelay = time.Second
	output, err := cmd.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return string(output), nil
}

// Run is Try for what has to go well.
func (m *Machine) Run(args ...string) string {
	m.tb.Helper()
	output, err := m.Try(args...)
	if err != nil {
		m.tb.Fatalf("in the machine: %v\n%s", err, output)
	}
	return output
}

// Get asks a port of the machine's for a page, and returns the answer with its
// header, which is empty where nobody listens.
func (m *Machine) Get(port int, path string) string {
	answer, _ := m.Try("bash", "-c", fmt.Sprintf(`exec 3<>/dev/tcp/localhost/%d && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3 && cat <&3`, port, path))
	if !strings.HasPrefix(answer, "HTTP/") {
		return ""
	}
	return answer
}
