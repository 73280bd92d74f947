// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
)

// setPriority gives all threads of a process a nice value, and with them those that
// they start.
func setPriority(pid, nice int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(filepath.Base(thread))
		if err != nil {
			return err
		}
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, id, nice); err != nil {
			return fmt.Errorf("priority of %s: %w", thread, err)
		}
	}
	return nil
}
