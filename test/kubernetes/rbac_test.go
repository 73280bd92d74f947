// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// agent is a kubeconfig with the token of the agent's own service account.
func agent(t *testing.T) string {
	t.Helper()
	daemonSet := find(t, built(t, manifests+"/overlays/minimal"), "DaemonSet/otelcol-llamacpp-agent")
	account := daemonSet.text("spec", "template", "spec", "serviceAccountName")
	token := strings.TrimSpace(kubectl(t, nil, "create", "token", account, "--namespace", daemonSet.text("metadata", "namespace")))
	file, err := cluster.Kubeconfig("agent", token)
	require.NoError(t, err)
	return file
}

func TestAgent_MaySeePodsAndNothingElse(t *testing.T) {
	kubeconfig := agent(t)
	as := func(args ...string) error {
		_, err := cluster.KubectlAs(t.Context(), kubeconfig, nil, args...)
		return err
	}
	for _, needed := range []string{
		"get --raw /api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1",
		"get --raw /api/v1/pods?watch=true&timeoutSeconds=1",
	} {
		require.NoError(t, as(strings.Fields(needed)...), needed)
	}
	for _, other := range []string{
		"get --raw /api/v1/namespaces/observability/pods/any",
		"get --raw /api/v1/namespaces/observability/pods/any/log",
		"get secrets --all-namespaces",
		"get configmaps --namespace observability",
		"get nodes",
		"get services --all-namespaces",
		"get namespaces",
		"get deployments.apps --all-namespaces",
		"delete pod any --namespace llama",
		"create configmap mine --namespace observability",
		"create token otelcol-llamacpp-agent --namespace observability",
		"get clusterroles",
	} {
		assert.ErrorContains(t, as(strings.Fields(other)...), "orbidden", other) // with a small letter or a capital one
	}
}

// Nobody else gets rights.
func TestRBAC_OnlyTheAgentHasRights(t *testing.T) {
	for _, folder := range overlays(t) {
		for _, o := range built(t, folder) {
			switch o.text("kind") {
			case "Role", "RoleBinding":
				assert.Fail(t, o.name())
			case "ClusterRoleBinding":
				assert.Equal(t, []any{map[string]any{"kind": "ServiceAccount", "name": "otelcol-llamacpp-agent", "namespace": "observability"}}, o.at("subjects"))
			case "ClusterRole":
				assert.Equal(t, []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{"list", "watch"}}}, o.at("rules"))
			}
		}
	}
}
