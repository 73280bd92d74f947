// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package journaltest writes journals of systemd for tests, with systemd's own
// tool, so that the real journalctl reads them.
package journaltest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/debian"
)

// writer makes a journal of text in the journal's export format.
const writer = "/lib/systemd/systemd-journal-remote"

// Cure is what to do where the tools are missing.
const Cure = "install journalctl and systemd-journal-remote, on Debian: apt-get install systemd-journal-remote"

// Install installs what Write needs. It needs Debian and root, and does nothing
// where it is there.
func Install(ctx context.Context, log io.Writer) error {
	if find() == nil {
		return nil
	}
	if debian.CanInstall() {
		if err := debian.Install(ctx, log, "systemd-journal-remote"); err != nil {
			return fmt.Errorf("install systemd-journal-remote: %w: %s", err, Cure)
		}
	}
	return find()
}

func find() error {
	if _, err := os.Stat(writer); err != nil {
		return fmt.Errorf("%w: %s", err, Cure)
	}
	if _, err := exec.LookPath("journalctl"); err != nil {
		return fmt.Errorf("%w: %s", err, Cure)
	}
	return nil
}

// Write writes a journal into the folder: the lines of one process of a unit,
// each a millisecond after the one before, the last at the time given.
func Write(ctx context.Context, folder, unit string, pid int, lines []string, last time.Time) error {
	if err := find(); err != nil {
		return err
	}
	var export bytes.Buffer
	for i, line := range lines {
		at := last.Add(time.Duration(i-len(lines)+1) * time.Millisecond)
		for _, field := range []string{
			"__REALTIME_TIMESTAMP=" + strconv.FormatInt(at.UnixMicro(), 10),
			"__MONOTONIC_TIMESTAMP=" + strconv.Itoa(1_000_000+1000*i),
			"_BOOT_ID=" + strings.Repeat("a1", 16),
			"_TRANSPORT=stdout", "PRIORITY=6", "SYSLOG_IDENTIFIER=llama-server",
			"_PID=" + strconv.Itoa(pid),
			"_SYSTEMD_UNIT=" + unit,
			"MESSAGE=" + line,
			"",
		} {
			export.WriteString(field + "\n")
		}
	}
	cmd := exec.CommandContext(ctx, writer, "-o", filepath.Join(folder, "test.journal"), "-")
	cmd.Stdin = &export
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", writer, err, output)
	}
	return nil
}
