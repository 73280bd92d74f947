// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package pagetools installs what the tests of the live page need: Node and npm for
// its modules, and Chromium, which shows it.
package pagetools

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/test/debian"
)

// Cure is what to do where a tool is missing.
const Cure = "go run ./test/cmd/install-page-tools"

// tools are programs, and the packages of Debian that have them.
var tools = []struct{ program, debian string }{
	{"node", "nodejs"},
	{"npm", "npm"},
	{"chromium", "chromium"},
}

// Find returns the path of a tool.
func Find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, Cure)
	}
	return path, nil
}

// Install installs the tools that are missing. It needs Debian and root, unless
// there is nothing to do.
func Install(ctx context.Context, log io.Writer) error {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing = append(missing, tool.debian)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !debian.CanInstall() {
		return fmt.Errorf("install %s: only root on Debian can: install Node 20 with npm, and Chromium, so that node, npm and chromium are on PATH",
			strings.Join(missing, " and "))
	}
	for _, name := range missing {
		if err := debian.Install(ctx, log, name); err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
	}
	return nil
}
