// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package child

import "syscall"

func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// killGroup ends what is left of a process group.
func killGroup(id int) error { return syscall.Kill(-id, syscall.SIGKILL) }
