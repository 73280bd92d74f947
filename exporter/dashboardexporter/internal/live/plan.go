// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

const (
	// defaultInterval is the least interval of a rate.
	defaultInterval = 5 * time.Second
	// summarizeAbove is the step from which on a bucket can hold several points of a
	// gauge, so that one of them does not stand for all.
	summarizeAbove = 5 * time.Second
)

// plan is the catalogue with the expressions of one view.
type plan struct {
	view
	panels  []panelPlan
	tiles   []tilePlan
	facts   []exprPlan
	sources []exprPlan
}

type panelPlan struct {
	id      string
	queries []queryPlan
	needs   needs
	// summarized: a bucket holds several points of a gauge.
	summarized bool
}

type queryPlan struct {
	legend string
	expr   string
	// summary is how a bucket that holds several points of a gauge gets its mean and
	// extremes.
	summary summary
	// parts are expressions for mean, low and high, in which timeInBucket stands for
	// the length of time that they summarize.
	parts [3]string
}

// summary is a way to mean and extremes.
type summary int

const (
	// without: rates, states, and buckets that hold one point.
	without summary = iota
	// bySelector: the points of each instant vector are summarized when they are read.
	bySelector
	// byFunction: functions over time do it; for expressions that ask for the time of
	// a point, or bring times of their own.
	byFunction
)

type tilePlan struct {
	id            string
	value, second string
	needs         needs
}

type exprPlan struct {
	id, expr, label string
	needs           needs
}

// all returns the numbers of all panels.
func (p *plan) all() []int {
	which := make([]int, len(p.panels))
	for i := range which {
		which[i] = i
	}
	return which
}

// exprs returns the expressions of a panel.
func (p panelPlan) exprs() []string {
	exprs := make([]string, len(p.queries))
	for i, q := range p.queries {
		exprs[i] = q.expr
	}
	return exprs
}

// compile makes the plan of a view.
func (h *Hub) compile(v view) (*plan, error) {
	c := h.settings.Catalogue
	p := &plan{view: v}
	var failed error
	expand := func(where, expr string, interval string, step time.Duration) string {
		if expr == "" {
			return ""
		}
		least, err := leastInterval(interval)
		text := substitute(expr, v, max(least, step))
		if err == nil {
			_, err = promqlParser.ParseExpr(text)
		}
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %s: %w", where, expr, err)
		}
		return text
	}
	for _, panel := range c.Panels {
		pp := panelPlan{id: panel.ID, summarized: v.step > summarizeAbove && panel.Sample != "last" && panel.Draw != "states"}
		for _, q := range panel.Queries {
			text := expand("panel "+panel.ID, q.Expr, panel.Interval, v.step)
			if failed != nil {
				return nil, failed
			}
			qp := queryPlan{legend: q.Legend, expr: text}
			if pp.summarized {
				qp.summary, qp.parts = summarize(text)
				if qp.summary == bySelector && h.engine == nil {
					qp.summary = byFunction
				}
			}
			pp.queries = append(pp.queries, qp)
		}
		pp.needs = needsOf(pp.exprs()...)
		p.panels = append(p.panels, pp)
	}
	for _, t := range c.Tiles {
		tp := tilePlan{id: t.ID, value: expand("tile "+t.ID, t.Expr, t.Interval, 0)}
		if t.Second != nil {
			tp.second = expand("tile "+t.ID, t.Second.Expr, t.Interval, 0)
		}
		tp.needs = needsOf(tp.value, tp.second)
		p.tiles = append(p.tiles, tp)
	}
	for _, f := range c.Facts {
		expr := expand("fact "+f.ID, f.Expr, "", 0)
		p.facts = append(p.facts, exprPlan{f.ID, expr, f.Label, needsOf(expr)})
	}
	for _, s := range c.Sources {
		expr := expand("source "+s.ID, s.Probe, "", 0)
		p.sources = append(p.sources, exprPlan{s.ID, expr, "", needsOf(expr)})
	}
	for _, column := range c.Overview {
		expand("overview "+column.ID, column.Expr, "", 0)
	}
	return p, failed
}

// overviewPlan returns the expressions of the table of servers.
func overviewPlan(c *dashboards.Catalogue) []exprPlan {
	plans := make([]exprPlan, len(c.Overview))
	for i, column := range c.Overview {
		expr := substitute(column.Expr, view{}, defaultInterval)
		plans[i] = exprPlan{column.ID, expr, column.Label, needsOf(expr)}
	}
	return plans
}

func leastInterval(s string) (time.Duration, error) {
	if s == "" {
		return defaultInterval, nil
	}
	d, err := model.ParseDuration(s)
	return time.Duration(d), err
}

// substitute puts a view into the variables of an expression.
func substitute(expr string, v view, interval time.Duration) string {
	variables := dashboards.Variables{GPU: v.gpus, Interval: interval}
	if v.server != "" {
		variables.Server = []string{v.server}
	}
	return dashboards.Expand(expr, variables)
}

var promqlParser = parser.NewParser(parser.Options{})

// standIn is a length of time that no expression of ours has; timeInBucket is how
// it is written.
const standIn = 20*time.Minute + 34*time.Second + 567*time.Millisecond

var timeInBucket = "[" + model.Duration(standIn).String() + "]"

// over returns an expression with the length of time that it summarizes.
func over(expr string, d time.Duration) string {
	return strings.ReplaceAll(expr, timeInBucket, "["+model.Duration(d).String()+"]")
}

// summarize finds how an expression is summarized. One without an instant vector
// has nothing to summarize, and no extremes.
func summarize(expr string) (summary, [3]string) {
	var parts [3]string
	how := without
	for i, function := range []string{"avg_over_time", "min_over_time", "max_over_time"} {
		parts[i], how = replaceSelectors(expr, function)
	}
	return how, parts
}

// replaceSelectors puts function(selector[timeInBucket]) in the place of every
// instant vector selector. It is byFunction if that is the only way.
func replaceSelectors(expr, function string) (string, summary) {
	tree, err := promqlParser.ParseExpr(expr)
	if err != nil { // it was parsed before
		return expr, without
	}
	replaced, special := false, false
	var walk func(parser.Expr) parser.Expr
	walk = func(e parser.Expr) parser.Expr {
		switch n := e.(type) {
		case *parser.VectorSelector:
			replaced = true
			if n.Timestamp != nil || n.StartOrEnd != 0 || n.OriginalOffset != 0 {
				special = true
			}
			return &parser.Call{
				Func: parser.MustGetFunction(function),
				Args: parser.Expressions{&parser.MatrixSelector{VectorSelector: n, Range: standIn}},
			}
		case *parser.ParenExpr:
			n.Expr = walk(n.Expr)
		case *parser.UnaryExpr:
			n.Expr = walk(n.Expr)
		case *parser.StepInvariantExpr:
			n.Expr = walk(n.Expr)
		case *parser.BinaryExpr:
			n.LHS, n.RHS = walk(n.LHS), walk(n.RHS)
		case *parser.AggregateExpr:
			n.Expr = walk(n.Expr)
			if n.Param != nil {
				n.Param = walk(n.Param)
			}
		case *parser.SubqueryExpr:
			special = true // it evaluates what is in it at times of its own
		case *parser.Call:
			if n.Func.Name == "timestamp" || n.Func.Name == "absent" || n.Func.Name == "info" {
				special = true
				return n // they ask for the point itself
			}
			for i, arg := range n.Args {
				n.Args[i] = walk(arg)
			}
		}
		return e
	}
	text := walk(tree).String()
	switch {
	case !replaced:
		return expr, without
	case special:
		return text, byFunction
	}
	return text, bySelector
}
