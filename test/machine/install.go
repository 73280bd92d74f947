// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package machine boots a clean Debian 12 with a real systemd, in namespaces of
// its own, to install packages and run services in. It takes a second, and
// nothing that happens in it stays.
package machine

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

// Cure is what to do where the system to boot is missing.
const Cure = "on Debian, as root: go run ./test/cmd/install-packaging"

// find returns the folder of the system.
func find() (string, error) {
	base, err := folder()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(base, "usr", "lib", "systemd", "systemd")); err != nil {
		return "", fmt.Errorf("find Debian: %w: %s", err, Cure)
	}
	for _, program := range []string{"unshare", "nsenter", "setpriv", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: %s", err, Cure)
		}
	}
	return base, nil
}

func folder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder of Debian: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(cache, "otelcol-llamacpp", "debian-bookworm"), nil
}

// Install puts a bare Debian 12 with systemd into a folder below the user's cache
// folder. It needs Debian, root, the network and some 240 MB, and does nothing
// where it was done before.
func Install(ctx context.Context, log io.Writer) (err error) {
	if _, err := find(); err == nil {
		return nil
	}
	if !debian.CanInstall() {
		return fmt.Errorf("install Debian: this needs Debian and root: %s", Cure)
	}
	base, err := folder()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return fmt.Errorf("install Debian: %w", err)
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		if err := debian.Install(ctx, log, "debootstrap"); err != nil {
			return fmt.Errorf("install Debian: %w", err)
		}
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(filepath.Dir(base), filepath.Base(base)+".part-")
	if err != nil {
		return fmt.Errorf("install Debian: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	if err := os.Chmod(part, 0o755); err != nil {
		return fmt.Errorf("install Debian: %w", err)
	}
	if err := debian.Run(ctx, log, "debootstrap", "--variant=minbase", "--include=systemd", "bookworm", part); err != nil {
		return fmt.Errorf("install Debian: %w", err)
	}
	if err := os.Rename(part, base); err != nil {
		if _, found := find(); found == nil {
			return nil // somebody else was faster
		}
		return fmt.Errorf("install Debian: %w", err)
	}
	_, err = find()
	return err
}
