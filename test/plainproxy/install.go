// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package plainproxy finds nginx and Caddy, which benchmarks compare with. They are
// Debian's, unpacked below the user's cache folder, where none of their services run.
package plainproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/llamatelemetry/otelcol-llamacpp/test/debian"
)

// Names of proxies.
const (
	Nginx = "nginx"
	Caddy = "caddy"
)

// Cure is what to do where one is missing.
const Cure = "on Debian: go run ./test/cmd/install-proxies"

// libraries are packages with what nginx is linked with.
var libraries = []string{"libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"}

// places are where the packages have the programs, and ask each for its version.
var places = map[string]struct{ program, version string }{
	Nginx: {"usr/sbin/nginx", "-v"},
	Caddy: {"usr/bin/caddy", "version"},
}

// Find returns the program of a proxy.
func Find(name string) (string, error) {
	folder, err := place()
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, places[name].program)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s: %w: %s", name, err, Cure)
	}
	return path, nil
}

func place() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("folder of the proxies: %w", err)
	}
	return filepath.Join(cache, "otelcol-llamacpp", "proxies"), nil
}

// Install gets what is missing, and proves that it runs.
func Install(ctx context.Context, log io.Writer) error {
	folder, err := place()
	if err != nil {
		return err
	}
	for _, name := range []string{Nginx, Caddy} {
		if _, err := Find(name); err != nil {
			if err := errors.Join(os.MkdirAll(folder, 0o755), debian.Unpack(ctx, log, name, folder)); err != nil {
				return fmt.Errorf("install %s: %w", name, err)
			}
		}
		if err := version(ctx, log, name); err == nil {
			continue
		}
		if debian.CanInstall() {
			for _, library := range libraries {
				if err := debian.Install(ctx, log, library); err != nil {
					return fmt.Errorf("install %s: %w", library, err)
				}
			}
		}
		if err := version(ctx, log, name); err != nil {
			return fmt.Errorf("run %s: %w", name, err)
		}
	}
	return nil
}

// version prints the version of a proxy.
func version(ctx context.Context, log io.Writer, name string) error {
	path, err := Find(name)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, places[name].version).CombinedOutput()
	fmt.Fprintf(log, "%s: %s", name, out)
	return err
}
