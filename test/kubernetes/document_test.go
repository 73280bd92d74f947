// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the document says to type, in its order.
func TestDocument_CommandsWork(t *testing.T) {
	text, err := os.ReadFile("../../docs/kubernetes.md")
	require.NoError(t, err)
	kubectl(t, []byte(`{apiVersion: v1, kind: Namespace, metadata: {name: my-namespace}}`), "apply", "-f", "-")
	kubectl(t, []byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: my-llama-server, namespace: my-namespace}
spec:
  selector: {matchLabels: {app: mine}}
  template:
    metadata: {labels: {app: mine}}
    spec: {containers: [{name: llama-server, image: mine}]}
`), "apply", "-f", "-")
	ran := 0
	for _, fence := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		for line := range strings.Lines(strings.ReplaceAll(string(fence[1]), "\\\n", "")) {
			if !strings.HasPrefix(line, "kubectl ") || strings.Contains(line, "rollout status") || strings.Contains(line, "port-forward") {
				continue // those two want nodes
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
			cmd.Dir = "../.."
			cmd.Env = append(os.Environ(), cluster.Environment()...)
			cmd.Env = append(cmd.Env, "KEY=secret")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s%s", line, out)
			ran++
		}
	}
	assert.Equal(t, 5, ran)
	assert.Equal(t, "true", kubectl(t, nil, "get", "deployment", "my-llama-server", "--namespace=my-namespace",
		"--output=jsonpath={.spec.template.metadata.annotations.llamacpp\\.io/scrape}"))
}

// The beginning of an overlay of one's own, with the clone in the place of GitHub.
func TestDocument_OverlayBuilds(t *testing.T) {
	text, err := os.ReadFile("../../docs/kubernetes.md")
	require.NoError(t, err)
	overlay := regexp.MustCompile("(?s)```yaml\n(resources:.*?)```").FindSubmatch(text)
	require.NotNil(t, overlay)
	dir := t.TempDir()
	here, err := filepath.Abs("../..")
	require.NoError(t, err)
	relative, err := filepath.Rel(dir, here)
	require.NoError(t, err)
	local := regexp.MustCompile(`https://github[.]com/llamatelemetry/otelcol-llamacpp//(\S+)\?ref=\S+`).ReplaceAll(overlay[1], []byte(relative+"/$1"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), local, 0o600))
	agent := find(t, built(t, dir), "DaemonSet/otelcol-llamacpp-agent")
	assert.Equal(t, "nvidia", agent.text("spec", "template", "spec", "runtimeClassName"))
}
