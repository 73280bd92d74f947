// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package collectortest runs the collector that `make build` built, as a process
// of its own, for the tests in folders beside this one.
package collectortest

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
)

const (
	// startTimeout and stopTimeout are for what takes a second or two on a
	// machine that is not busy.
	startTimeout = 40 * time.Second
	stopTimeout  = 20 * time.Second
)

// Program is the path of the collector: that of the environment variable
// OTELCOL_BINARY, else the one that `make build` left.
func Program(tb testing.TB) string {
	tb.Helper()
	path, err := filepath.Abs(cmp.Or(os.Getenv("OTELCOL_BINARY"), "../../bin/otelcol-llamacpp"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		tb.Fatalf("%v: run make build, or set OTELCOL_BINARY", err)
	}
	return path
}

// ConfigFile writes a configuration to a file that lasts as long as the test,
// and returns its path.
func ConfigFile(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Collector is a collector under test. Its process can be ended and started
// again.
type Collector struct {
	tb      testing.TB
	command []string
	env     []string
	process *child.Process // nil while there is none
	log     child.Output
	earlier int // how much of the log earlier processes wrote
	started time.Time
}

// Start runs a collector until the end of the test, at which it has to end well.
// It gets the arguments, such as --config, and env on top of this program's
// environment, each variable as NAME=value. A failed test shows its log.
func Start(tb testing.TB, env []string, args ...string) *Collector {
	tb.Helper()
	return StartUnder(tb, nil, env, args...)
}

// StartUnder is Start by way of another program, such as unshare, which gets the
// collector and its arguments as its last arguments and has to become that
// process.
func StartUnder(tb testing.TB, program, env []string, args ...string) *Collector {
	tb.Helper()
	c := &Collector{tb: tb, command: slices.Concat(program, []string{Program(tb)}, args), env: env}
	c.Start()
	tb.Cleanup(func() {
		if c.process != nil {
			c.Terminate()
		}
		if tb.Failed() {
			tb.Logf("the collector's log:\n%s", c.Log())
		}
	})
	return c
}

// Start starts the process again after Terminate or Kill.
func (c *Collector) Start() {
	c.tb.Helper()
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	c.earlier, c.started = len(c.Log()), time.Now()
	var err error
	if c.process, err = child.Start(cmd, &c.log); err != nil {
		c.tb.Fatal(err)
	}
}

// PID is the number of the present process.
func (c *Collector) PID() int { return c.process.PID() }

// Log is all that the collector has logged so far.
func (c *Collector) Log() string { return c.log.String() }

// AwaitLog waits until the present process has logged a text.
func (c *Collector) AwaitLog(text string) {
	c.tb.Helper()
	logged := func() bool { return strings.Contains(c.Log()[c.earlier:], text) }
	for end := time.Now().Add(startTimeout); !logged(); {
		select {
		case <-c.process.Exited():
			if !logged() {
				c.tb.Errorf("the collector ended, and its log does not say %q", text)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			c.tb.Errorf("the log does not say %q within %s", text, startTimeout)
			return
		}
	}
}

// Terminate ends the process as SIGTERM does, which has to go well. The process
// has to log at level info: before it is ready it would die of the signal.
func (c *Collector) Terminate() {
	c.tb.Helper()
	c.AwaitLog("Everything is ready")
	if time.Since(c.started) < 5*time.Second {
		time.Sleep(200 * time.Millisecond) // it asks to be told of signals only after that line
	}
	if err := c.process.Terminate(stopTimeout); err != nil {
		c.tb.Error(err)
	}
	c.process = nil
}

// Kill ends the process as SIGKILL does.
func (c *Collector) Kill() {
	c.process.Kill()
	c.process = nil
}
