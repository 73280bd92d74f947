// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

// TestParser_WhatItKnowsIsAsNew parses each expression, has it written into as an
// engine does, and parses it again.
func TestParser_WhatItKnowsIsAsNew(t *testing.T) {
	c, err := dashboards.Load()
	require.NoError(t, err)
	exprs := []string{
		`1 + -(2 * x{a!="b"} offset 1m) ^ y`,
		`topk(3, x) by (a) > bool 1`, `x * on (a) group_left (b) y`, `"text"`,
		`max_over_time(rate(x[5m] @ end())[1h:1m] offset 1h)`, `label_replace(x, "a", "$1", "b", "(.*)") unless x @ 100`, `time()`,
		`quantile without (a) (0.5, x)`, `count_values("v", x)`,
	}
	for _, p := range c.Panels {
		for _, q := range p.Queries {
			exprs = append(exprs, dashboards.Expand(q.Expr, dashboards.Variables{Interval: time.Minute}))
		}
	}
	plain, quick := parser.NewParser(parser.Options{}), NewParser()
	for _, expr := range exprs {
		want, err := plain.ParseExpr(expr)
		require.NoError(t, err, expr)
		for range 3 {
			got, err := quick.ParseExpr(expr)
			require.NoError(t, err)
			require.Equal(t, want.Pretty(0), got.Pretty(0))
			if !strings.Contains(expr, "=~") { // compiled patterns are equal to none
				require.Equal(t, want, got, expr)
			}
			spoilt, err := promql.PreprocessExpr(got, time.Unix(0, 0), time.Unix(1000, 0), time.Second)
			require.NoError(t, err)
			var nodes []parser.Node
			parser.Inspect(spoilt, func(node parser.Node, _ []parser.Node) error {
				nodes = append(nodes, node)
				return nil
			})
			for _, node := range nodes {
				switch n := node.(type) {
				case *parser.VectorSelector:
					n.Offset, n.LabelMatchers[0], n.SkipHistogramBuckets = time.Hour, nil, true
				case *parser.AggregateExpr:
					clear(n.Grouping)
				case *parser.Call:
					clear(n.Args)
				case *parser.BinaryExpr:
					if n.VectorMatching != nil {
						n.VectorMatching.Card = parser.CardManyToMany
					}
				}
			}
		}
	}
	_, err = quick.ParseExpr("sum(")
	assert.Error(t, err)
}
