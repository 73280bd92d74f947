// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var promqlParser = parser.NewParser(parser.Options{})

func TestExpand_PutsValuesInAsGrafanaDoes(t *testing.T) {
	const expr = `rate(a{instance=~"$server"}[$__rate_interval]) + b{hw_id=~"$gpu"} + c{instance=~"$run"}`
	assert.Equal(t, `rate(a{instance=~".+"}[1s]) + b{hw_id=~".+"} + c{instance=~".+"}`, Expand(expr, Variables{}))
	assert.Equal(t, `rate(a{instance=~"localhost:8080|\\[::1\\]:80/a\\+b"}[1m30s]) + b{hw_id=~"GPU-1"} + c{instance=~"\\$server"}`,
		Expand(expr, Variables{Server: []string{"localhost:8080", "[::1]:80/a+b"}, GPU: []string{"GPU-1"}, Run: []string{"$server"}, Interval: 90 * time.Second}))
}

// Values come from addresses of requests: nothing in them may end the string
// that they are put into, or match another server.
func FuzzExpand_ValuesAreTakenLiterally(f *testing.F) {
	for _, value := range []string{"localhost:8080", `"} or vector(1) #`, `\`, "`", "a|b", ".*", "$server", "\n", "\xff", "\uFFFD", "\x00", "", "🦙", "[", "(?i)x"} {
		f.Add(value, "other", int64(5*time.Second))
	}
	f.Add("x", "y", int64(-1))
	f.Add("x", "y", int64(1<<63-1))
	f.Fuzz(func(t *testing.T, value, other string, interval int64) {
		text := Expand(`rate(a{instance=~"$server"}[$__rate_interval])`, Variables{Server: []string{value, "second"}, Interval: time.Duration(interval)})
		expr, err := promqlParser.ParseExpr(text)
		require.NoError(t, err, text)
		matchers := expr.(*parser.Call).Args[0].(*parser.MatrixSelector).VectorSelector.(*parser.VectorSelector).LabelMatchers
		require.Len(t, matchers, 2, text)
		matches := matchers[0].Matches
		literal := strings.ToValidUTF8(value, "\uFFFD")
		assert.True(t, matches(literal), text)
		assert.True(t, matches("second"), text)
		assert.Equal(t, other == literal || other == "second", matches(other), text)
	})
}
