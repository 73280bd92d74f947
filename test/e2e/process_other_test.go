// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package e2e

import "syscall"

func sysProcAttr() *syscall.SysProcAttr { return nil }
