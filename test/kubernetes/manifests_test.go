// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/kubetest"
)

func TestOverlays_AreAcceptedByTheAPIServer(t *testing.T) {
	for _, folder := range overlays(t) {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			text, err := kubetest.Kustomize(t.Context(), folder)
			require.NoError(t, err)
			// Unknown fields are errors, and so is what the server warns of.
			out := kubectl(t, text, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
			assert.Equal(t, len(built(t, folder)), strings.Count(out, "serverside-applied"), out)
		})
	}
}

// The server would accept a typing error in a field that it does not know, were it
// not told to be strict.
func TestOverlays_AWrongManifestIsRefused(t *testing.T) {
	wrong := find(t, built(t, manifests+"/overlays/production"), "ScaledObject/llama-server")
	wrong.part("spec")["minReplicas"] = 1
	_, err := cluster.Kubectl(t.Context(), wrong.json(t), "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
	require.ErrorContains(t, err, "minReplicas")
}

// workloads are the manifests with a pod template.
func workloads(t *testing.T, folder string) []object {
	t.Helper()
	all := slices.DeleteFunc(built(t, folder), func(o object) bool { return o.at("spec", "template", "spec") == nil })
	require.NotEmpty(t, all)
	return all
}

// pod is what a controller would make of a workload.
func pod(workload object, namespace, name string) object {
	metadata := maps.Clone(workload.part("spec", "template", "metadata"))
	if metadata == nil {
		metadata = object{}
	}
	metadata["namespace"], metadata["name"] = namespace, name
	spec := maps.Clone(workload.part("spec", "template", "spec"))
	var volumes []any
	for _, v := range list(spec.at("volumes")) {
		volumes = append(volumes, v)
	}
	for _, claim := range list(workload.at("spec", "volumeClaimTemplates")) {
		name := claim.text("metadata", "name")
		volumes = append(volumes, map[string]any{"name": name, "persistentVolumeClaim": map[string]any{"claimName": name}})
	}
	spec["volumes"] = volumes
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any(metadata), "spec": map[string]any(spec)}
}

func list(v any) []object {
	items, _ := v.([]any)
	var all []object
	for _, item := range items {
		m, _ := item.(map[string]any)
		all = append(all, m)
	}
	return all
}

// Controllers create pods later, when nobody looks: what admission says of them is
// asked here.
func TestPods_AreAdmitted(t *testing.T) {
	kubectl(t, []byte(`{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: nvidia}, handler: nvidia}`), "apply", "-f", "-")
	kubectl(t, []byte(`{apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}}`), "apply", "-f", "-")
	for _, folder := range overlays(t) {
		for _, w := range workloads(t, folder) {
			t.Run(filepath.Base(folder)+"/"+w.name(), func(t *testing.T) {
				dryRun := []string{"create", "--dry-run=server", "-f", "-"}
				kubectl(t, pod(w, w.text("metadata", "namespace"), "one").json(t), dryRun...)

				_, err := cluster.Kubectl(t.Context(), pod(w, "strict", "one").json(t), dryRun...)
				if w.text("kind") == "DaemonSet" { // reads the node's files
					require.ErrorContains(t, err, `violates PodSecurity "restricted:latest"`)
					return
				}
				require.NoError(t, err)
			})
		}
	}
}

func TestContainers_HaveNoMoreThanTheyNeed(t *testing.T) {
	for _, folder := range overlays(t) {
		for _, w := range workloads(t, folder) {
			t.Run(filepath.Base(folder)+"/"+w.name(), func(t *testing.T) {
				spec := w.part("spec", "template", "spec")
				assert.Equal(t, "RuntimeDefault", spec.text("securityContext", "seccompProfile", "type"))
				assert.Equal(t, w.text("kind") == "DaemonSet", spec.at("automountServiceAccountToken"), "only the agent talks to the API server")
				for _, c := range list(spec.at("containers")) {
					assert.Equal(t, false, c.at("securityContext", "allowPrivilegeEscalation"))
					assert.Equal(t, true, c.at("securityContext", "readOnlyRootFilesystem"))
					assert.Equal(t, []any{"ALL"}, c.at("securityContext", "capabilities", "drop"))
					assert.Nil(t, c.at("securityContext", "privileged"))
					assert.NotNil(t, c.at("resources", "requests", "memory"))
					assert.NotNil(t, c.at("resources", "limits", "memory"))
					for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
						assert.NotNil(t, c.at(probe, "httpGet", "path"), probe)
					}
					assert.NotRegexp(t, `(:latest|^[^:]+)$`, c.text("image"), "a version")
				}
			})
		}
	}
}

// The collectors' image and its version are said in one place.
func TestImages_AreSetInOnePlace(t *testing.T) {
	dir := t.TempDir()
	path, err := filepath.Abs(manifests)
	require.NoError(t, err)
	relative, err := filepath.Rel(dir, path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(`
resources: ["`+relative+`/collector"]
images: [{name: ghcr.io/llamatelemetry/otelcol-llamacpp, newName: registry.example.com/otelcol-llamacpp, newTag: 9.9.9}]
`), 0o600))
	for _, w := range workloads(t, dir) {
		assert.Equal(t, "registry.example.com/otelcol-llamacpp:9.9.9", w.text("spec", "template", "spec", "containers", 0, "image"))
	}
}

// configurations writes a workload's configurations to files, as its config map
// holds them, and returns the files in the order in which its arguments name them.
func configurations(t *testing.T, all []object, workload object) []string {
	t.Helper()
	spec := workload.part("spec", "template", "spec")
	data := find(t, all, "ConfigMap/"+spec.text("volumes", 0, "configMap", "name")).part("data")
	dir := t.TempDir()
	var files []string
	args, _ := spec.at("containers", 0, "args").([]any)
	for _, arg := range args {
		file, found := strings.CutPrefix(arg.(string), "--config=")
		require.True(t, found, arg)
		require.Equal(t, spec.text("containers", 0, "volumeMounts", 0, "mountPath"), filepath.Dir(file))
		text := data.text(filepath.Base(file))
		require.NotEmpty(t, text, file)
		path := filepath.Join(dir, filepath.Base(file))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		files = append(files, path)
	}
	require.NotEmpty(t, files)
	return files
}

// variable is one that a configuration takes and that has no default there.
var variable = regexp.MustCompile(`\$\{env:(\w+)\}`)

func TestConfigurations_AreAccepted(t *testing.T) {
	program := collectortest.Program(t)
	for _, folder := range overlays(t) {
		all := built(t, folder)
		for _, w := range all {
			if kind := w.text("kind"); kind != "DaemonSet" && kind != "StatefulSet" {
				continue
			}
			t.Run(filepath.Base(folder)+"/"+w.name(), func(t *testing.T) {
				env := map[string]string{}
				for _, v := range list(w.at("spec", "template", "spec", "containers", 0, "env")) {
					env[v.text("name")] = v.text("value")
					if v.at("valueFrom") != nil {
						env[v.text("name")] = "127.0.0.9"
					}
				}
				args := []string{"validate"}
				for _, file := range configurations(t, all, w) {
					text, err := os.ReadFile(file)
					require.NoError(t, err)
					for _, v := range variable.FindAllStringSubmatch(string(text), -1) {
						assert.Contains(t, env, v[1], "the container has no such variable")
					}
					args = append(args, "--config", file)
				}
				cmd := exec.CommandContext(t.Context(), program, args...)
				for name, value := range env {
					cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s", name, value))
				}
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				assert.NotContains(t, string(out), "warn", "deprecated settings and unset variables")
			})
		}
	}
}

func TestPrometheusRule_HasTheRules(t *testing.T) {
	text, err := os.ReadFile("../../dashboards/rules.yaml")
	require.NoError(t, err)
	var rules map[string]any
	require.NoError(t, yaml.Unmarshal(text, &rules))
	manifest := find(t, built(t, manifests+"/overlays/production"), "PrometheusRule/otelcol-llamacpp")
	assert.Equal(t, rules["groups"], manifest.at("spec", "groups"))
}

// Names that one manifest has from another.
func TestManifests_FitTogether(t *testing.T) {
	all := built(t, manifests+"/overlays/production")
	for _, o := range all {
		switch o.text("kind") {
		case "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor":
			t.Run(o.name(), func(t *testing.T) {
				selector := o.part("spec", "selector", "matchLabels")
				switch o.text("kind") {
				case "Service":
					selector = o.part("spec", "selector")
				case "NetworkPolicy":
					selector = o.part("spec", "podSelector", "matchLabels")
				}
				require.NotEmpty(t, selector)
				ports := map[string]bool{}
				selected := 0
				for _, w := range workloads(t, manifests+"/overlays/production") {
					if w.text("metadata", "namespace") != o.text("metadata", "namespace") {
						continue
					}
					labels := w.part("spec", "template", "metadata", "labels")
					if !includes(labels, selector) {
						continue
					}
					selected++
					for _, port := range list(w.at("spec", "template", "spec", "containers", 0, "ports")) {
						ports[port.text("name")] = true
					}
				}
				assert.Positive(t, selected, "it selects no pod")
				for _, p := range list(o.at("spec", "ports")) {
					assert.Contains(t, ports, p.text("targetPort"))
				}
				for _, p := range list(o.at("spec", "podMetricsEndpoints")) {
					assert.Contains(t, ports, p.text("port"))
				}
				for _, rule := range list(o.at("spec", "ingress")) {
					for _, p := range list(rule.at("ports")) {
						assert.Contains(t, ports, p.text("port"))
					}
				}
			})
		}
	}
}

func includes(labels, selector object) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
