// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

// object is one of JSON.
type object = map[string]any

// dashboard is one of Grafana's, without what differs between its two forms.
type dashboard object

// source is Grafana's reference to the data source: in the form for import it is
// an input that is asked for, when provisioned it is a variable of that name.
const source = "DS_PROMETHEUS"

func dataSource() object { return object{"type": "prometheus", "uid": "${" + source + "}"} }

// forImport is for Grafana's page "Import dashboard", which asks for the data source.
func (d dashboard) forImport() object {
	o := maps.Clone(object(d))
	o["__inputs"] = []object{{
		"name": source, "label": "Prometheus", "description": "A Prometheus with the collector's metrics, or the collector's own, http://localhost:9465",
		"type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus",
	}}
	// Only what comes with Grafana.
	requires := []object{
		{"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.0.0"},
		{"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
	}
	types := map[string]bool{}
	for _, p := range d["panels"].([]object) {
		types[p["type"].(string)] = true
	}
	names := map[string]string{"stat": "Stat", "state-timeline": "State timeline", "table": "Table", "timeseries": "Time series"}
	for _, id := range slices.Sorted(maps.Keys(types)) {
		if id != "row" {
			requires = append(requires, object{"type": "panel", "id": id, "name": names[id], "version": ""})
		}
	}
	o["__requires"] = requires
	return o
}

// forProvisioning is for Grafana's provisioning, which asks nothing: the data
// source is a variable.
func (d dashboard) forProvisioning() object {
	o := maps.Clone(object(d))
	list := o["templating"].(object)["list"].([]object)
	o["templating"] = object{"list": append([]object{{
		"name": source, "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0,
		"current": object{"text": "", "value": ""}, "options": []object{}, "refresh": 1, "regex": "", "multi": false, "includeAll": false, "skipUrlSync": false,
	}}, list...)}
	return o
}

// grafana makes the dashboards.
func grafana(c *dashboards.Catalogue) map[string]dashboard {
	return map[string]dashboard{
		"fleet": fleet(c), "server": server(c), "gpus": gpus(c), "load": load(c),
	}
}

func fleet(c *dashboards.Catalogue) dashboard {
	b := newBoard(c, "fleet", "llama.cpp servers", "All servers, one row each, and beside each other.")
	b.variables(model(), servers(true), gpu())
	b.overview()
	b.row("Beside each other")
	for _, id := range []string{"token-rate", "queue", "wait", "first-token", "token-time-live", "context", "cache", "response-time"} {
		p := b.find(id)
		if p.Draw == "percentiles" { // of many servers, three lines each would be too many
			p.Title, p.Queries = p.Title+", P95", p.Queries[1:2]
		}
		p.Queries = slices.Clone(p.Queries)
		for i := range p.Queries {
			p.Queries[i].Legend = "{{instance}} " + p.Queries[i].Legend
		}
		b.panel(p)
	}
	b.row("State")
	state := b.find("server-state")
	state.Queries = []dashboards.Query{{Expr: state.Queries[0].Expr + " == 1", Legend: "{{instance}} {{llamacpp_server_state}}"}}
	b.panel(state)
	return b.done()
}

func server(c *dashboards.Catalogue) dashboard {
	b := newBoard(c, "server", "llama.cpp server", "One server: what limits it, how fast, how long, how full.")
	b.variables(model(), servers(false), gpu())
	b.bottleneck()
	b.facts("model", "build", "state", "uptime", "slots", "restarts")
	b.tiles("rate", "wait", "first-token", "token-time", "context", "cache", "gpu", "power")
	for _, g := range c.Groups {
		if g.ID != "load" {
			b.group(g)
		}
	}
	return b.done()
}

func gpus(c *dashboards.Catalogue) dashboard {
	b := newBoard(c, "gpus", "GPUs of llama.cpp servers", "All GPUs, and what holds them back.")
	b.variables(model(), servers(true), gpu())
	b.tiles("gpu", "power")
	for _, g := range c.Groups {
		if g.ID == "gpu" {
			b.group(g)
		}
	}
	return b.done()
}

func load(c *dashboards.Catalogue) dashboard {
	b := newBoard(c, "load", "Load on llama.cpp servers", "Runs of the load generator, beside the server that they load.")
	b.variables(model(), servers(true), gpu(), run())
	b.tiles("slo", "rate", "wait", "gpu")
	for _, g := range c.Groups {
		if g.ID == "load" {
			b.group(g)
		}
	}
	b.row("The server meanwhile")
	for _, id := range []string{"token-rate", "slots", "queue", "request-time", "gpu-utilization", "gpu-power"} {
		b.panel(b.find(id))
	}
	return b.done()
}

// Variables, each of which asks only for what the ones before it leave.

func query(name, label, text string) object {
	return object{
		"name": name, "label": label, "type": "query", "hide": 0, "datasource": dataSource(),
		"definition": text, "query": object{"query": text, "refId": "variable-" + name}, "regex": "",
		"refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": "", "skipUrlSync": false,
		"current": object{"text": []string{"All"}, "value": []string{"$__all"}}, "options": []object{},
	}
}

func model() object {
	v := query("model", "Model", `label_values(target_info{llamacpp_model_name!=""}, llamacpp_model_name)`)
	v["allValue"] = ".*"
	return v
}

// servers are those that serve the model, and those of which no model is known
// as they do not answer.
func servers(several bool) object {
	v := query("server", "Server", `query_result(`+
		`group by (instance) (target_info{llamacpp_model_name=~"$model", llamacpp_model_name!=""}) or `+
		`group by (instance) (llamacpp_server_status unless on (instance) target_info{llamacpp_model_name!=""}))`)
	v["regex"] = `/instance="([^"]+)"/`
	if !several {
		v["multi"], v["includeAll"], v["current"] = false, false, object{"text": "", "value": ""}
	}
	return v
}

// gpu are those on which the servers hold memory; where that is not known, all.
func gpu() object {
	v := query("gpu", "GPU", `query_result(`+
		`group by (hw_id) (llamacpp_gpu_memory_usage_bytes{instance=~"$server"}) or `+
		`group by (hw_id) (hw_gpu_memory_limit_bytes unless on () llamacpp_gpu_memory_usage_bytes{instance=~"$server"}))`)
	v["regex"] = `/hw_id="([^"]+)"/`
	return v
}

func run() object {
	v := query("run", "Run", `label_values(loadgen_requests_in_flight{job="llamaload"}, instance)`)
	v["sort"] = 2 // the ids of runs begin with their time: the newest first
	v["allValue"] = ".+"
	return v
}

// Annotations.

func annotation(name, colour, expr, title, text string, enabled bool) object {
	return object{
		"name": name, "enable": enabled, "iconColor": colour, "datasource": dataSource(), "expr": expr, "step": "15s",
		"titleFormat": title, "textFormat": text, "tagKeys": "instance", "useValueForTime": false, "hide": false,
	}
}

func annotations() []object {
	return []object{
		{
			"builtIn": 1, "name": "Annotations & Alerts", "type": "dashboard", "enable": true, "hide": true, "iconColor": "rgba(0, 211, 255, 1)",
			"datasource": object{"type": "grafana", "uid": "-- Grafana --"},
		},
		annotation("Restarts", "purple", `resets(llamacpp_decode_calls_total{instance=~"$server"}[1m]) > 0`, "Restart", "{{instance}} has restarted", true),
		annotation("Alerts", "red", `ALERTS{kind="alert", alertstate="firing"}`, "{{alertname}}", "{{instance}} {{hw_id}}", true),
		annotation("Bottlenecks", "orange", `ALERTS{kind="bottleneck", alertstate="firing", bottleneck!="nothing", instance=~"$server"}`, "Bottleneck: {{bottleneck}}", "{{instance}}", false),
		annotation("Load runs", "blue", `loadgen_requests_in_flight{job="llamaload"} > 0`, "Load run", "{{instance}}", true),
	}
}

// board builds a dashboard from top to bottom. Grafana's grid has 24 columns.
type board struct {
	catalogue *dashboards.Catalogue
	json      object
	panels    []object
	x, y      int
	height    int // of the row that is being filled
	id        int
}

func newBoard(c *dashboards.Catalogue, uid, title, description string) *board {
	return &board{catalogue: c, json: object{
		"uid": "llamacpp-" + uid, "title": title, "description": description, "tags": []string{"llamacpp"},
		"timezone": "browser", "editable": true, "graphTooltip": 1, "schemaVersion": 39, "version": 1, "refresh": "5s",
		"time": object{"from": "now-15m", "to": "now"}, "timepicker": object{"refresh_intervals": []string{"1s", "5s", "10s", "30s", "1m", "5m"}},
		"annotations": object{"list": annotations()},
		"links": []object{{
			"title": "llama.cpp", "type": "dashboards", "icon": "external link", "tooltip": "", "tags": []string{"llamacpp"},
			"asDropdown": false, "targetBlank": false, "includeVars": true, "keepTime": true,
		}},
	}}
}

func (b *board) done() dashboard {
	b.json["panels"] = b.panels
	return dashboard(b.json)
}

func (b *board) variables(list ...object) { b.json["templating"] = object{"list": list} }

func (b *board) find(id string) dashboards.Panel {
	i := slices.IndexFunc(b.catalogue.Panels, func(p dashboards.Panel) bool { return p.ID == id })
	return b.catalogue.Panels[i]
}

// add places a panel beside the one before, or below where there is no room.
func (b *board) add(width, height int, panel object) {
	if b.x+width > 24 {
		b.x, b.y, b.height = 0, b.y+b.height, 0
	}
	b.id++
	panel["id"] = b.id
	panel["gridPos"] = object{"x": b.x, "y": b.y, "w": width, "h": height}
	b.panels = append(b.panels, panel)
	b.x, b.height = b.x+width, max(b.height, height)
}

// wrap begins a new line.
func (b *board) wrap() { b.x, b.y, b.height = 0, b.y+b.height, 0 }

func (b *board) row(title string) {
	b.wrap()
	b.add(24, 1, object{"type": "row", "title": title, "collapsed": false, "panels": []object{}})
}

func (b *board) group(g dashboards.Group) {
	b.row(g.Title)
	for _, p := range b.catalogue.Panels {
		if p.Group == g.ID {
			b.panel(p)
		}
	}
}

// units are Grafana's names of the catalogue's units.
var units = map[string]string{ //nolint:gosec // tokens of text, no secrets
	"tokens/s": "suffix: tok/s", "requests/s": "reqps", "bytes/s": "Bps", "requests": "short", "tokens": "short", "bytes": "bytes",
	"s": "s", "s/token": "s", "ratio": "percentunit", "celsius": "celsius", "watts": "watt", "joules/token": "joule", "hertz": "hertz", "count": "short",
}

func target(ref, expr, legend string) object {
	return object{"refId": ref, "datasource": dataSource(), "expr": expr, "legendFormat": legend, "editorMode": "code", "range": true, "instant": false}
}

func letter(i int) string { return string(rune('A' + i)) }

func steps(thresholds []dashboards.Threshold, base string) object {
	list := []object{{"value": nil, "color": base}}
	for _, t := range thresholds {
		list = append(list, object{"value": t.Value, "color": map[string]string{"warning": "orange", "critical": "red"}[t.Level]})
	}
	return object{"mode": "absolute", "steps": list}
}

func byRef(ref string, properties ...object) object {
	return object{"matcher": object{"id": "byFrameRefID", "options": ref}, "properties": properties}
}

func property(id string, value any) object { return object{"id": id, "value": value} }

// panel adds a panel of the catalogue.
func (b *board) panel(p dashboards.Panel) {
	description := p.Help
	if p.Estimate {
		description += " An estimate."
	}
	panel := object{"title": p.Title, "description": description, "datasource": dataSource()}
	if p.Interval != "" {
		panel["interval"] = p.Interval
	}
	targets := []object{}
	for i, q := range p.Queries {
		t := target(letter(i), q.Expr, q.Legend)
		t["exemplar"] = p.Histogram != ""
		targets = append(targets, t)
	}
	panel["targets"] = targets
	if p.Draw == "states" {
		b.states(panel)
		return
	}

	custom := object{
		"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 10, "gradientMode": "none", "showPoints": "never",
		"pointSize": 4, "spanNulls": false, "insertNulls": false, "axisPlacement": "auto", "axisLabel": "",
		"stacking": object{"mode": "none", "group": "A"}, "thresholdsStyle": object{"mode": "off"},
	}
	overrides := []object{}
	switch p.Draw {
	case "stacked":
		custom["fillOpacity"], custom["stacking"] = 40, object{"mode": "normal", "group": "A"}
	case "percentiles": // one hue, from wide and dark to thin and light
		custom["fillOpacity"] = 0
		for i, colour := range []string{"dark-blue", "blue", "light-blue"} {
			if i < len(p.Queries) && len(p.Queries) == 3 {
				overrides = append(overrides, byRef(letter(i), property("color", object{"mode": "fixed", "fixedColor": colour}), property("custom.lineWidth", 3-i)))
			}
		}
	}
	for i, q := range p.Queries {
		if q.Style == "dashed" {
			overrides = append(overrides, byRef(letter(i), property("custom.lineStyle", object{"fill": "dash", "dash": []int{8, 8}}),
				property("custom.fillOpacity", 0), property("custom.stacking", object{"mode": "none", "group": "limits"})))
		}
	}
	if len(p.Thresholds) > 0 {
		custom["thresholdsStyle"] = object{"mode": "dashed"}
	}
	defaults := object{
		"unit": units[p.Unit], "min": 0, "color": object{"mode": "palette-classic"}, "custom": custom, "thresholds": steps(p.Thresholds, "transparent"), "mappings": []object{},
	}
	if p.Max != nil {
		defaults["max"] = *p.Max
	}
	panel["type"] = "timeseries"
	panel["fieldConfig"] = object{"defaults": defaults, "overrides": overrides}
	panel["options"] = object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	b.add(8, 8, panel)
}

// states adds a panel of lanes, filled where a state holds.
func (b *board) states(panel object) {
	panel["type"] = "state-timeline"
	panel["fieldConfig"] = object{
		"defaults": object{
			"unit": "short", "color": object{"mode": "fixed", "fixedColor": "blue"}, "thresholds": steps(nil, "blue"),
			"custom": object{"lineWidth": 0, "fillOpacity": 80, "spanNulls": false, "insertNulls": false},
			"mappings": []object{{"type": "value", "options": object{
				"0": object{"text": " ", "color": "transparent", "index": 0}, "1": object{"text": "yes", "color": "blue", "index": 1},
			}}},
		},
		"overrides": []object{},
	}
	panel["options"] = object{
		"showValue": "never", "rowHeight": 0.9, "mergeValues": true, "alignValue": "left",
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []string{}},
		"tooltip": object{"mode": "single", "sort": "none"},
	}
	b.add(8, 8, panel)
}

func stat(title, description, graph, text string, defaults object, overrides, targets []object) object {
	return object{
		"type": "stat", "title": title, "description": description, "datasource": dataSource(), "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": overrides},
		"options": object{
			"graphMode": graph, "colorMode": "value", "justifyMode": "auto", "textMode": text, "orientation": "auto", "wideLayout": true,
			"showPercentChange": false, "percentChangeColorMode": "standard",
			"reduceOptions": object{"values": false, "calcs": []string{"lastNotNull"}, "fields": ""},
		},
	}
}

// tiles adds numbers with the course of the last minutes.
func (b *board) tiles(ids ...string) {
	b.wrap()
	for _, id := range ids {
		i := slices.IndexFunc(b.catalogue.Tiles, func(t dashboards.Tile) bool { return t.ID == id })
		tile := b.catalogue.Tiles[i]
		targets := []object{target("A", tile.Expr, tile.Title)}
		overrides := []object{}
		text := "value"
		if tile.Second != nil {
			targets = append(targets, target("B", tile.Second.Expr, tile.Second.Label))
			overrides = append(overrides, byRef("B", property("unit", units[tile.Second.Unit])))
			text = "value_and_name"
		}
		defaults := object{
			"unit": units[tile.Unit], "color": object{"mode": "thresholds"}, "thresholds": steps(tile.Thresholds, "text"), "mappings": []object{},
		}
		panel := stat(tile.Title, tile.Help, "area", text, defaults, overrides, targets)
		if tile.Interval != "" {
			panel["interval"] = tile.Interval
		}
		b.add(24/min(len(ids), 4), 4, panel)
	}
}

// facts adds what hardly changes.
func (b *board) facts(ids ...string) {
	b.wrap()
	for _, id := range ids {
		i := slices.IndexFunc(b.catalogue.Facts, func(f dashboards.Fact) bool { return f.ID == id })
		f := b.catalogue.Facts[i]
		expr, legend, text, unit := f.Expr, f.Title, "value", units[f.Unit]
		if f.Label != "" {
			expr, legend, text, unit = "topk(1, "+f.Expr+")", "{{"+f.Label+"}}", "name", "short"
		}
		t := target("A", expr, legend)
		t["range"], t["instant"] = false, true
		defaults := object{"unit": unit, "color": object{"mode": "thresholds"}, "thresholds": steps(nil, "text"), "mappings": []object{}}
		b.add(24/len(ids), 3, stat(f.Title, "", "none", text, defaults, []object{}, []object{t}))
	}
}

// bottleneck adds what holds the server back, by the rules.
func (b *board) bottleneck() {
	b.wrap()
	t := target("A", `ALERTS{kind="bottleneck", alertstate="firing", instance=~"$server"}`, "{{bottleneck}}")
	t["range"], t["instant"] = false, true
	defaults := object{"unit": "short", "color": object{"mode": "thresholds"}, "thresholds": steps(nil, "text"), "mappings": []object{}}
	b.add(24, 3, stat("What limits it", "Bottlenecks by the rules of dashboards/rules.yaml, which this Prometheus has to evaluate. docs/alerts.md says what to do.",
		"none", "name", defaults, []object{}, []object{t}))
}

// overview adds the table of servers.
func (b *board) overview() {
	b.wrap()
	targets, rename, exclude, order := []object{}, object{"instance": "Server"}, object{"Time": true}, object{"instance": 0}
	overrides := []object{{
		"matcher": object{"id": "byName", "options": "Server"},
		"properties": []object{property("links", []object{{
			"title": "This server", "type": "link", "icon": "", "tooltip": "", "tags": []string{}, "asDropdown": false, "targetBlank": false,
			"includeVars": false, "keepTime": true, "url": "/d/llamacpp-server?var-server=${__value.text}&${__url_time_range}",
		}})},
	}}
	for i, column := range b.catalogue.Overview {
		ref := letter(i)
		expr := column.Expr
		value := "Value #" + ref
		if column.Label != "" {
			expr = fmt.Sprintf("group by (instance, %s) (%s)", column.Label, column.Expr)
			exclude[value] = true
			value = column.Label
		}
		t := target(ref, expr, "")
		t["range"], t["instant"], t["format"] = false, true, "table"
		targets = append(targets, t)
		rename[value], order[value] = column.Title, i+1
		if column.Unit != "" {
			overrides = append(overrides, object{"matcher": object{"id": "byName", "options": column.Title}, "properties": []object{property("unit", units[column.Unit])}})
		}
	}
	b.add(24, 9, object{
		"type": "table", "title": "Servers", "description": "One row each. A click on a name opens its dashboard.", "datasource": dataSource(), "targets": targets,
		"transformations": []object{
			{"id": "merge", "options": object{}},
			{"id": "organize", "options": object{"excludeByName": exclude, "indexByName": order, "renameByName": rename}},
		},
		"fieldConfig": object{
			"defaults":  object{"color": object{"mode": "thresholds"}, "thresholds": steps(nil, "text"), "custom": object{"align": "auto", "inspect": false}, "mappings": []object{}},
			"overrides": overrides,
		},
		"options": object{"frameIndex": 0, "showHeader": true, "cellHeight": "sm"},
	})
}
