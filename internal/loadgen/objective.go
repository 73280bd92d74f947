// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// Objective is a set of latency bounds, all of which a request has to meet.
type Objective []bound

type bound struct {
	metric string
	below  time.Duration
}

// latencies are the latencies of a request that an objective can bound. TTFT and
// E2E are measured from when the request was due; ITL is the longest time between
// two chunks.
var latencies = map[string]func(*completion.Result) (time.Duration, bool){
	"ttft": func(r *completion.Result) (time.Duration, bool) { return r.TTFT(r.Due) },
	"tpot": (*completion.Result).TPOT,
	"itl":  longestGap,
	"e2e":  func(r *completion.Result) (time.Duration, bool) { return r.End.Sub(r.Due), true },
}

func longestGap(r *completion.Result) (time.Duration, bool) {
	if len(r.Gaps) == 0 {
		return 0, false
	}
	return slices.Max(r.Gaps), true
}

var boundPattern = regexp.MustCompile(`^\s*(\w+)\s*<\s*(\S+)\s*$`)

// ParseObjective parses bounds on ttft, tpot, itl and e2e, such as
// ttft<500ms && tpot<50ms.
func ParseObjective(s string) (Objective, error) {
	var o Objective
	for part := range strings.SplitSeq(s, "&&") {
		m := boundPattern.FindStringSubmatch(part)
		if len(m) == 0 || latencies[m[1]] == nil {
			return nil, fmt.Errorf("objective %q: want bounds on ttft, tpot, itl or e2e, such as ttft<500ms && tpot<50ms", s)
		}
		d, err := time.ParseDuration(m[2])
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("objective %q: %s is no time: want one such as 500ms or 2s", s, m[2])
		}
		o = append(o, bound{m[1], d})
	}
	return o, nil
}

// String returns the objective in the form that ParseObjective parses.
func (o Objective) String() string {
	parts := make([]string, len(o))
	for i, b := range o {
		parts[i] = fmt.Sprintf("%s<%s", b.metric, b.below)
	}
	return strings.Join(parts, " && ")
}

// met reports whether a request succeeded within the bounds. An answer of fewer
// than two tokens has no time per token and meets any bound on it, as one of fewer
// than two chunks does any bound on the time between them. An answer that was not
// streamed has no first token and meets no bound on the time to it.
func (o Objective) met(r *completion.Result) bool {
	if r.Outcome != completion.OK {
		return false
	}
	for _, b := range o {
		d, ok := latencies[b.metric](r)
		if !ok && (b.metric == "tpot" || b.metric == "itl") {
			continue
		}
		if !ok || d >= b.below {
			return false
		}
	}
	return true
}
