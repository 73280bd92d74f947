// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package promtest runs a real Prometheus for tests: it builds the version that
// tools/prometheus pins, starts and ends the process, and sends it queries.
package promtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Cure is what to do where there is no Prometheus.
const Cure = "go run ./test/cmd/install-prometheus"

// programs are what Install builds.
var programs = []string{"prometheus", "promtool"}

// Find returns the folder that Install has put the programs into.
func Find(ctx context.Context) (string, error) {
	_, folder, err := places(ctx)
	if err != nil {
		return "", err
	}
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(folder, program)); err != nil {
			return "", fmt.Errorf("find Prometheus: %w: %s", err, Cure)
		}
	}
	return folder, nil
}

// Install builds prometheus and promtool into a folder below the user's cache
// folder, and does nothing where that has been done before. The first build
// takes some minutes.
func Install(ctx context.Context, log io.Writer) (err error) {
	module, folder, err := places(ctx)
	if err != nil {
		return err
	}
	if _, err := Find(ctx); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return fmt.Errorf("install Prometheus: %w", err)
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".part-")
	if err != nil {
		return fmt.Errorf("install Prometheus: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	// Service discovery is most of what Prometheus depends on, and no test needs it.
	args := []string{"build", "-tags", "remove_all_sd", "-ldflags", "-s -w", "-o", part}
	for _, program := range programs {
		args = append(args, "github.com/prometheus/prometheus/cmd/"+program)
	}
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir, build.Stdout, build.Stderr = module, log, log
	if err := build.Run(); err != nil {
		return fmt.Errorf("install Prometheus: go build in %s: %w", module, err)
	}
	if err := os.Rename(part, folder); err != nil {
		if _, found := Find(ctx); found == nil {
			return nil // somebody else was faster
		}
		return fmt.Errorf("install Prometheus: %w", err)
	}
	return nil
}

// places returns the folder of the module that pins the version, and the one
// for the programs of that version.
func places(ctx context.Context) (module, folder string, err error) {
	_, self, _, _ := runtime.Caller(0)
	module = filepath.Join(filepath.Dir(self), "..", "..", "tools", "prometheus")
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "github.com/prometheus/prometheus")
	list.Dir = module
	version, err := list.Output()
	if err != nil {
		return "", "", fmt.Errorf("version of Prometheus in %s: %w", module, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("cache folder of Prometheus: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return module, filepath.Join(cache, "otelcol-llamacpp", "prometheus-"+strings.TrimSpace(string(version))), nil
}
