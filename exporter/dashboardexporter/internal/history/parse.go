// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"slices"
	"sync"

	"github.com/prometheus/prometheus/promql/parser"
)

// maxParsed is how many expressions are remembered.
const maxParsed = 2000

// parsed remembers what it parsed: those who look at the dashboard evaluate the same
// expressions again and again, and an engine takes nothing but text.
type parsed struct {
	parser.Parser

	mu    sync.Mutex
	known map[string]parser.Expr
}

// NewParser returns a parser that is quick with what it has parsed before.
func NewParser() parser.Parser {
	return &parsed{Parser: parser.NewParser(parser.Options{}), known: map[string]parser.Expr{}}
}

// ParseExpr implements parser.Parser.
func (p *parsed) ParseExpr(input string) (parser.Expr, error) {
	p.mu.Lock()
	known, ok := p.known[input]
	p.mu.Unlock()
	if ok {
		copied, _ := clone(known)
		return copied, nil
	}
	expr, err := p.Parser.ParseExpr(input)
	if err != nil {
		return nil, err
	}
	// The engine writes into what it gets.
	if copied, ok := clone(expr); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.known) >= maxParsed {
			clear(p.known)
		}
		p.known[input] = copied
	}
	return expr, nil
}

// clone copies an expression as it was parsed. It is false for what it does not
// know.
func clone(e parser.Expr) (parser.Expr, bool) {
	switch n := e.(type) {
	case *parser.NumberLiteral:
		return new(*n), true
	case *parser.StringLiteral:
		return new(*n), true
	case *parser.VectorSelector:
		c := *n
		// A matcher does not change, the list might.
		c.LabelMatchers = slices.Clone(n.LabelMatchers)
		return &c, n.OriginalOffsetExpr == nil && n.Series == nil && n.UnexpandedSeriesSet == nil
	case *parser.MatrixSelector:
		c, ok := *n, n.RangeExpr == nil
		ok = into(&c.VectorSelector) && ok
		return &c, ok
	case *parser.SubqueryExpr:
		c, ok := *n, n.RangeExpr == nil && n.OriginalOffsetExpr == nil && n.StepExpr == nil
		ok = into(&c.Expr) && ok
		return &c, ok
	case *parser.ParenExpr:
		c := *n
		return &c, into(&c.Expr)
	case *parser.UnaryExpr:
		c := *n
		return &c, into(&c.Expr)
	case *parser.BinaryExpr:
		c := *n
		if n.VectorMatching != nil {
			c.VectorMatching = new(*n.VectorMatching)
		}
		ok := into(&c.LHS)
		return &c, into(&c.RHS) && ok
	case *parser.AggregateExpr:
		c, ok := *n, true
		c.Grouping = slices.Clone(n.Grouping)
		if c.Param != nil {
			ok = into(&c.Param)
		}
		return &c, into(&c.Expr) && ok
	case *parser.Call:
		c, ok := *n, true
		c.Args = slices.Clone(n.Args)
		for i := range c.Args {
			ok = into(&c.Args[i]) && ok
		}
		return &c, ok
	}
	return e, false
}

func into(e *parser.Expr) (ok bool) {
	*e, ok = clone(*e)
	return ok
}
