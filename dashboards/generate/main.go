// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command generate makes Grafana's dashboards and the list of panels in
// docs/dashboards.md from the catalogue, and the manifest of the rules for the
// Prometheus operator. It runs in the folder dashboards.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

func main() {
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate() error {
	c, err := dashboards.Load()
	if err != nil {
		return err
	}
	for name, dashboard := range grafana(c) {
		if err := writeJSON(filepath.Join("grafana", "import", name+".json"), dashboard.forImport()); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join("grafana", "provisioning", "dashboards", "llamacpp", name+".json"), dashboard.forProvisioning()); err != nil {
			return err
		}
	}
	if err := prometheusRule(filepath.Join("..", "deploy", "kubernetes", "components", "prometheus-operator", "prometheusrule.yaml")); err != nil {
		return err
	}
	return document(c, filepath.Join("..", "docs", "dashboards.md"))
}

func writeJSON(file string, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644) //nolint:gosec // to be read by all
}
