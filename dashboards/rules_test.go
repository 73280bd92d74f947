// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

func TestRules_PromtoolAgrees(t *testing.T) {
	if testing.Short() {
		t.Skip("runs promtool")
	}
	folder, err := promtest.Programs.Find(t.Context())
	require.NoError(t, err)
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"},
		{"test", "rules", "rules_test.yaml"},
	} {
		output, err := exec.CommandContext(t.Context(), filepath.Join(folder, "promtool"), args...).CombinedOutput()
		require.NoError(t, err, "promtool %s:\n%s", strings.Join(args, " "), output)
	}
}

func alertingRules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	file, errs := rulefmt.Parse(Rules(), false, model.UTF8Validation, promqlParser, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	var all []rulefmt.Rule
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if rule.Alert != "" {
				all = append(all, rule)
			}
		}
	}
	return all
}

func TestRules_SayWhatIsWrongAndWhatToDo(t *testing.T) {
	names, ids, priorities := map[string]bool{}, map[string]bool{}, map[int]bool{}
	for _, rule := range alertingRules(t) {
		assert.False(t, names[rule.Alert], "%s: twice", rule.Alert)
		names[rule.Alert] = true
		sentences := []string{"summary", "cure"}
		switch rule.Labels["kind"] {
		case "bottleneck":
			id := rule.Labels["bottleneck"]
			assert.Equal(t, "LlamaBottleneck"+strings.ToUpper(id[:1])+id[1:], rule.Alert)
			assert.False(t, ids[id], "%s: the bottleneck %s is another's, too", rule.Alert, id)
			ids[id] = true
			priority, err := strconv.Atoi(rule.Labels["priority"])
			require.NoError(t, err, rule.Alert)
			assert.False(t, priorities[priority], "%s: the priority %d is another's, too", rule.Alert, priority)
			priorities[priority] = true
		case "alert":
			assert.Contains(t, []string{"info", "warning", "critical"}, rule.Labels["severity"], rule.Alert)
			sentences = append(sentences, "description")
		default:
			assert.Failf(t, "of no kind", "%s: %v", rule.Alert, rule.Labels)
		}
		for _, name := range sentences {
			assert.Regexp(t, `[.?}]$`, rule.Annotations[name], "%s: %s", rule.Alert, name)
		}
		assert.Contains(t, rule.Annotations["summary"], "{{", "%s: a summary says how much, or which", rule.Alert)
		for name := range rule.Annotations {
			assert.Contains(t, append(sentences, "runbook_url"), name, rule.Alert)
		}
	}
	assert.Equal(t, map[string]bool{
		"heat": true, "queue": true, "state": true, "memory": true, "context": true, "cache": true, "power": true,
		"compute": true, "bandwidth": true, "host": true, "nothing": true,
	}, ids)
}

// Each rule fires in one case of rules_test.yaml and is silent in another.
func TestRules_EachFiresInATestAndIsSilentInAnother(t *testing.T) {
	file, err := os.ReadFile("rules_test.yaml")
	require.NoError(t, err)
	var cases struct {
		Tests []struct {
			Name  string
			Rules []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	require.NoError(t, yaml.Unmarshal(file, &cases))
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range cases.Tests {
		for _, rule := range test.Rules {
			if len(rule.Expect) > 0 {
				fires[rule.Alert] = true
			} else {
				silent[rule.Alert] = true
			}
		}
	}
	for _, rule := range alertingRules(t) {
		assert.True(t, fires[rule.Alert], "%s: fires in no test", rule.Alert)
		assert.True(t, silent[rule.Alert], "%s: is silent in no test", rule.Alert)
	}
}

// Each rule has a paragraph of docs/alerts.md, to which its runbook_url leads.
func TestRules_HaveARunbook(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("..", "docs", "alerts.md"))
	require.NoError(t, err)
	sections := map[string]string{}
	for _, match := range regexp.MustCompile(`(?ms)^### (\w+)\n\n(.+?)(?:\n\n|\z)`).FindAllStringSubmatch(string(file), -1) {
		assert.Empty(t, sections[match[1]], "%s: twice", match[1])
		sections[match[1]] = match[2]
	}
	for _, rule := range alertingRules(t) {
		assert.NotEmpty(t, sections[rule.Alert], "docs/alerts.md says nothing of %s", rule.Alert)
		delete(sections, rule.Alert)
		assert.Equal(t, "https://github.com/llamatelemetry/otelcol-llamacpp/blob/main/docs/alerts.md#"+strings.ToLower(rule.Alert), rule.Annotations["runbook_url"])
	}
	assert.Empty(t, sections, "paragraphs of docs/alerts.md without a rule")
}
