// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// declaration is a metric that a component declares.
type declaration struct {
	name string
	// labels are its own; nil where the source does not declare them. Each has the
	// values that it can have, none if any.
	labels map[string][]string
	kind   otlptranslator.MetricType
	unit   string
	// proxied metrics are those of the proxy, some of which the log has as well.
	proxied bool
}

// names are those of its series in Prometheus.
func (d declaration) names(t *testing.T) []string {
	t.Helper()
	namer := otlptranslator.NewMetricNamer("", otlptranslator.UnderscoreEscapingWithSuffixes)
	name, err := namer.Build(otlptranslator.Metric{Name: d.name, Unit: d.unit, Type: d.kind})
	require.NoError(t, err)
	if d.kind == otlptranslator.MetricTypeHistogram {
		return []string{name, name + "_bucket", name + "_sum", name + "_count"}
	}
	return []string{name}
}

// label is the name of an attribute in Prometheus.
func label(attribute string) string { return strings.NewReplacer(".", "_").Replace(attribute) }

const proxyFolder = "../receiver/llamaproxyreceiver"

// declared reads what the components declare: their metadata.yaml, and the
// places where histograms are built by hand.
func declared(t *testing.T) []declaration {
	t.Helper()
	var all []declaration
	for _, folder := range []string{
		"../receiver/llamacppreceiver/internal/serverscraper", "../receiver/llamacppreceiver/internal/slotsscraper",
		"../receiver/llamacppreceiver/internal/gpuscraper", "../connector/llamacpplogconnector", proxyFolder,
	} {
		text, err := os.ReadFile(filepath.Join(folder, "metadata.yaml"))
		require.NoError(t, err)
		var file struct {
			Attributes map[string]struct {
				Name string   `yaml:"name_override"`
				Enum []string `yaml:"enum"`
			} `yaml:"attributes"`
			Metrics map[string]struct {
				Unit string `yaml:"unit"`
				Sum  *struct {
					Monotonic bool `yaml:"monotonic"`
				} `yaml:"sum"`
				Attributes []string `yaml:"attributes"`
			} `yaml:"metrics"`
		}
		require.NoError(t, yaml.Unmarshal(text, &file))
		require.NotEmpty(t, file.Metrics, folder)
		for name, metric := range file.Metrics {
			d := declaration{name: name, unit: metric.Unit, labels: map[string][]string{}, kind: otlptranslator.MetricTypeGauge, proxied: folder == proxyFolder}
			if metric.Sum != nil {
				d.kind = otlptranslator.MetricTypeNonMonotonicCounter
				if metric.Sum.Monotonic {
					d.kind = otlptranslator.MetricTypeMonotonicCounter
				}
			}
			for _, attribute := range metric.Attributes {
				a := file.Attributes[attribute]
				if a.Name == "" {
					a.Name = attribute
				}
				d.labels[label(a.Name)] = a.Enum
			}
			all = append(all, d)
		}
	}
	histogram := func(name, unit string) declaration {
		return declaration{name: name, unit: unit, kind: otlptranslator.MetricTypeHistogram}
	}
	for _, name := range literals(t, "../receiver/llamacppreceiver/internal/slotsscraper/requests.go", `^llamacpp\.request\.[a-z.]*duration$`) {
		all = append(all, histogram(name, "s"))
	}
	// Those structs have a name first and a unit last.
	for _, group := range structs(t, "../connector/llamacpplogconnector/histogram.go", "distribution") {
		all = append(all, histogram(group[0], group[len(group)-1]))
	}
	for _, group := range structs(t, proxyFolder+"/statistics.go", "distribution") {
		d := histogram(group[0], group[len(group)-1])
		d.proxied = true
		all = append(all, d)
	}
	for _, group := range structs(t, "../loadgenextension/internal/telemetry/names.go", "distribution") {
		all = append(all, histogram(group[0], group[1]))
	}
	for _, group := range structs(t, "../loadgenextension/internal/telemetry/names.go", "instrument") {
		d := declaration{name: group[0], unit: group[1], kind: otlptranslator.MetricTypeMonotonicCounter}
		if strings.HasSuffix(d.name, ".in_flight") {
			d.kind = otlptranslator.MetricTypeNonMonotonicCounter
		} else if strings.HasSuffix(d.name, ".target") {
			d.kind = otlptranslator.MetricTypeGauge
		}
		all = append(all, d)
	}
	return all
}

// literals are the strings of a Go file that a pattern describes.
func literals(t *testing.T, file, pattern string) []string {
	t.Helper()
	tree, err := goparser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	var all []string
	ast.Inspect(tree, func(n ast.Node) bool {
		if text, ok := literal(n); ok && regexp.MustCompile(pattern).MatchString(text) {
			all = append(all, text)
		}
		return true
	})
	require.NotEmpty(t, all, file)
	return all
}

// structs are the strings in each literal of a type in a Go file.
func structs(t *testing.T, file, name string) [][]string {
	t.Helper()
	tree, err := goparser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	var all [][]string
	ast.Inspect(tree, func(n ast.Node) bool {
		c, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		if kind, ok := c.Type.(*ast.Ident); !ok || kind.Name != name {
			return true
		}
		var fields []string
		for _, element := range c.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok {
				element = pair.Value
			}
			if text, ok := literal(element); ok {
				fields = append(fields, text)
			}
		}
		all = append(all, fields)
		return true
	})
	require.NotEmpty(t, all, file)
	return all
}

func literal(n ast.Node) (string, bool) {
	l, ok := n.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// ruleExpressions are those of rules.yaml, and the names that they record.
func ruleExpressions(t *testing.T) (all []expression, recorded map[string]bool) {
	t.Helper()
	file, errs := rulefmt.Parse(Rules(), false, model.UTF8Validation, promqlParser, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	recorded = map[string]bool{}
	query := regexp.MustCompile(`query \(printf "((?:[^"\\]|\\.)*)"`)
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			all = append(all, expression{"rule " + rule.Alert + rule.Record, rule.Expr})
			if rule.Record != "" {
				recorded[rule.Record] = true
			}
			for _, annotation := range rule.Annotations {
				for _, match := range query.FindAllStringSubmatch(annotation, -1) {
					all = append(all, expression{"annotation of " + rule.Alert, strings.NewReplacer("%q", `"x"`, "%[1]q", `"x"`).Replace(match[1])})
				}
			}
		}
	}
	return all, recorded
}

// Every metric is on a panel, a tile or in a rule, or it is said why not; and
// nothing is asked for that nothing emits.
func TestMetrics_AreAllShownAndNoOthersAreAskedFor(t *testing.T) {
	c := loaded(t)
	series := map[string]declaration{}
	all := declared(t)
	for _, d := range all {
		for _, name := range d.names(t) {
			series[name] = d
		}
	}
	rules, recorded := ruleExpressions(t)
	// Labels of the resource, of Prometheus, and those of GPUs and requests.
	common := []string{
		"__name__", "job", "instance", "le", "hw_id", "hw_name", "gen_ai_token_type", "error_type", "gen_ai_request_model",
		"loadgen_outcome", "loadgen_slo", "loadgen_profile", "llamacpp_observer", "llamacpp_client_name", "http_response_status_code",
	}
	shown := map[string]bool{}
	for _, x := range slices.Concat(c.expressions(), rules) {
		tree, err := promqlParser.ParseExpr(Expand(x.text, Variables{Interval: time.Minute}))
		require.NoError(t, err, "%s: %s", x.of, x.text)
		parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
			selector, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			name := selector.Name
			if i := slices.IndexFunc(selector.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == "__name__" }); name == "" && i >= 0 {
				name = selector.LabelMatchers[i].Value
			}
			d, known := series[name]
			if !known {
				assert.True(t, recorded[name] || name == "target_info" || name == "ALERTS" || strings.HasPrefix(name, "otelcol_"),
					"%s: nothing emits %s", x.of, name)
				return nil
			}
			shown[d.name] = true
			for _, m := range selector.LabelMatchers {
				values, own := d.labels[m.Name]
				assert.True(t, own || slices.Contains(common, m.Name), "%s: %s has no label %s", x.of, name, m.Name)
				if len(values) > 0 {
					assert.True(t, slices.ContainsFunc(values, m.Matches), "%s: %s never has %s", x.of, name, m)
				}
			}
			return nil
		})
	}
	unshown := map[string]bool{}
	for _, u := range c.Unshown {
		assert.Regexp(t, `^[A-Z].*\.$`, u.Why, u.Metric)
		assert.False(t, unshown[u.Metric], "unshown: %s twice", u.Metric)
		unshown[u.Metric] = true
	}
	for _, d := range all {
		assert.True(t, shown[d.name] || unshown[d.name], "%s (%s) is on no panel: show it, or say under unshown why not", d.name, d.names(t)[0])
		assert.False(t, shown[d.name] && unshown[d.name], "%s is shown: remove it from unshown", d.name)
		delete(unshown, d.name)
	}
	assert.Empty(t, unshown, "unshown: nothing emits these")
}
