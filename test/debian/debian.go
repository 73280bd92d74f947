// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package debian installs packages of Debian that tests need.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CanInstall reports whether this is Debian and this program runs as root.
func CanInstall() bool {
	_, err := os.Stat("/etc/debian_version")
	return err == nil && os.Geteuid() == 0
}

// Install installs a package, after the lists of packages where these are missing.
func Install(ctx context.Context, log io.Writer, name string) error {
	install := []string{"apt-get", "install", "-y", "--no-install-recommends", name}
	if Run(ctx, log, install...) == nil {
		return nil
	}
	return errors.Join(Run(ctx, log, "apt-get", "update"), Run(ctx, log, install...))
}

// Run runs a command that asks no questions.
func Run(ctx context.Context, log io.Writer, args ...string) error {
	fmt.Fprintln(log, "+", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Unpack unpacks a package into a folder, without installing it: none of its services
// start, and it needs no root. What it depends on must be there.
func Unpack(ctx context.Context, log io.Writer, name, folder string) (err error) {
	part, err := os.MkdirTemp("", "package-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	download := []string{"env", "-C", part, "apt-get", "download", name}
	if Run(ctx, log, download...) != nil {
		if err := errors.Join(Run(ctx, log, "apt-get", "update"), Run(ctx, log, download...)); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(part, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := Run(ctx, log, "dpkg-deb", "--extract", file, folder); err != nil {
			return err
		}
	}
	return nil
}
