// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package slotsscraper

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"
	receivermetadata "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"
	"github.com/llamatelemetry/otelcol-llamacpp/test/goldenfile"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

var t0 = time.Now().Add(-time.Hour)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

// script hands out what each look found, one after the other.
type script struct{ looks [][]watch.SlotsView }

func (s *script) LookAtSlots(context.Context, bool, time.Duration, time.Duration) []watch.SlotsView {
	views := s.looks[0]
	s.looks = s.looks[1:]
	return views
}

func newIdentity(t *testing.T) *identity.Server {
	t.Helper()
	e, err := endpoint.Parse("http://server:8080")
	require.NoError(t, err)
	id := identity.New(receivermetadata.DefaultResourceAttributesConfig(), "llama-server", e)
	t.Cleanup(id.Withdraw)
	return id
}

type fixture struct {
	*Scraper
	script *script
	logs   *observer.ObservedLogs
}

func newFixture(t *testing.T, cfg Config) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	set := receivertest.NewNopSettings(receivertest.NopType)
	set.Logger = zap.New(core)
	s := &script{}
	return &fixture{New(&cfg, set, s, newIdentity(t), time.Second), s, logs}
}

func (f *fixture) scrape(t *testing.T, views ...watch.SlotsView) pmetric.Metrics {
	t.Helper()
	f.script.looks = append(f.script.looks, views)
	md, err := f.Scrape(t.Context())
	require.NoError(t, err)
	return md
}

// totals is an answer of /metrics at a time.
func totals(seconds float64, process int, predicted, prompt float64, idle bool) *watch.Snapshot {
	counter := func(v float64) *dto.MetricFamily {
		return &dto.MetricFamily{Metric: []*dto.Metric{{Counter: &dto.Counter{Value: &v}}}}
	}
	return &watch.Snapshot{
		Metrics: &llamaserver.Metrics{Families: map[string]*dto.MetricFamily{
			"llamacpp:tokens_predicted_total": counter(predicted),
			"llamacpp:prompt_tokens_total":    counter(prompt),
		}},
		Began: at(seconds), Ended: at(seconds), Process: process, Since: at(float64(process)), Idle: idle, Active: !idle,
	}
}

func reading(seconds float64, slots ...llamaserver.Slot) *watch.SlotsReading {
	return &watch.SlotsReading{Slots: slots, Began: at(seconds), Ended: at(seconds)}
}

func busy(id int, task, processed, decoded int64) llamaserver.Slot {
	return llamaserver.Slot{
		ID: id, Context: 100, Busy: true, Task: task,
		Processed: processed, Decoded: decoded, Tokens: processed + decoded, Remaining: llamaserver.Unknown,
	}
}

func idle(id int) llamaserver.Slot {
	return llamaserver.Slot{ID: id, Context: 100, Task: llamaserver.Unknown, Tokens: llamaserver.Unknown}
}

// value returns the point of a metric; state chooses one by attribute.
func value(t *testing.T, md pmetric.Metrics, name, state string) float64 {
	t.Helper()
	p, ok := point(md, name, state)
	require.True(t, ok, "no %s %s", name, state)
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

func point(md pmetric.Metrics, name, state string) (pmetric.NumberDataPoint, bool) {
	m, ok := points.Metric(md, name)
	if !ok {
		return pmetric.NumberDataPoint{}, false
	}
	for _, p := range points.Numbers(m).All() {
		if v, ok := p.Attributes().Get("llamacpp.slot.state"); state == "" || ok && v.Str() == state {
			return p, true
		}
	}
	return pmetric.NumberDataPoint{}, false
}

const (
	decoded   = "llamacpp.slots.tokens.decoded"
	processed = "llamacpp.slots.tokens.processed"
)

func TestScrape_BusySlots(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Metrics.LlamacppSlotContextUsage.Enabled = true
	cfg.Metrics.LlamacppSlotStatus.Enabled = true
	cfg.Metrics.LlamacppSlotTask.Enabled = true
	cfg.Metrics.LlamacppSlotTokensDecoded.Enabled = true
	cfg.Metrics.LlamacppSlotTokensProcessed.Enabled = true
	cfg.Metrics.LlamacppSlotTokensRemaining.Enabled = true
	f := newFixture(t, cfg)
	limited := busy(1, 8, 30, 5)
	limited.Remaining = 15
	md := f.scrape(t, watch.SlotsView{
		Snapshot: totals(0, 1, 1000, 2000, false),
		Reading:  reading(0.01, busy(0, 7, 20, 0), limited, idle(2), idle(3)),
	})
	goldenfile.EqualMetrics(t, filepath.Join("testdata", "busy.yaml"), md)
}

func TestScrape_LiveCountersJoinTotalsAndSlots(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	md := f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 1000, 2000, false), Reading: reading(0.01, busy(0, 7, 20, 0), busy(1, 8, 30, 5))})
	assert.InDelta(t, 1005, value(t, md, decoded, ""), 0)
	assert.InDelta(t, 2020, value(t, md, processed, ""), 0, "the prompt of the one that generates is in the total")

	md = f.scrape(t, watch.SlotsView{Snapshot: totals(1, 1, 1005, 2020, true)})
	assert.InDelta(t, 1005, value(t, md, decoded, ""), 0)
	assert.InDelta(t, 2020, value(t, md, processed, ""), 0)
}

func TestScrape_ReleasedSlotKeepsTokensCounted(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	s := totals(0, 1, 0, 0, false)
	f.scrape(t, watch.SlotsView{Snapshot: s, Reading: reading(0.01, busy(0, 7, 3, 40))})
	for name, released := range map[string]llamaserver.Slot{
		"new builds zero its count": {ID: 0, Context: 100, Task: 7, Decoded: 0},
		"old ones keep it":          {ID: 0, Context: 100, Task: 7, Decoded: 44},
	} {
		md := f.scrape(t, watch.SlotsView{Snapshot: s, Reading: reading(0.5, released)})
		assert.InDelta(t, 40, value(t, md, decoded, ""), 0, name)
	}
}

func TestScrape_IdleServerHasIdleSlotsWithoutAskingForThem(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	md := f.scrape(t, watch.SlotsView{Props: &llamaserver.Props{Slots: 4, Context: 100}, Snapshot: totals(0, 1, 10, 20, true)})
	assert.InDelta(t, 4, value(t, md, "llamacpp.slots", "idle"), 0)
	assert.InDelta(t, 0, value(t, md, "llamacpp.slots", "generating"), 0)
	assert.InDelta(t, 0, value(t, md, "llamacpp.context.utilization", ""), 0)
	assert.InDelta(t, 10, value(t, md, decoded, ""), 0)
}

func TestScrape_NothingIsSaidOfSlotsThatWereNotRead(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	md := f.scrape(t, watch.SlotsView{Props: &llamaserver.Props{Slots: 4}, Snapshot: totals(0, 1, 10, 20, false)})
	_, ok := points.Metric(md, "llamacpp.slots")
	assert.False(t, ok)
	assert.InDelta(t, 10, value(t, md, decoded, ""), 0, "but the total is known")
}

func TestScrape_RestartStartsAllCountersAnew(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, true)})
	f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, false), Reading: reading(0.5, busy(0, 7, 3, 40))})
	last := f.scrape(t, watch.SlotsView{Snapshot: totals(1, 1, 45, 3, true)})
	before, ok := point(last, decoded, "")
	require.True(t, ok)
	md := f.scrape(t, watch.SlotsView{Snapshot: totals(2, 2, 3, 4, true)})
	p, ok := point(md, decoded, "")
	require.True(t, ok)
	assert.EqualValues(t, 3, p.IntValue())
	assert.Greater(t, p.StartTimestamp(), before.Timestamp()-1, "not before the last point of the process before")
	assert.LessOrEqual(t, p.StartTimestamp(), p.Timestamp())
	assert.InDelta(t, 0, value(t, md, "llamacpp.requests.observed", ""), 0)
	m, ok := points.Metric(md, "llamacpp.request.duration")
	require.True(t, ok)
	assert.Zero(t, m.Histogram().DataPoints().At(0).Count())
	assert.Equal(t, p.StartTimestamp(), m.Histogram().DataPoints().At(0).StartTimestamp())
}

func TestScrape_DurationsOfRequestsSeenToStartAndToEnd(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	s := totals(0, 1, 0, 0, false)
	look := func(r *watch.SlotsReading) pmetric.Metrics {
		return f.scrape(t, watch.SlotsView{Snapshot: s, Reading: r})
	}
	look(reading(0.0, busy(1, 3, 1, 1)))                       // 3: start not seen
	look(reading(0.5, busy(0, 7, 0, 0), busy(1, 3, 1, 2)))     // 7 starts at 0.25
	look(reading(1.0, busy(0, 7, 9, 0), idle(1)))              // 3 ends
	look(reading(1.5, busy(0, 7, 9, 1), busy(1, 8, 5, 5)))     // 7 generates from 1.25, 8 starts at 1.25
	look(reading(2.0, busy(0, 9, 0, 0), busy(1, 8, 5, 6)))     // 7 ends at 1.75, its slot reused at once
	md := look(reading(2.5, llamaserver.Slot{ID: 0}, idle(1))) // 8 and 9 end at 2.25
	assert.InDelta(t, 4, value(t, md, "llamacpp.requests.observed", ""), 0)

	total, ok := points.Metric(md, "llamacpp.request.duration")
	require.True(t, ok)
	d := total.Histogram().DataPoints().At(0)
	assert.EqualValues(t, 3, d.Count())
	assert.InDelta(t, (1.75-0.25)+(2.25-1.25)+(2.25-1.75), d.Sum(), 1e-6)
	assert.InDelta(t, 0.5, d.Min(), 1e-6)
	assert.InDelta(t, 1.5, d.Max(), 1e-6)
	assert.Len(t, d.BucketCounts().AsRaw(), d.ExplicitBounds().Len()+1)

	prompt, ok := points.Metric(md, "llamacpp.request.prompt.duration")
	require.True(t, ok)
	assert.EqualValues(t, 1, prompt.Histogram().DataPoints().At(0).Count(), "only of 7 was the prompt seen")
	assert.InDelta(t, 1.25-0.25, prompt.Histogram().DataPoints().At(0).Sum(), 1e-6)
}

func TestScrape_RequestThatStartsBetweenTwoReadsOfMetricsIsTimed(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, true)})
	running := totals(1, 1, 0, 0, false)
	f.scrape(t, watch.SlotsView{Snapshot: running}) // /slots is late
	f.scrape(t, watch.SlotsView{Snapshot: running, Reading: reading(1.5, busy(0, 7, 5, 1))})
	md := f.scrape(t, watch.SlotsView{Snapshot: running, Reading: reading(2, idle(0))})
	m, ok := points.Metric(md, "llamacpp.request.duration")
	require.True(t, ok)
	assert.EqualValues(t, 1, m.Histogram().DataPoints().At(0).Count())
	assert.InDelta(t, 1.75-0.75, m.Histogram().DataPoints().At(0).Sum(), 1e-6)
}

func TestScrape_DurationOverALongGapIsNotGuessed(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	s := totals(0, 1, 0, 0, false)
	f.scrape(t, watch.SlotsView{Snapshot: s, Reading: reading(0, idle(0))})
	f.scrape(t, watch.SlotsView{Snapshot: s, Reading: reading(0.5, busy(0, 7, 0, 0))})
	md := f.scrape(t, watch.SlotsView{Snapshot: s, Reading: reading(60, idle(0))})
	assert.InDelta(t, 1, value(t, md, "llamacpp.requests.observed", ""), 0)
	m, ok := points.Metric(md, "llamacpp.request.duration")
	require.True(t, ok)
	assert.Zero(t, m.Histogram().DataPoints().At(0).Count())
}

func TestScrape_HistogramsCanBeSwitchedOffAndStandAlone(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Metrics.RequestDuration.Enabled = false
	md := newFixture(t, cfg).scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, true)})
	_, ok := points.Metric(md, "llamacpp.request.duration")
	assert.False(t, ok)
	_, ok = points.Metric(md, "llamacpp.request.prompt.duration")
	assert.True(t, ok)

	cfg = NewDefaultConfig()
	cfg.Metrics.MetricsConfig = MetricsConfig{}.MetricsConfig
	md = newFixture(t, cfg).scrape(t, watch.SlotsView{Model: "m", Snapshot: totals(0, 1, 0, 0, true)})
	assert.Equal(t, 2, md.MetricCount())
	model, _ := md.ResourceMetrics().At(0).Resource().Attributes().Get("llamacpp.model.name")
	assert.Equal(t, "m", model.Str())
}

func TestScrape_WithoutMetricsLogsOnceThatNothingIsRead(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	for range 3 {
		md := f.scrape(t, watch.SlotsView{NoMetrics: true})
		assert.Zero(t, md.MetricCount())
	}
	require.Equal(t, 1, f.logs.Len())
	assert.Contains(t, f.logs.All()[0].Message, "start llama-server with --metrics, or set scrapers::slots::poll to always")
}

func TestScrape_WithoutMetricsAlwaysCountsWhatIsSeen(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Poll = PollAlways
	f := newFixture(t, cfg)
	f.scrape(t, watch.SlotsView{NoMetrics: true, Reading: reading(0, busy(0, 7, 3, 40))})
	md := f.scrape(t, watch.SlotsView{NoMetrics: true, Reading: reading(0.5, busy(0, 7, 3, 50))})
	assert.InDelta(t, 50, value(t, md, decoded, ""), 0)
	assert.Zero(t, f.logs.Len())
}

func TestScrape_UnloadedModelIsForgotten(t *testing.T) {
	f := newFixture(t, NewDefaultConfig())
	a := watch.SlotsView{Model: "a", Snapshot: totals(0, 1, 10, 0, true)}
	b := watch.SlotsView{Model: "b", Snapshot: totals(0, 1, 20, 0, true)}
	assert.Equal(t, 2, f.scrape(t, a, b).ResourceMetrics().Len())
	assert.Equal(t, 1, f.scrape(t, b).ResourceMetrics().Len())
	assert.Len(t, f.instances, 1)
	f.scrape(t, watch.SlotsView{Model: "b", Down: true}) // for a moment
	assert.Len(t, f.instances, 1)
}

func TestScrape_SlotsGaugesEndWithTheirRequestAlsoByARestart(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Metrics.LlamacppSlotTokensDecoded.Enabled = true
	f := newFixture(t, cfg)
	f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, false), Reading: reading(0.01, busy(0, 7, 20, 1), busy(1, 8, 30, 5))})
	md := f.scrape(t, watch.SlotsView{Snapshot: totals(1, 2, 0, 0, false), Reading: reading(1.01, idle(0), busy(1, 1, 30, 5))})
	require.Equal(t, 2, md.ResourceMetrics().Len())
	markers := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	require.Equal(t, 1, markers.Len(), "of slot 0; slot 1 holds another request")
	p := markers.At(0).Gauge().DataPoints().At(0)
	assert.True(t, p.Flags().NoRecordedValue())
	id, _ := p.Attributes().Get("llamacpp.slot.id")
	assert.Zero(t, id.Int())
}

func TestScrape_RequestWithoutLimitEndsWhatRemainedInItsSlot(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Metrics.LlamacppSlotTokensRemaining.Enabled = true
	f := newFixture(t, cfg)
	limited := busy(0, 7, 20, 1)
	limited.Remaining = 30
	f.scrape(t, watch.SlotsView{Snapshot: totals(0, 1, 0, 0, false), Reading: reading(0.01, limited)})
	md := f.scrape(t, watch.SlotsView{Snapshot: totals(1, 1, 0, 0, false), Reading: reading(1.01, busy(0, 8, 20, 1))})
	require.Equal(t, 2, md.ResourceMetrics().Len())
	marker := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0)
	assert.Equal(t, "llamacpp.slot.tokens.remaining", marker.Name())
	assert.True(t, marker.Gauge().DataPoints().At(0).Flags().NoRecordedValue())
}

func TestScrape_StatusGoesOnWhereARequestEnds(t *testing.T) {
	cfg := NewDefaultConfig()
	cfg.Metrics.LlamacppSlotStatus.Enabled = true
	cfg.Metrics.LlamacppSlotTask.Enabled = true
	cfg.Metrics.LlamacppSlotTokensProcessed.Enabled = true
	f := newFixture(t, cfg)
	// lanes lists the points of slots; a value of -1 is an end.
	lanes := func(md pmetric.Metrics) map[string]int64 {
		all := map[string]int64{}
		for _, rm := range md.ResourceMetrics().All() {
			for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
				if !strings.HasPrefix(m.Name(), "llamacpp.slot.") {
					continue
				}
				for _, p := range points.Numbers(m).All() {
					id, _ := p.Attributes().Get("llamacpp.slot.id")
					key := strings.TrimPrefix(m.Name(), "llamacpp.slot.") + " " + id.AsString()
					if state, ok := p.Attributes().Get("llamacpp.slot.state"); ok {
						key += " " + state.Str()
					}
					value := p.IntValue()
					if p.Flags().NoRecordedValue() {
						value = -1
					}
					if value != 0 {
						all[key] = value
					}
				}
			}
		}
		return all
	}
	props := &llamaserver.Props{Slots: 2, Context: 100}
	look := func(v watch.SlotsView) map[string]int64 {
		v.Props = props
		return lanes(f.scrape(t, v))
	}
	assert.Equal(t, map[string]int64{"status 0 idle": 1, "status 1 idle": 1}, look(watch.SlotsView{Snapshot: totals(0, 1, 0, 0, true)}), "idle, and not asked")
	running := totals(1, 1, 0, 0, false)
	assert.Equal(t, map[string]int64{
		"status 0 prompt": 1, "task 0": 7, "tokens.processed 0": 20, "status 1 generating": 1, "task 1": 8, "tokens.processed 1": 30,
	}, look(watch.SlotsView{Snapshot: running, Reading: reading(1, busy(0, 7, 20, 0), busy(1, 8, 30, 5))}))
	assert.Equal(t, map[string]int64{
		"status 0 generating": 1, "task 0": 9, "tokens.processed 0": 25, "status 1 idle": 1, "task 1": -1, "tokens.processed 1": -1,
	}, look(watch.SlotsView{Snapshot: running, Reading: reading(1.5, busy(0, 9, 25, 1), idle(1))}))
	assert.Equal(t, map[string]int64{
		"status 0 idle": 1, "task 0": -1, "tokens.processed 0": -1, "status 1 idle": 1,
	}, look(watch.SlotsView{Snapshot: totals(2, 1, 0, 0, true)}))
	props = &llamaserver.Props{Slots: 1, Context: 100}
	assert.Equal(t, map[string]int64{
		"status 0 idle": 1, "status 1 idle": -1, "status 1 prompt": -1, "status 1 generating": -1,
	}, look(watch.SlotsView{Snapshot: totals(3, 2, 0, 0, true)}), "started again with fewer slots")
	assert.Equal(t, map[string]int64{"status 0 idle": -1, "status 0 prompt": -1, "status 0 generating": -1}, lanes(f.End()))
}

// The real server, read every half second: a prompt of 4,500 tokens in batches
// with an answer of 150, a stream that the client cut after about 150, and a
// short request.
func TestScrape_RecordedTimelineOfTheRealServer(t *testing.T) {
	file, err := os.Open(filepath.Join("..", "..", "..", "..", "internal", "llamaserver", "testdata", "recorded", "timeline", "prompt_generate_cancel.jsonl"))
	require.NoError(t, err)
	defer func() { assert.NoError(t, file.Close()) }()
	f := newFixture(t, NewDefaultConfig())
	var lastDecoded, lastProcessed float64
	var last map[string]json.Number
	moved := false
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			T       float64
			Slots   json.RawMessage
			Metrics map[string]json.Number
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
		slots, err := llamaserver.ParseSlots(line.Slots)
		require.NoError(t, err)
		number := func(name string) float64 {
			v, err := line.Metrics[name].Float64()
			require.NoError(t, err)
			return v
		}
		resting := number("requests_processing") == 0 && number("requests_deferred") == 0
		md := f.scrape(t, watch.SlotsView{
			Snapshot: totals(line.T, 1, number("tokens_predicted_total"), number("prompt_tokens_total"), resting),
			Reading:  reading(line.T+0.001, slots...),
		})
		d, p := value(t, md, decoded, ""), value(t, md, processed, "")
		assert.GreaterOrEqual(t, d, lastDecoded)
		assert.GreaterOrEqual(t, p, lastProcessed)
		if resting && !slots[0].Busy && !slots[1].Busy {
			assert.InDelta(t, number("tokens_predicted_total"), d, 0)
			assert.InDelta(t, number("prompt_tokens_total"), p, 0)
		}
		moved = moved || d > lastDecoded && !resting
		lastDecoded, lastProcessed, last = d, p, line.Metrics
	}
	require.NoError(t, lines.Err())
	assert.True(t, moved, "counts while a request runs")
	total, _ := last["tokens_predicted_total"].Float64()
	assert.InDelta(t, total, lastDecoded, 0)
}
