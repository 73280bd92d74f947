// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

func TestSummarize(t *testing.T) {
	for expr, want := range map[string]string{
		`x{a="b"}`:                `avg_over_time(x{a="b"}[10s])`,
		`sum by (a) (x) / sum(y)`: `sum by (a) (avg_over_time(x[10s])) / sum(avg_over_time(y[10s]))`,
		`-(x - 1)`:                `-(avg_over_time(x[10s]) - 1)`,
		`topk(scalar(n), x)`:      `topk(scalar(avg_over_time(n[10s])), avg_over_time(x[10s]))`,
		`x offset 5m`:             `avg_over_time(x[10s] offset 5m)`,
		`rate(x[5s]) + y`:         `rate(x[5s]) + avg_over_time(y[10s])`,
		`rate(x[5s])`:             ``,
		`max_over_time(x[5m:1s])`: ``,
		`time() - timestamp(x)`:   ``,
		`histogram_quantile(0.9, sum by (le) (rate(x_bucket[5s])))`: ``,
	} {
		how, parts := summarize(expr)
		if want == "" {
			assert.Equal(t, without, how, expr)
			continue
		}
		assert.NotEqual(t, without, how, expr)
		assert.Equal(t, want, over(parts[mean], 10*time.Second), expr)
		assert.Equal(t, strings.ReplaceAll(want, "avg_", "min_"), over(parts[low], 10*time.Second), expr)
		assert.Equal(t, strings.ReplaceAll(want, "avg_", "max_"), over(parts[high], 10*time.Second), expr)
	}
}

func TestSummarize_WhatBringsItsOwnTimesIsLeftToFunctions(t *testing.T) {
	for expr, want := range map[string]summary{
		`x / on () group_left () sum(rate(y[5s]))`: bySelector,
		`x offset 1m`:                 byFunction,
		`x @ end()`:                   byFunction,
		`x - max_over_time(y[5m:1s])`: byFunction,
		`x + timestamp(y)`:            byFunction,
	} {
		how, _ := summarize(expr)
		assert.Equal(t, want, how, expr)
	}
}

func TestCompile_RatesSpanTheBucket(t *testing.T) {
	h := newHub(t, newPrometheus(t), func(s *Settings) {
		s.Catalogue = &dashboards.Catalogue{Panels: []dashboards.Panel{
			{ID: "a", Queries: []dashboards.Query{{Expr: `rate(x[$__rate_interval])`}}},
			{ID: "b", Interval: "30s", Queries: []dashboards.Query{{Expr: `rate(x[$__rate_interval])`}}},
		}}
	})
	for step, want := range map[time.Duration][]string{
		time.Second:      {"rate(x[5s])", "rate(x[30s])"},
		10 * time.Second: {"rate(x[10s])", "rate(x[30s])"},
		time.Minute:      {"rate(x[1m])", "rate(x[1m])"},
	} {
		p, err := h.compile(view{step: step})
		assert.NoError(t, err)
		assert.Equal(t, want, []string{p.panels[0].queries[0].expr, p.panels[1].queries[0].expr})
	}
}

func TestNew_SaysWhichExpressionIsWrong(t *testing.T) {
	c := catalogue()
	c.Tiles[0].Expr = "sum("
	_, err := New(Settings{Catalogue: c, Querier: newPrometheus(t)})
	assert.ErrorContains(t, err, "tile queue: sum(: ")
}

func TestCatalogue_TheEmbeddedOneCompiles(t *testing.T) {
	c, err := dashboards.Load()
	assert.NoError(t, err)
	h, err := New(Settings{Catalogue: c, Querier: newPrometheus(t)})
	if assert.NoError(t, err) {
		h.Close()
	}
}
