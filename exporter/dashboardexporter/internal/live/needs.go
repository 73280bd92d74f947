// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// needs is what the value of an expression comes from.
type needs struct {
	// families are those whose points it reads; a histogram's series count for all
	// names that its family may have.
	families map[string]struct{}
	// reach is how far back it reads, the look-back of the engine aside.
	reach time.Duration
	// always: it may change without points that are told of: rules record what it
	// reads, it selects series by a pattern of names, or it asks for the time.
	always bool
}

// slotFamilies stands for all metrics of single slots.
const slotFamilies = slotPrefix + "*"

// slotNeeds is what the list of running requests needs.
var slotNeeds = needs{families: map[string]struct{}{slotFamilies: {}}}

// needsOf returns what expressions need.
func needsOf(exprs ...string) needs {
	n := needs{families: map[string]struct{}{}}
	for _, expr := range exprs {
		if expr == "" {
			continue
		}
		tree, err := promqlParser.ParseExpr(expr)
		if err != nil { // it was parsed before
			n.always = true
			continue
		}
		before := len(n.families)
		parser.Inspect(tree, func(node parser.Node, path []parser.Node) error {
			n.inspect(node, path)
			return nil
		})
		n.always = n.always || before == 0 && len(n.families) == 0
	}
	return n
}

func (n *needs) inspect(node parser.Node, path []parser.Node) {
	switch e := node.(type) {
	case *parser.Call:
		switch e.Func.Name {
		case "absent", "absent_over_time", "vector", "time":
			n.always = true
		}
		n.always = n.always || len(e.Args) == 0
	case *parser.VectorSelector:
		if e.Name == "" || strings.Contains(e.Name, ":") || strings.HasPrefix(e.Name, "ALERTS") {
			n.always = true
			return
		}
		if e.Timestamp != nil || e.StartOrEnd != 0 || e.OriginalOffset < 0 {
			n.always = true
		}
		n.families[e.Name] = struct{}{}
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if family, ok := strings.CutSuffix(e.Name, suffix); ok {
				n.families[family] = struct{}{}
			}
		}
		reach := e.OriginalOffset
		for _, above := range path {
			switch a := above.(type) {
			case *parser.MatrixSelector:
				reach += a.Range
			case *parser.SubqueryExpr:
				reach += a.Range + a.OriginalOffset
				n.always = n.always || a.Timestamp != nil || a.StartOrEnd != 0 || a.OriginalOffset < 0
			}
		}
		n.reach = max(n.reach, reach)
	}
}

// in says whether some of the families are needed.
func (n needs) in(families map[string]int64) bool {
	if len(families) < len(n.families) {
		for name := range families {
			if _, ok := n.families[name]; ok {
				return true
			}
		}
		return false
	}
	for name := range n.families {
		if _, ok := families[name]; ok {
			return true
		}
	}
	return false
}

// oldest returns the time of the oldest point among those that are needed.
func (n needs) oldest(families map[string]int64, otherwise int64) int64 {
	for name := range n.families {
		if at, ok := families[name]; ok {
			otherwise = min(otherwise, at)
		}
	}
	return otherwise
}
