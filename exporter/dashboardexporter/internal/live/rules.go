// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"slices"
	"strconv"
)

type ruleJSON struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Priority int    `json:"priority"`
	Instance string `json:"instance"`
	Summary  string `json:"summary"`
	Cure     string `json:"cure"`
	Runbook  string `json:"runbook"`
	Since    int64  `json:"since"`
}

// rules returns the rules that fire and concern the view: bottlenecks first, the
// most important at the front.
func (h *Hub) rules(v view, servers []serverJSON) []ruleJSON {
	list := []ruleJSON{}
	for _, r := range h.settings.Rules.Active() {
		if !concerns(v, servers, r.Labels["instance"], r.Labels["hw_id"]) {
			continue
		}
		priority, _ := strconv.Atoi(r.Labels["priority"])
		list = append(list, ruleJSON{
			Name: r.Name, Kind: r.Labels["kind"], ID: r.Labels["bottleneck"], Severity: r.Labels["severity"], Priority: priority,
			Instance: r.Labels["instance"], Summary: r.Annotations["summary"], Cure: r.Annotations["cure"],
			Runbook: r.Annotations["runbook_url"], Since: r.Since.UnixMilli(),
		})
	}
	slices.SortStableFunc(list, func(a, b ruleJSON) int {
		return cmp.Or(
			-cmp.Compare(a.Kind, b.Kind), // "bottleneck" after "alert" in the alphabet
			cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(severity(a.Severity), severity(b.Severity)),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Instance, b.Instance),
			cmp.Compare(a.Summary, b.Summary),
		)
	})
	return list
}

func severity(s string) int { return slices.Index([]string{"critical", "warning", "info"}, s) }

// concerns says whether something with these labels belongs to a view: its server,
// its GPUs, and what belongs to no server, such as a run of the load generator.
func concerns(v view, servers []serverJSON, instance, gpu string) bool {
	if gpu != "" && len(v.gpus) > 0 && !slices.Contains(v.gpus, gpu) {
		return false
	}
	if v.server == "" || instance == "" || instance == v.server {
		return true
	}
	return !slices.ContainsFunc(servers, func(s serverJSON) bool { return s.ID == instance })
}
