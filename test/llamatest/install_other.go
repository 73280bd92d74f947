// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package llamatest

import (
	"context"
	"io"
	"os"
	"syscall"
)

// Install works only on Debian.
func Install(context.Context, io.Writer) error { return errNoInstall }

func mountProc(string) (func() error, error) { return func() error { return nil }, nil }

func sysProcAttr(string) *syscall.SysProcAttr { return nil }

func killGroup(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
