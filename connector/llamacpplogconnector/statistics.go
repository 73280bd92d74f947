// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
)

const (
	// maxAreas bounds the values of llamacpp.log.area.
	maxAreas  = 16
	otherArea = "other"

	attributeSlot = "llamacpp.slot.id"
	attributeTask = "llamacpp.task.id"

	input, output = "input", "output"
)

// statistics of one server, cumulative since Start.
type statistics struct {
	Start     pcommon.Timestamp           `json:"start"`
	Requests  [requests.Outcomes]int64    `json:"requests"`
	Truncated int64                       `json:"truncated"`
	Shifts    int64                       `json:"shifts"`
	Records   map[string]map[string]int64 `json:"records"` // by area and severity
	Load      float64                     `json:"load"`    // seconds
	Loaded    bool                        `json:"loaded"`
	// Histograms by distribution, and by the attribute that tells its series apart.
	Histograms map[string]map[string]*series `json:"histograms"`

	exponential *ExponentialConfig
}

func newStatistics(start pcommon.Timestamp, exponential *ExponentialConfig) *statistics {
	s := &statistics{
		Start:       start,
		Records:     map[string]map[string]int64{},
		Histograms:  map[string]map[string]*series{},
		exponential: exponential,
	}
	// A rate needs a first point before the first request.
	for _, d := range []*distribution{requestDuration, timeToFirstToken, timePerOutputToken, requestCachedTokens, requestPromptSpeed, requestGenerationSpeed} {
		s.series(d, "")
	}
	s.series(requestTokens, input)
	s.series(requestTokens, output)
	return s
}

// series returns that of a distribution with a value of the attribute that tells
// its series apart.
func (s *statistics) series(d *distribution, attribute string) *series {
	all := s.Histograms[d.name]
	if all == nil {
		all = map[string]*series{}
		s.Histograms[d.name] = all
	}
	one := all[attribute]
	if one == nil {
		one = newSeries(d, s.exponential)
		all[attribute] = one
	}
	return one
}

func (s *statistics) logged(severity serverlog.Severity, area string) {
	if _, known := s.Records[area]; area == "" || !known && len(s.Records) >= maxAreas {
		area = otherArea
	}
	bySeverity := s.Records[area]
	if bySeverity == nil {
		bySeverity = map[string]int64{}
		s.Records[strings.Clone(area)] = bySeverity
	}
	if severity == serverlog.Warning {
		bySeverity[metadata.AttributeLlamacppLogSeverityWarning.String()]++
	} else {
		bySeverity[metadata.AttributeLlamacppLogSeverityError.String()]++
	}
}

// ended counts a request that has ended. e links it to its trace, unless it is
// nil. Of one that a proxy has measured, that proxy gives the latencies.
func (s *statistics) ended(r *requests.Request, e *exemplar, measured bool) {
	s.Requests[r.Outcome]++
	if r.Truncated {
		s.Truncated++
	}
	if d, ok := r.Duration(); ok && !measured {
		s.series(requestDuration, r.Reason).record(d.Seconds(), e)
	}
	if r.Outcome != requests.Completed {
		return
	}
	if _, ok := r.FirstToken(); ok && !measured {
		s.series(timeToFirstToken, "").record(r.PromptTime.Seconds(), e)
	}
	if d, ok := r.TimePerOutputToken(); ok && !measured {
		s.series(timePerOutputToken, "").record(d.Seconds(), e)
	}
	if n, ok := r.InputTokens(); ok {
		s.series(requestTokens, input).record(float64(n), e)
	}
	if r.Generated >= 0 {
		s.series(requestTokens, output).record(float64(r.Generated), e)
	}
	if r.Cached >= 0 {
		s.series(requestCachedTokens, "").record(float64(r.Cached), e)
	}
	if v, ok := r.PromptSpeed(); ok {
		s.series(requestPromptSpeed, "").record(v, e)
	}
	if v, ok := r.GenerationSpeed(); ok {
		s.series(requestGenerationSpeed, "").record(v, e)
	}
	if r.Drafted > 0 {
		s.series(requestDraftAcceptance, "").record(float64(r.Accepted)/float64(r.Drafted), e)
	}
}

// restore reads stored statistics into s, which is new.
func (s *statistics) restore(b []byte) error {
	type plain statistics
	old := struct {
		*plain
		Histograms map[string]map[string]json.RawMessage `json:"histograms"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(b, &old); err != nil {
		return err
	}
	if s.Records == nil {
		s.Records = map[string]map[string]int64{}
	}
	for _, d := range distributions {
		for attribute, raw := range old.Histograms[d.name] {
			if err := s.series(d, attribute).UnmarshalJSON(raw); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
	}
	return nil
}

// distributions in the order in which they are emitted.
var distributions = []*distribution{
	requestDuration, timeToFirstToken, timePerOutputToken, requestTokens, requestCachedTokens,
	requestPromptSpeed, requestGenerationSpeed, requestDraftAcceptance,
}
