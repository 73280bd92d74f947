// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func loaded(t *testing.T) *Catalogue {
	t.Helper()
	c, err := Load()
	require.NoError(t, err)
	return c
}

func TestLoad_RefusesWhatItDoesNotKnow(t *testing.T) {
	for file, message := range map[string]string{
		"panels:\n  - {id: a, colour: red}":                                                              "field colour not found",
		"panels: []\n---\npanels: []":                                                                    "more than one document",
		"panels:\n  - {id: a, draw: lines, histogram: x_seconds}":                                        "panel a: a histogram is for percentiles",
		"panels:\n  - {id: a, draw: percentiles, histogram: x_seconds, queries: [{expr: x, legend: y}]}": "panel a: a histogram is for percentiles",
	} {
		_, err := load([]byte(file))
		assert.ErrorContains(t, err, message, file)
	}
}

func TestLoad_PercentilesOfHistogramsOfBothKinds(t *testing.T) {
	c, err := load([]byte(`panels: [{id: a, draw: percentiles, histogram: 'x_seconds{instance=~"$server"}'}]`))
	require.NoError(t, err)
	require.Len(t, c.Panels[0].Queries, 3)
	assert.Equal(t, Query{
		Legend: "P95",
		Expr: `histogram_quantile(0.95, sum by (instance) (rate(x_seconds{instance=~"$server"}[$__rate_interval]))) or ` +
			`histogram_quantile(0.95, sum by (instance, le) (rate(x_seconds_bucket{instance=~"$server"}[$__rate_interval])))`,
	}, c.Panels[0].Queries[1])
}

// The panels whose titles people look for.
func TestCatalogue_HasThePanelsThatPeopleLookFor(t *testing.T) {
	var titles []string
	for _, p := range loaded(t).Panels {
		titles = append(titles, p.Title)
	}
	assert.Subset(t, titles, []string{
		"Token generation rate", "GPU utilization", "Request processing time", "GPU memory", "Active slots",
		"GPU temperature", "GPU power", "Request throughput", "Queue depth", "Latency distribution",
	})
}

func TestCatalogue_IsConsistent(t *testing.T) {
	c := loaded(t)
	id := regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	lists := map[string]map[string]bool{}
	unique := func(list, name string) {
		if lists[list] == nil {
			lists[list] = map[string]bool{}
		}
		assert.Regexp(t, id, name, list)
		assert.Falsef(t, lists[list][name], "%s %s: twice", list, name)
		lists[list][name] = true
	}
	sentence := func(text, of string) {
		assert.Regexp(t, `^[A-Za-z0-9][^\n]*\.$`, text, "%s: a sentence", of)
	}
	unit := func(unit, of string) { assert.Contains(t, Units, unit, of) }
	thresholds := func(all []Threshold, of string) {
		for _, threshold := range all {
			assert.Contains(t, []string{"warning", "critical"}, threshold.Level, of)
		}
		assert.True(t, slices.IsSortedFunc(all, func(a, b Threshold) int { return int(1000 * (a.Value - b.Value)) }), of)
	}
	interval := func(text, of string) {
		if text != "" {
			d, err := time.ParseDuration(text)
			require.NoError(t, err, of)
			assert.GreaterOrEqual(t, d, 5*time.Second, of)
		}
	}

	for _, s := range c.Sources {
		unique("source", s.ID)
		assert.NotEmpty(t, s.Title, s.ID)
		sentence(s.Cure, s.ID)
	}
	for _, g := range c.Groups {
		unique("group", g.ID)
		assert.NotEmpty(t, g.Title, g.ID)
	}
	used := map[string]bool{}
	titles := map[string]bool{}
	for _, p := range c.Panels {
		of := "panel " + p.ID
		unique("panel", p.ID)
		assert.Falsef(t, titles[p.Title], "%s: the title %q is another's, too", of, p.Title)
		titles[p.Title] = true
		sentence(p.Help, of)
		unit(p.Unit, of)
		interval(p.Interval, of)
		thresholds(p.Thresholds, of)
		assert.True(t, lists["group"][p.Group], "%s: group %s", of, p.Group)
		used["group "+p.Group] = true
		assert.Contains(t, Draws, p.Draw, of)
		assert.Contains(t, []string{"", "last"}, p.Sample, of)
		assert.Equal(t, p.Draw == "states", p.Draw == "states" && p.Sample == "last", "%s: no mean of states", of)
		assert.NotEmpty(t, p.Queries, of)
		legends := map[string]bool{}
		for _, q := range p.Queries {
			assert.NotEmpty(t, q.Legend, of)
			assert.Falsef(t, legends[q.Legend], "%s: legend %q twice", of, q.Legend)
			legends[q.Legend] = true
			assert.Contains(t, []string{"", "dashed"}, q.Style, of)
		}
		assert.NotEmpty(t, p.Sources, of)
		for _, s := range p.Sources {
			assert.True(t, lists["source"][s], "%s: source %s", of, s)
			used["source "+s] = true
		}
	}
	for _, x := range c.Tiles {
		of := "tile " + x.ID
		unique("tile", x.ID)
		assert.NotEmpty(t, x.Title, of)
		sentence(x.Help, of)
		unit(x.Unit, of)
		interval(x.Interval, of)
		thresholds(x.Thresholds, of)
		assert.True(t, lists["panel"][x.Panel], "%s: panel %s", of, x.Panel)
		if x.Second != nil {
			assert.NotEmpty(t, x.Second.Label, of)
			unit(x.Second.Unit, of)
		}
	}
	for _, x := range c.Facts {
		unique("fact", x.ID)
		assert.NotEmpty(t, x.Title, x.ID)
		assert.Equal(t, x.Label == "", x.Unit != "", "fact %s: a label or a unit", x.ID)
		if x.Unit != "" {
			unit(x.Unit, x.ID)
		}
	}
	for _, x := range c.Overview {
		unique("column", x.ID)
		assert.NotEmpty(t, x.Title, x.ID)
		assert.Equal(t, x.Label == "", x.Unit != "", "column %s: a label or a unit", x.ID)
		if x.Unit != "" {
			unit(x.Unit, x.ID)
		}
	}
	for _, list := range []string{"source", "group"} {
		for name := range lists[list] {
			// A server that answers at all is what the header needs.
			assert.Truef(t, used[list+" "+name], "%s %s: no panel has it", list, name)
		}
	}
}

// An expression of the catalogue, and what to call it.
type expression struct{ of, text string }

func (c *Catalogue) expressions() []expression {
	var all []expression
	add := func(text, format string, a ...any) {
		all = append(all, expression{fmt.Sprintf(format, a...), text})
	}
	for _, x := range c.Sources {
		add(x.Probe, "probe of source %s", x.ID)
	}
	for _, p := range c.Panels {
		for _, q := range p.Queries {
			add(q.Expr, "panel %s, %s", p.ID, q.Legend)
		}
	}
	for _, x := range c.Tiles {
		add(x.Expr, "tile %s", x.ID)
		if x.Second != nil {
			add(x.Second.Expr, "tile %s, %s", x.ID, x.Second.Label)
		}
	}
	for _, x := range c.Facts {
		add(x.Expr, "fact %s", x.ID)
	}
	for _, x := range c.Overview {
		add(x.Expr, "column %s", x.ID)
	}
	return all
}

func TestCatalogue_ExpressionsParse(t *testing.T) {
	for _, x := range loaded(t).expressions() {
		text := Expand(x.text, Variables{Server: []string{"localhost:8080"}, GPU: []string{"GPU-1", "GPU-2"}, Run: []string{"run-1"}, Interval: 30 * time.Second})
		_, err := promqlParser.ParseExpr(text)
		require.NoError(t, err, "%s: %s", x.of, text)
		assert.NotContains(t, text, "$", "%s: a variable that Expand does not know", x.of)
		assert.False(t, strings.Contains(x.text, "=\"$") || strings.Contains(x.text, "!~\"$"), "%s: a variable is a regular expression, and may match all", x.of)
	}
}
