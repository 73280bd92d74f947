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
