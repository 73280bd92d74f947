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

// rules returns the rules that fire: bottlenecks first, the most important at the
// front. Of other servers, which a page has in its table, it is the alerts and the
// name of the first bottleneck. What belongs to no server, such as the alert of a
// GPU, has no instance.
func (h *Hub) rules(v view, servers []serverJSON) []ruleJSON {
	list := []ruleJSON{}
	for _, r := range h.settings.Rules.Active() {
		instance := r.Labels["instance"]
		if !slices.ContainsFunc(servers, func(s serverJSON) bool { return s.ID == instance }) {
			instance = ""
		}
		if gpu := r.Labels["hw_id"]; instance == "" && gpu != "" && len(v.gpus) > 0 && !slices.Contains(v.gpus, gpu) {
			continue
		}
		priority, _ := strconv.Atoi(r.Labels["priority"])
		list = append(list, ruleJSON{
			Name: r.Name, Kind: r.Labels["kind"], ID: r.Labels["bottleneck"], Severity: r.Labels["severity"], Priority: priority,
			Instance: instance, Summary: r.Annotations["summary"], Cure: r.Annotations["cure"],
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
	kept := list[:0]
	limited := map[string]bool{} // other servers that have their bottleneck
	for _, r := range list {
		if r.Kind == "bottleneck" && r.Instance != "" && r.Instance != v.server {
			if limited[r.Instance] {
				continue
			}
			limited[r.Instance] = true
			r.Summary, r.Cure, r.Runbook = "", "", "" // their numbers change all the time
		}
		kept = append(kept, r)
	}
	return kept
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
