// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package dashboards has the one list of what is shown: panels, tiles, alerts and
// bottlenecks, each a PromQL expression. The live page, Grafana's dashboards, the
// documentation and tests are made from it.
package dashboards // import "github.com/llamatelemetry/otelcol-llamacpp/dashboards"

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:generate go run ./generate

//go:embed panels.yaml
var panels []byte

//go:embed rules.yaml
var rules []byte

// Rules returns the rule file, with bottlenecks and alerts, in the format of
// Prometheus.
func Rules() []byte { return bytes.Clone(rules) }

// Units are the units of values. A ratio is shown in percent, count is a bare
// number.
var Units = []string{
	"tokens/s", "requests/s", "bytes/s", "requests", "tokens", "bytes", "s", "s/token",
	"ratio", "celsius", "watts", "joules/token", "hertz", "count",
}

// Draws are the ways to draw a panel.
var Draws = []string{"lines", "stacked", "percentiles", "states"}

// Catalogue is everything that panels.yaml declares, in the order of the page.
//
// Expressions have Grafana's variables: $server and $run are regular expressions
// for the label instance, $gpu is one for hw_id, and $__rate_interval is a
// duration that holds enough points for a rate.
type Catalogue struct {
	Sources  []Source  `json:"sources" yaml:"sources"`
	Groups   []Group   `json:"groups" yaml:"groups"`
	Panels   []Panel   `json:"panels" yaml:"panels"`
	Tiles    []Tile    `json:"tiles" yaml:"tiles"`
	Facts    []Fact    `json:"facts" yaml:"facts"`
	Overview []Column  `json:"overview" yaml:"overview"`
	Unshown  []Unshown `json:"-" yaml:"unshown"`
}

// Source is where panels get their data from.
type Source struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	// Probe is an expression that has a result where the source delivers.
	Probe string `json:"probe" yaml:"probe"`
	// Cure says what to do where it does not.
	Cure string `json:"cure" yaml:"cure"`
}

// Group is a row of panels.
type Group struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
}

// Panel is one chart.
type Panel struct {
	ID    string `json:"id" yaml:"id"`
	Group string `json:"group" yaml:"group"`
	Title string `json:"title" yaml:"title"`
	// Help is a sentence on what it means.
	Help string `json:"help" yaml:"help"`
	// Unit is one of Units.
	Unit string `json:"unit" yaml:"unit"`
	// Draw is one of Draws.
	Draw string `json:"draw" yaml:"draw"`
	// Histogram is what the percentiles are of, such as x_seconds{instance=~"$server"};
	// Load makes Queries of it.
	Histogram string `json:"-" yaml:"histogram"`
	// Queries are in the order of their colours.
	Queries    []Query     `json:"queries" yaml:"queries"`
	Thresholds []Threshold `json:"thresholds,omitempty" yaml:"thresholds"`
	// Interval is the least $__rate_interval, such as 30s; empty for the default.
	Interval string `json:"interval,omitempty" yaml:"interval"`
	// Sources are the ids of sources, one of which is enough.
	Sources []string `json:"sources" yaml:"sources"`
	// Estimate marks what is not exact.
	Estimate bool `json:"estimate,omitempty" yaml:"estimate"`
	// Sample is "last" for states, of which no mean can be taken.
	Sample string `json:"sample,omitempty" yaml:"sample"`
	// Max is the top of the scale, where it has one.
	Max *float64 `json:"max,omitempty" yaml:"max"`
}

// Query is an expression whose series are drawn.
type Query struct {
	Expr string `json:"expr" yaml:"expr"`
	// Legend is the name of a series; {{label}} stands for the label's value.
	Legend string `json:"legend" yaml:"legend"`
	// Style is dashed for a limit, otherwise empty.
	Style string `json:"style,omitempty" yaml:"style"`
}

// Threshold is a value from which on something is wrong.
type Threshold struct {
	Value float64 `json:"value" yaml:"value"`
	// Level is warning or critical.
	Level string `json:"level" yaml:"level"`
}

// Tile is a number at the top of the page.
type Tile struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	Help  string `json:"help" yaml:"help"`
	Unit  string `json:"unit" yaml:"unit"`
	Expr  string `json:"expr" yaml:"expr"`
	// Second is a smaller number beside it, such as the 95th percentile.
	Second *Second `json:"second,omitempty" yaml:"second"`
	// Panel is the id of the panel that has more.
	Panel      string      `json:"panel" yaml:"panel"`
	Interval   string      `json:"interval,omitempty" yaml:"interval"`
	Thresholds []Threshold `json:"thresholds,omitempty" yaml:"thresholds"`
}

// Second is the second number of a tile.
type Second struct {
	Label string `json:"label" yaml:"label"`
	Unit  string `json:"unit" yaml:"unit"`
	Expr  string `json:"expr" yaml:"expr"`
}

// Fact is something that the header says of a server.
type Fact struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	Expr  string `json:"expr" yaml:"expr"`
	// Label is the label of the first series that has the fact; empty where it is
	// the series' value.
	Label string `json:"label,omitempty" yaml:"label"`
	Unit  string `json:"unit,omitempty" yaml:"unit"`
}

// Column is a column in the table of servers. Its expression has one series for
// each instance.
type Column struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	Unit  string `json:"unit,omitempty" yaml:"unit"`
	Expr  string `json:"expr" yaml:"expr"`
	// Label is as in Fact.
	Label string `json:"label,omitempty" yaml:"label"`
	// Sparkline draws the last minutes beside the number.
	Sparkline bool `json:"sparkline,omitempty" yaml:"sparkline"`
}

// Unshown is a metric that the components emit and no panel shows.
type Unshown struct {
	// Metric is its name in OpenTelemetry.
	Metric string `yaml:"metric"`
	Why    string `yaml:"why"`
}

// Load reads the embedded panels.yaml.
func Load() (*Catalogue, error) { return load(panels) }

func load(file []byte) (*Catalogue, error) {
	var c Catalogue
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("dashboards/panels.yaml: %w", err)
	}
	if err := decoder.Decode(new(Catalogue)); !errors.Is(err, io.EOF) {
		return nil, errors.New("dashboards/panels.yaml: more than one document")
	}
	for i := range c.Panels {
		p := &c.Panels[i]
		if p.Histogram == "" {
			continue
		}
		if p.Draw != "percentiles" || len(p.Queries) > 0 {
			return nil, fmt.Errorf("dashboards/panels.yaml: panel %s: a histogram is for percentiles without queries of their own", p.ID)
		}
		for _, percent := range []int{50, 95, 99} {
			p.Queries = append(p.Queries, Query{Expr: percentile(percent, p.Histogram), Legend: fmt.Sprintf("P%d", percent)})
		}
	}
	return &c, nil
}

// percentile is an expression for histograms of both kinds: exponential ones are
// native in Prometheus, those with fixed buckets have a series for each.
func percentile(percent int, histogram string) string {
	metric, labels, _ := strings.Cut(histogram, "{")
	return fmt.Sprintf("histogram_quantile(%.2f, sum by (instance) (rate(%s{%s[$__rate_interval]))) or "+
		"histogram_quantile(%.2f, sum by (instance, le) (rate(%s_bucket{%s[$__rate_interval])))",
		float64(percent)/100, metric, labels, float64(percent)/100, metric, labels)
}
