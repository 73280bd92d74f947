// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package alertmanagertest runs a real Alertmanager for tests: it builds the
// version that tools/alertmanager pins, and starts and ends the process.
package alertmanagertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pinned"
)

// Programs are alertmanager and amtool.
var Programs = pinned.Programs{
	Name: "Alertmanager", Folder: "alertmanager",
	Module: "github.com/prometheus/alertmanager", Packages: []string{"cmd/alertmanager", "cmd/amtool"},
	// Its pages are built with Node for a release and are not in the module.
	Lacking: map[string]string{"ui/app/dist/index.html": "<!doctype html><title>Alertmanager without pages</title>\n"},
	Cure:    "go run ./test/cmd/install-alertmanager",
}

const stopTimeout = 20 * time.Second

// Start runs an Alertmanager with a configuration until the end of the test,
// and returns its host and port.
func Start(tb testing.TB, config string) (address string) {
	tb.Helper()
	folder, err := Programs.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	file := filepath.Join(dir, "alertmanager.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", freeport.For(tb))
	var log child.Output
	process, err := child.Start(exec.Command(filepath.Join(folder, "alertmanager"), "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--cluster.listen-address="), &log)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := process.Terminate(stopTimeout); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("Alertmanager's log:\n%s", log.String())
		}
	})
	Programs.AwaitReady(tb, process, &log, "http://"+address+"/-/ready")
	return address
}

// CheckConfig has amtool check a configuration file.
func CheckConfig(tb testing.TB, file string) {
	tb.Helper()
	folder, err := Programs.Find(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	out, err := exec.CommandContext(tb.Context(), filepath.Join(folder, "amtool"), "check-config", file).CombinedOutput()
	if err != nil {
		tb.Errorf("amtool check-config %s: %v\n%s", file, err, out)
	}
}
