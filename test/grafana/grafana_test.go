// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetools"
)

const folder = "../../dashboards/grafana"

type dashboard struct {
	UID        string
	Panels     []panel
	Templating struct{ List []variable }
	Annotations
}

// Annotations are queries that draw vertical lines.
type Annotations struct {
	Annotations struct{ List []struct{ Name, Expr string } }
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, RefID string }
	// Raw has all that Grafana's types describe.
	Options     json.RawMessage
	FieldConfig struct {
		Defaults struct {
			Unit   string
			Custom json.RawMessage
		}
	}
}

type variable struct {
	Name, Type string
	Query      any
}

func files(t *testing.T, form string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, form, "*.json"))
	require.NoError(t, err)
	require.Len(t, names, 4)
	all := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		all[strings.TrimSuffix(filepath.Base(name), ".json")] = text
	}
	return all
}

// The form for import is the dashboard and the inputs that Grafana asks for; these
// are no part of Grafana's type.
func withoutInputs(t *testing.T, text []byte) []byte {
	t.Helper()
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text, &all))
	var inputs []map[string]string
	require.NoError(t, json.Unmarshal(all["__inputs"], &inputs))
	require.Len(t, inputs, 1)
	assert.Equal(t, "DS_PROMETHEUS", inputs[0]["name"])
	assert.Equal(t, "prometheus", inputs[0]["pluginId"])
	require.Contains(t, all, "__requires")
	delete(all, "__inputs")
	delete(all, "__requires")
	rest, err := json.Marshal(all)
	require.NoError(t, err)
	return rest
}

// The types of Grafana for a panel's own part, by the panel's type.
var own = map[string]struct{ options, fields string }{
	"timeseries":     {"timeseries.Options", "timeseries.FieldConfig"},
	"stat":           {"stat.Options", ""},
	"state-timeline": {"statetimeline.Options", "statetimeline.FieldConfig"},
	"table":          {"table.Options", "table.FieldConfig"},
}

func TestDashboards_AreOfGrafanasTypes(t *testing.T) {
	if testing.Short() {
		t.Skip("runs npm and tsc")
	}
	var source bytes.Buffer
	source.WriteString(`import type * as dashboard from '@grafana/grafana-foundation-sdk/dashboard';
import type * as prometheus from '@grafana/grafana-foundation-sdk/prometheus';
import type * as stat from '@grafana/grafana-foundation-sdk/stat';
import type * as statetimeline from '@grafana/grafana-foundation-sdk/statetimeline';
import type * as table from '@grafana/grafana-foundation-sdk/table';
import type * as timeseries from '@grafana/grafana-foundation-sdk/timeseries';
import type * as schema from '@grafana/schema';
import type { Plain } from '../plain.js';

// The SDK knows nothing of what a data source adds to a target or an annotation.
type Target = Plain<prometheus.Dataquery>;
type Annotation = Plain<dashboard.AnnotationQuery> & { step?: string; titleFormat?: string; textFormat?: string; tagKeys?: string; useValueForTime?: boolean };
type Dashboard = Omit<Plain<dashboard.Dashboard>, 'panels' | 'annotations'> & {
  panels: (Plain<dashboard.RowPanel> | (Omit<Plain<dashboard.Panel>, 'targets'> & { targets: Target[] }))[];
  annotations: { list: Annotation[] };
};
`)
	n := 0
	declare := func(kind string, text []byte) {
		n++
		fmt.Fprintf(&source, "export const x%d: %s = %s;\n", n, kind, text)
	}
	for _, form := range []string{"import", "provisioning/dashboards/llamacpp"} {
		for name, text := range files(t, form) {
			if form == "import" {
				text = withoutInputs(t, text)
			}
			fmt.Fprintf(&source, "// %s, %s\n", form, name)
			declare("Dashboard", text)
			var d dashboard
			require.NoError(t, json.Unmarshal(text, &d), name)
			for _, p := range d.Panels {
				if p.Type == "row" {
					continue
				}
				require.Contains(t, own, p.Type, "%s: a panel that does not come with Grafana", p.Title)
				declare("Plain<"+own[p.Type].options+">", p.Options)
				if fields := own[p.Type].fields; fields != "" {
					declare("Plain<"+fields+">", p.FieldConfig.Defaults.Custom)
				}
			}
			var top struct{ Time, Timepicker json.RawMessage }
			require.NoError(t, json.Unmarshal(text, &top))
			declare("Plain<schema.TimePickerConfig>", top.Timepicker)
		}
	}
	require.NoError(t, os.MkdirAll("generated", 0o755))
	require.NoError(t, os.WriteFile("generated/dashboards.ts", source.Bytes(), 0o600))

	npm, err := pagetools.Find("npm")
	require.NoError(t, err)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), npm, args...)
		cmd.Env = append(os.Environ(), "NO_UPDATE_NOTIFIER=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if stale(t) {
		out, err := run("ci", "--no-audit", "--no-fund")
		require.NoError(t, err, out)
	}
	out, err := run("run", "--silent", "check")
	require.NoError(t, err, out)

	// What Grafana does not know is noticed.
	before, after, found := bytes.Cut(source.Bytes(), []byte("Plain<timeseries.FieldConfig> = "))
	require.True(t, found)
	wrong := slices.Concat(before, []byte("Plain<timeseries.FieldConfig> = "), bytes.Replace(after, []byte(`"line"`), []byte(`"wiggle"`), 1))
	require.NoError(t, os.WriteFile("generated/dashboards.ts", wrong, 0o600))
	out, err = run("run", "--silent", "check")
	require.Error(t, err)
	assert.Contains(t, out, "wiggle")
	require.NoError(t, os.WriteFile("generated/dashboards.ts", source.Bytes(), 0o600))
}

// stale reports whether the packages are not those of the lock file.
func stale(t *testing.T) bool {
	t.Helper()
	lock, err := os.Stat("package-lock.json")
	require.NoError(t, err)
	installed, err := os.Stat(filepath.Join("node_modules", ".package-lock.json"))
	return err != nil || installed.ModTime().Before(lock.ModTime())
}

// Both forms have the same panels, every expression parses with Grafana's own
// variables replaced, and no two panels lie on each other.
func TestDashboards_AreConsistent(t *testing.T) {
	promql := parser.NewParser(parser.Options{})
	provisioned := files(t, "provisioning/dashboards/llamacpp")
	uids := map[string]bool{}
	for name, text := range files(t, "import") {
		var d, other dashboard
		require.NoError(t, json.Unmarshal(text, &d))
		require.NoError(t, json.Unmarshal(provisioned[name], &other))
		assert.Equal(t, d.Panels, other.Panels, name)
		assert.Equal(t, "datasource", other.Templating.List[0].Type, name)
		assert.Equal(t, d.Templating.List, other.Templating.List[1:], name)
		assert.False(t, uids[d.UID], name)
		uids[d.UID] = true

		defined := map[string]bool{"__rate_interval": true}
		check := func(expr, of string) {
			for _, word := range strings.FieldsFunc(expr, func(r rune) bool { return !strings.ContainsRune("$_abcdefghijklmnopqrstuvwxyz", r) }) {
				if variable, found := strings.CutPrefix(word, "$"); found {
					assert.True(t, defined[variable], "%s: $%s is not defined", of, variable)
				}
			}
			expr = strings.ReplaceAll(dashboards.Expand(expr, dashboards.Variables{Interval: time.Minute}), "$model", ".+")
			_, err := promql.ParseExpr(expr)
			assert.NoError(t, err, "%s: %s", of, expr)
		}
		// A variable asks only for what those before it leave.
		for _, v := range d.Templating.List {
			text := v.Query.(map[string]any)["query"].(string)
			if inner, found := strings.CutPrefix(text, "query_result("); found {
				check(strings.TrimSuffix(inner, ")"), name+", variable "+v.Name)
			} else {
				inner, found := strings.CutPrefix(text, "label_values(")
				require.True(t, found, text)
				check(inner[:strings.LastIndex(inner, ",")], name+", variable "+v.Name)
			}
			defined[v.Name] = true
		}
		for _, a := range d.Annotations.Annotations.List {
			if a.Expr != "" {
				check(a.Expr, name+", annotation "+a.Name)
			}
		}
		grid, ids := map[[2]int]string{}, map[int]bool{}
		for _, p := range d.Panels {
			assert.False(t, ids[p.ID], "%s: %s: the id is another's, too", name, p.Title)
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					assert.Less(t, x, 24, "%s: %s: beyond the grid", name, p.Title)
					assert.Empty(t, grid[[2]int{x, y}], "%s: %s lies on another", name, p.Title)
					grid[[2]int{x, y}] = p.Title
				}
			}
			for _, target := range p.Targets {
				check(target.Expr, name+", "+p.Title)
			}
			assert.True(t, p.Type == "row" || p.Type == "table" || p.FieldConfig.Defaults.Unit != "", "%s: %s has no unit", name, p.Title)
		}
	}
}
