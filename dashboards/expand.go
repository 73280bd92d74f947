// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Variables are the values of the variables in expressions. They may come from
// anywhere: what they contain is taken literally.
type Variables struct {
	// Server, GPU and Run are values of the labels instance and hw_id; none means all.
	Server, GPU, Run []string
	// Interval is $__rate_interval; less than a millisecond means a second.
	Interval time.Duration
}

// Expand puts the values of variables into an expression, as Grafana does.
func Expand(expr string, v Variables) string {
	interval := v.Interval
	if interval < time.Millisecond {
		interval = time.Second
	}
	return strings.NewReplacer(
		"$__rate_interval", model.Duration(interval).String(),
		"$server", anyOf(v.Server),
		"$gpu", anyOf(v.GPU),
		"$run", anyOf(v.Run),
	).Replace(expr)
}

// anyOf is a regular expression that matches any of the values and nothing
// else, as it stands between the quotes of a string.
func anyOf(values []string) string {
	if len(values) == 0 {
		return ".+"
	}
	quoted := make([]string, len(values))
	for i, value := range values {
		quoted[i] = regexp.QuoteMeta(strings.ToValidUTF8(value, "\uFFFD"))
	}
	// The lexer takes the character that stands for invalid ones for an invalid one:
	// nothing but ASCII is safe.
	text := strconv.QuoteToASCII(strings.Join(quoted, "|"))
	return text[1 : len(text)-1]
}
