// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
)

const ruleManifest = `# Copyright The otelcol-llamacpp Authors
# SPDX-License-Identifier: Apache-2.0

# Made from dashboards/rules.yaml by go generate ./dashboards.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: otelcol-llamacpp
  namespace: observability
  labels:
    app.kubernetes.io/part-of: otelcol-llamacpp
spec:
`

// prometheusRule writes the rules as the Prometheus operator takes them. The
// comments stay.
func prometheusRule(file string) error {
	rules, err := os.ReadFile("rules.yaml")
	if err != nil {
		return err
	}
	begin := bytes.Index(rules, []byte("\ngroups:\n"))
	if begin < 0 {
		return errors.New("rules.yaml has no line groups")
	}
	text := bytes.NewBufferString(ruleManifest)
	for line := range bytes.Lines(rules[begin+1:]) {
		if len(bytes.TrimSpace(line)) > 0 {
			text.WriteString("  ")
		}
		text.Write(line)
	}
	return os.WriteFile(file, text.Bytes(), 0o644) //nolint:gosec // to be read by all
}
