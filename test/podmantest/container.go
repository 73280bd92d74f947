// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package podmantest

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// anywhere are options with which a container starts on any machine: without
// cgroups, with limits that need no privilege to set, and not for ever, should the
// test be killed.
var anywhere = []string{"--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--timeout=600"}

// unprivileged are the options of every container: an image should need nothing.
var unprivileged = append([]string{
	"--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
}, anywhere...)

// Container runs in the background.
type Container struct {
	tb     testing.TB
	engine *Engine
	id     string
}

// Run starts a container of an image until the end of the test, with a read-only
// root, no capabilities and no way to get any. Options are those of podman run. A
// failed test shows its log.
func (e *Engine) Run(tb testing.TB, image string, options []string, args ...string) *Container {
	tb.Helper()
	words := append([]string{"run", "--detach"}, append(unprivileged, options...)...)
	out, err := e.Do(tb.Context(), append(append(words, image), args...)...)
	if err != nil {
		tb.Fatal(err)
	}
	c := &Container{tb: tb, engine: e, id: strings.TrimSpace(out)}
	tb.Cleanup(func() {
		if tb.Failed() && c.id != "" {
			tb.Logf("the container's log:\n%s", c.Log())
		}
	})
	return c
}

// RunToEnd runs a container until it ends by itself, and returns what it prints.
func (e *Engine) RunToEnd(tb testing.TB, image string, options []string, args ...string) (string, error) {
	tb.Helper()
	words := append([]string{"run", "--rm"}, append(unprivileged, options...)...)
	return e.Do(tb.Context(), append(append(words, image), args...)...)
}

// Exec runs a command in the container and returns what it prints.
func (c *Container) Exec(args ...string) (string, error) {
	return c.engine.Do(c.tb.Context(), append([]string{"exec", c.id}, args...)...)
}

// CheckHealth runs the command of the image's HEALTHCHECK, once. An error means
// that it failed.
func (c *Container) CheckHealth() error {
	_, err := c.engine.Do(c.tb.Context(), "healthcheck", "run", c.id)
	return err
}

// Stop ends the container as SIGTERM does, and returns its exit code: 137 where it
// took longer than ten seconds, after which Docker and Podman kill.
func (c *Container) Stop() string {
	c.tb.Helper()
	if _, err := c.engine.Do(c.tb.Context(), "stop", "--time", "10", c.id); err != nil {
		c.tb.Fatal(err)
	}
	out, err := c.engine.Do(c.tb.Context(), "inspect", "--format", "{{.State.ExitCode}}", c.id)
	if err != nil {
		c.tb.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Remove removes the container, but not its volumes.
func (c *Container) Remove() {
	c.tb.Helper()
	if _, err := c.engine.Do(c.tb.Context(), "rm", c.id); err != nil {
		c.tb.Fatal(err)
	}
	c.id = ""
}

// Log is all that the container has printed, to both its streams.
func (c *Container) Log() string {
	// The test's own context has ended where its failure is reported.
	out, err := c.engine.command(context.Background(), "logs", c.id).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%v", out, err)
	}
	return string(out)
}
