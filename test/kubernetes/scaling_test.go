// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func scaledObject(t *testing.T, overlay string) object {
	t.Helper()
	return find(t, built(t, manifests+"/overlays/"+overlay), "ScaledObject/llama-server")
}

// target is how many requests a server is to have.
func target(t *testing.T) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(scaledObject(t, "production").text("spec", "triggers", 0, "metadata", "threshold"), 64)
	require.NoError(t, err)
	return v
}

func number(t *testing.T, v any) int {
	t.Helper()
	n, ok := v.(int)
	require.True(t, ok, "%v is no whole number", v)
	return n
}

// shipped is the autoscaler that KEDA makes of the ScaledObject.
func shipped(t *testing.T) *autoscaler {
	t.Helper()
	o := scaledObject(t, "production")
	behavior := o.part("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
	up, down := behavior.part("scaleUp"), behavior.part("scaleDown")
	a := &autoscaler{
		target:     target(t),
		least:      number(t, o.at("spec", "minReplicaCount")),
		most:       number(t, o.at("spec", "maxReplicaCount")),
		upWindow:   time.Duration(number(t, up.at("stabilizationWindowSeconds"))) * time.Second,
		downWindow: time.Duration(number(t, down.at("stabilizationWindowSeconds"))) * time.Second,
	}
	for _, p := range append(list(up.at("policies")), list(down.at("policies"))...) {
		require.Equal(t, policyPeriod, time.Duration(number(t, p.at("periodSeconds")))*time.Second)
	}
	for _, p := range list(up.at("policies")) {
		switch p.text("type") {
		case "Pods":
			a.upPods = number(t, p.at("value"))
		case "Percent":
			a.upPercent = number(t, p.at("value"))
		}
	}
	require.Len(t, list(down.at("policies")), 1)
	a.downPods = number(t, down.at("policies", 0, "value"))
	return a
}

// The three ways to scale are one.
func TestScaling_IsTheSameByAllWays(t *testing.T) {
	keda, prometheus := scaledObject(t, "production"), scaledObject(t, "keda-prometheus")
	assert.Equal(t, keda.at("spec", "advanced"), prometheus.at("spec", "advanced"))
	assert.Equal(t, keda.text("spec", "triggers", 0, "metadata", "threshold"), prometheus.text("spec", "triggers", 0, "metadata", "threshold"))
	query := prometheus.text("spec", "triggers", 0, "metadata", "query")
	assert.Equal(t, strings.ReplaceAll(keda.text("spec", "triggers", 0, "metadata", "query"), "[30s]", "[1m]"), query)

	hpa := find(t, built(t, manifests+"/overlays/hpa"), "HorizontalPodAutoscaler/llama-server")
	assert.Equal(t, keda.at("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior"), hpa.at("spec", "behavior"))
	assert.Equal(t, keda.at("spec", "minReplicaCount"), hpa.at("spec", "minReplicas"))
	assert.Equal(t, keda.at("spec", "maxReplicaCount"), hpa.at("spec", "maxReplicas"))
	external := hpa.part("spec", "metrics", 0, "external")
	assert.Equal(t, keda.text("spec", "triggers", 0, "metadata", "threshold"), external.text("target", "averageValue"))

	text, err := os.ReadFile(manifests + "/scaling/hpa/prometheus-adapter.yaml")
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, yaml.Unmarshal(text, &values))
	adapter := object(values)
	assert.Equal(t, query, adapter.text("rules", "external", 0, "metricsQuery"))
	assert.Equal(t, external.text("metric", "name"), adapter.text("rules", "external", 0, "name", "as"))
}

// The model's figures are those of the example's Deployment.
func TestScaling_TheModelIsOfTheDeployment(t *testing.T) {
	spec := find(t, built(t, manifests+"/overlays/production"), "Deployment/llama-server").part("spec", "template", "spec")
	assert.Contains(t, spec.at("containers", 0, "args"), fmt.Sprintf("--parallel=%d", slots))
	assert.Equal(t, grace, time.Duration(number(t, spec.at("containers", 0, "lifecycle", "preStop", "sleep", "seconds")))*time.Second)
	assert.Greater(t, time.Duration(number(t, spec.at("terminationGracePeriodSeconds")))*time.Second, grace)
	assert.Contains(t, scaledObject(t, "production").text("spec", "triggers", 0, "metadata", "query"), fmt.Sprintf("[%.0fs]", window.Seconds()))
}

// Five waves: up once, down once, and nothing in between.
func TestScaling_FollowsTheLoadWithoutFlapping(t *testing.T) {
	a := shipped(t)
	o := trial{scaler: a, metric: all}.play(loadRecording(t))
	t.Logf("%+v", a.moved)
	assert.Equal(t, 1, o.turns, "up, and down")
	assert.Greater(t, o.soonest, 5*time.Minute)
	assert.Less(t, o.drained, 30*time.Second, "the queue drains")
	assert.Less(t, o.waitP95, time.Minute)
	assert.Zero(t, o.cut, "no request is cut off by a server that leaves")
	assert.Equal(t, a.least, o.end)
}

// What the shipped settings are better than. Each of these has what it lacks.
func TestScaling_OtherSettingsAreWorse(t *testing.T) {
	outcomes := map[string]outcome{}
	for _, n := range trials(t) {
		outcomes[n.name] = n.play(loadRecording(t))
	}
	best := outcomes[asShipped]
	for name, o := range outcomes {
		assert.Zero(t, o.cut, name)
	}
	assert.Greater(t, outcomes["no scaling: one server"].waitP95, 10*best.waitP95)
	assert.Greater(t, outcomes["only requests that wait, 1 a server"].turns, best.turns)
	assert.Greater(t, outcomes["no window before servers leave"].turns, best.turns)
	assert.Greater(t, outcomes["five minutes' window"].turns, best.turns)
	assert.Greater(t, outcomes["one server at least"].waitP95, 2*best.waitP95)
	assert.Greater(t, outcomes["2 requests a server"].replicaMinutes, best.replicaMinutes)
	assert.LessOrEqual(t, outcomes["a proxy that chooses the least busy server"].waited, best.waited)
}

const asShipped = "**as shipped**"

// named is a trial in the document.
type named struct {
	name string
	trial
}

// trials are what was tried, in the order of docs/kubernetes.md's table.
func trials(t *testing.T) []named {
	t.Helper()
	with := func(change func(*autoscaler)) trial {
		a := shipped(t)
		change(a)
		return trial{scaler: a, metric: all}
	}
	waiting := with(func(a *autoscaler) { a.target = 1 })
	waiting.metric = func(_, deferred int) float64 { return float64(deferred) }
	proxy := trial{scaler: shipped(t), metric: all, leastBusy: true}
	return []named{
		{"no scaling: one server", trial{}},
		{asShipped, trial{scaler: shipped(t), metric: all}},
		{"a proxy that chooses the least busy server", proxy},
		{"one server at least", with(func(a *autoscaler) { a.least = 1 })},
		{"only requests that wait, 1 a server", waiting},
		{"2 requests a server", with(func(a *autoscaler) { a.target = 2 })},
		{"4 requests a server, all its slots", with(func(a *autoscaler) { a.target = 4 })},
		{"no window before servers leave", with(func(a *autoscaler) { a.downWindow = 0 })},
		{"five minutes' window", with(func(a *autoscaler) { a.downWindow = 5 * time.Minute })},
		{"up by as many at once as the formula says", with(func(a *autoscaler) { a.upPods, a.upPercent = 0, 0 })},
		{"up by one a minute", with(func(a *autoscaler) { a.upPods, a.upPercent = 1, 0 })},
	}
}

// The document's table is what comes out; UPDATE=1 rewrites it.
func TestScaling_TheDocumentHasTheResults(t *testing.T) {
	const document, begin, end = "../../docs/kubernetes.md", "<!-- begin results: UPDATE=1 go test ./test/kubernetes -run Scaling -->\n", "<!-- end results -->"
	var table strings.Builder
	table.WriteString("| | servers at most | changes | turns | server minutes | 95 % wait less than | longest wait |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, n := range trials(t) {
		o := n.play(loadRecording(t))
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %.0f | %.0f s | %.0f s |\n", n.name, o.most, o.changes, o.turns,
			o.replicaMinutes, o.waitP95.Seconds(), o.waited.Seconds())
	}
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found, begin)
	_, after, found := strings.Cut(rest, end)
	require.True(t, found, end)
	want := before + begin + table.String() + end + after
	if os.Getenv("UPDATE") == "1" {
		require.NoError(t, os.WriteFile(document, []byte(want), 0o600))
		return
	}
	assert.Equal(t, want, string(text))
}
