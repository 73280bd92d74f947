// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
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
	Histograms map[string]map[string]*histogram.Series `json:"histograms"`

	exponential *ExponentialConfig
}

func newStatistics(start pcommon.Timestamp, exponential *ExponentialConfig) *statistics {
	s := &statistics{
		Start:       start,
		Records:     map[string]map[string]int64{},
		Histograms:  map[string]map[string]*histogram.Series{},
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
func (s *statistics) series(d *distribution, attribute string) *histogram.Series {
	all := s.Histograms[d.name]
	if all == nil {
		all = map[string]*histogram.Series{}
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
func (s *statistics) ended(r *requests.Request, e *histogram.Exemplar, measured bool) {
	s.Requests[r.Outcome]++
	if r.Truncated {
		s.Truncated++
	}
	if d, ok := r.Duration(); ok && !measured {
		s.series(requestDuration, r.Reason).Record(d.Seconds(), e)
	}
	if r.Outcome != requests.Completed {
		return
	}
	if _, ok := r.FirstToken(); ok && !measured {
		s.series(timeToFirstToken, "").Record(r.PromptTime.Seconds(), e)
	}
	if d, ok := r.TimePerOutputToken(); ok && !measured {
		s.series(timePerOutputToken, "").Record(d.Seconds(), e)
	}
	if n, ok := r.InputTokens(); ok {
		s.series(requestTokens, input).Record(float64(n), e)
	}
	if r.Generated >= 0 {
		s.series(requestTokens, output).Record(float64(r.Generated), e)
	}
	if r.Cached >= 0 {
		s.series(requestCachedTokens, "").Record(float64(r.Cached), e)
	}
	if v, ok := r.PromptSpeed(); ok {
		s.series(requestPromptSpeed, "").Record(v, e)
	}
	if v, ok := r.GenerationSpeed(); ok {
		s.series(requestGenerationSpeed, "").Record(v, e)
	}
	if r.Drafted > 0 {
		s.series(requestDraftAcceptance, "").Record(float64(r.Accepted)/float64(r.Drafted), e)
	}
}

// waited counts the wait of a request that came through a proxy; ok is false where the
// proxy has it. The first such request of any kind makes the series, since a rate needs
// a point before the next one.
func (s *statistics) waited(d time.Duration, ok bool, e *histogram.Exemplar) {
	if one := s.series(queueDuration, ""); ok {
		one.Record(d.Seconds(), e)
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
			if d == timeToFirstToken && s.exponential == nil {
				raw = withBoundsAbove10(raw)
			}
			if err := s.series(d, attribute).UnmarshalJSON(raw); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
	}
	return nil
}

// withBoundsAbove10 adds the buckets that earlier versions did not have to stored counts
// of the time to the first token. What was above 10 s stays above all bounds.
func withBoundsAbove10(stored json.RawMessage) json.RawMessage {
	const before = 17 // buckets
	var old map[string]json.RawMessage
	var counts []uint64
	if json.Unmarshal(stored, &old) != nil || json.Unmarshal(old["counts"], &counts) != nil || len(counts) != before {
		return stored
	}
	added := make([]uint64, len(firstTokenBounds)+1-before)
	extended, err := json.Marshal(slices.Insert(counts, before-1, added...))
	if err != nil {
		return stored
	}
	old["counts"] = extended
	all, err := json.Marshal(old)
	if err != nil {
		return stored
	}
	return all
}

// distributions in the order in which they are emitted.
var distributions = []*distribution{
	requestDuration, timeToFirstToken, timePerOutputToken, queueDuration, requestTokens, requestCachedTokens,
	requestPromptSpeed, requestGenerationSpeed, requestDraftAcceptance,
}
