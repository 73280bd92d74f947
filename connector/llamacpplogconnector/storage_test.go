// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

var storageID = component.MustNewID("file_storage")

// fileStorage is the real extension over a folder of the test.
func fileStorage(t *testing.T) host {
	t.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = t.TempDir()
	ext, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, ext.Shutdown(context.Background())) })
	return host{storageID: ext}
}

// memory is a storage whose content tests look at and break.
type memory struct {
	component.StartFunc
	component.ShutdownFunc
	held   map[string][]byte
	writes int
	err    error
}

func (m *memory) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	if m.held == nil {
		return nil, errors.New("no client today")
	}
	return m, nil
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) { return m.held[key], m.err }
func (m *memory) Set(ctx context.Context, key string, value []byte) error {
	return m.Batch(ctx, storage.SetOperation(key, value))
}

func (m *memory) Delete(ctx context.Context, key string) error {
	return m.Batch(ctx, storage.DeleteOperation(key))
}

func (m *memory) Batch(_ context.Context, ops ...*storage.Operation) error {
	if m.err != nil {
		return m.err
	}
	m.writes++
	for _, op := range ops {
		if op.Type == storage.Delete {
			delete(m.held, op.Key)
		} else {
			m.held[op.Key] = op.Value
		}
	}
	return nil
}

func (m *memory) Close(context.Context) error { return nil }

func storedConfig() *Config {
	cfg := newDefaultConfig()
	cfg.StorageID = &storageID
	cfg.MetricsFlushInterval = time.Hour
	return cfg
}

// session is one life of a collector with a connector of each kind. It ends
// with its storage closed, but without the connectors knowing, as in a kill.
func session(t *testing.T, cfg *Config, h component.Host, texts ...string) (pmetric.Metrics, int) {
	t.Helper()
	set, logged := settings()
	metrics, spans := new(consumertest.MetricsSink), new(consumertest.TracesSink)
	m, err := newMetricsConnector(cfg, set, metrics)
	require.NoError(t, err)
	tr, err := newTracesConnector(cfg, set, spans)
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), h))
	require.NoError(t, tr.Start(t.Context(), h))
	for _, text := range texts {
		ld := logs(text, map[string]any{"host.name": "h", "n": 5})
		require.NoError(t, m.ConsumeLogs(t.Context(), ld))
		require.NoError(t, tr.ConsumeLogs(t.Context(), ld))
	}
	close(m.quit)
	m.done.Wait()
	m.flush(t.Context())
	for _, f := range []*follower{m.follower, tr.follower} {
		require.NoError(t, f.storage.Close(t.Context()))
	}
	assert.Zero(t, logged.Len(), logged.All())
	require.NotEmpty(t, metrics.AllMetrics())
	return metrics.AllMetrics()[0], spans.SpanCount()
}

func TestStorage_CountsAndRequestsGoOnAfterAKill(t *testing.T) {
	for name, cfg := range map[string]*Config{"fixed": storedConfig(), "exponential": storedConfig()} {
		t.Run(name, func(t *testing.T) {
			if name == "exponential" {
				cfg.Histogram = exponentialConfig(histogram.DefaultSize).Histogram
			}
			h := fileStorage(t)
			other := strings.Split(otherRequest, "\n")
			first, spans := session(t, cfg, h, oneRequest, strings.Join(other[:2], "\n"))
			assert.EqualValues(t, 1, completed(first))
			assert.Equal(t, 3, spans)

			// The source reads the last lines again.
			second, spans := session(t, cfg, h, oneRequest, strings.Join(other, "\n"))
			assert.EqualValues(t, 2, completed(second))
			assert.Equal(t, 3, spans)
			before, _ := points.Metric(first, "llamacpp.requests")
			after, _ := points.Metric(second, "llamacpp.requests")
			assert.Equal(t, before.Sum().DataPoints().At(0).StartTimestamp(), after.Sum().DataPoints().At(0).StartTimestamp())
			assert.Equal(t, first.ResourceMetrics().At(0).Resource().Attributes().AsRaw(), second.ResourceMetrics().At(0).Resource().Attributes().AsRaw())

			at, _ := points.Metric(second, "gen_ai.server.request.duration")
			if name == "exponential" {
				assert.EqualValues(t, 2, at.ExponentialHistogram().DataPoints().At(0).Count())
				assert.InDelta(t, 0.00197+0.00147, at.ExponentialHistogram().DataPoints().At(0).Sum(), 1e-9)
			} else {
				assert.EqualValues(t, 2, at.Histogram().DataPoints().At(0).Count())
				assert.InDelta(t, 0.00147, at.Histogram().DataPoints().At(0).Min(), 1e-9)
			}
			third, spans := session(t, cfg, h)
			assert.EqualValues(t, 2, completed(third), "nothing new")
			assert.Zero(t, spans)
		})
	}
}

func TestStorage_NoExtensionIsAnError(t *testing.T) {
	nop := component.MustNewID("nop")
	for want, tt := range map[string]struct {
		id component.ID
		h  host
	}{
		`storage: there is no extension "file_storage": name one under service::extensions`: {storageID, host{}},
		`storage: "nop" stores nothing: name a storage extension, e.g. file_storage`:        {nop, host{nop: struct{ component.Component }{}}},
		`storage: no client today`: {storageID, host{storageID: &memory{}}},
		`storage: broken`:          {storageID, host{storageID: &memory{held: map[string][]byte{}, err: errors.New("broken")}}},
	} {
		cfg := newDefaultConfig()
		cfg.StorageID = &tt.id
		set, _ := settings()
		m, err := newMetricsConnector(cfg, set, consumertest.NewNop())
		require.NoError(t, err)
		require.EqualError(t, m.Start(t.Context(), tt.h), want)
		require.NoError(t, m.Shutdown(t.Context()))
	}
}

func TestStorage_ForeignStateIsLoggedAndBegunAnew(t *testing.T) {
	for name, held := range map[string]map[string]string{
		"list":         {listKey: `{}`},
		"source":       {listKey: `["k"]`, keyPrefix + "k": `[]`},
		"no tracker":   {listKey: `["k"]`, keyPrefix + "k": `{"tracker":null}`},
		"bad tracker":  {listKey: `["k"]`, keyPrefix + "k": `{"tracker":{"processes":{"0":{}}}}`},
		"statistics":   {listKey: `["k"]`, keyPrefix + "k": `{"tracker":{},"servers":{"":{"statistics":[]}}}`},
		"histogram":    {listKey: `["k"]`, keyPrefix + "k": `{"tracker":{},"servers":{"":{"statistics":{"histograms":{"llamacpp.request.tokens":{"input":[]}}}}}}`},
		"other bounds": {listKey: `["k"]`, keyPrefix + "k": `{"tracker":{},"servers":{"":{"statistics":{"histograms":{"llamacpp.request.tokens":{"input":{"counts":[1,2]}}}}}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			mem := &memory{held: map[string][]byte{}}
			for k, v := range held {
				mem.held[k] = []byte(v)
			}
			set, logged := settings()
			sink := new(consumertest.MetricsSink)
			m, err := newMetricsConnector(storedConfig(), set, sink)
			require.NoError(t, err)
			require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
			assert.Equal(t, 1, logged.FilterMessageSnippet("anew").Len(), logged.All())
			require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
			require.NoError(t, m.Shutdown(t.Context()))
			assert.EqualValues(t, 1, completed(sink.AllMetrics()[0]))
		})
	}
	t.Run("a source that is gone", func(t *testing.T) {
		mem := &memory{held: map[string][]byte{listKey: []byte(`["k"]`)}}
		set, logged := settings()
		m, err := newMetricsConnector(storedConfig(), set, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
		assert.Zero(t, logged.Len())
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

func TestStorage_OtherBucketsBeginTheCountsAnewButNotTheLog(t *testing.T) {
	mem := &memory{held: map[string][]byte{}}
	set, logged := settings()
	m, err := newMetricsConnector(storedConfig(), set, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
	require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
	require.NoError(t, m.Shutdown(t.Context()))

	for _, size := range []int32{160, 320} {
		cfg := storedConfig()
		cfg.Histogram = exponentialConfig(size).Histogram
		sink := new(consumertest.MetricsSink)
		m, err = newMetricsConnector(cfg, set, sink)
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
		assert.Equal(t, 1, logged.FilterMessageSnippet("begin anew").Len())
		logged.TakeAll()
		require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
		require.NoError(t, m.Shutdown(t.Context()))
		assert.Zero(t, completed(sink.AllMetrics()[0]), "it was counted before")
	}
}

func TestStorage_ForgottenSourcesAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := &memory{held: map[string][]byte{}}
		cfg := storedConfig()
		cfg.MetricsFlushInterval, cfg.MetricsExpiration = time.Minute, time.Hour
		set, _ := settings()
		m, err := newMetricsConnector(cfg, set, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
		require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, map[string]any{"n": "old"})))
		var before []string
		require.NoError(t, json.Unmarshal(mem.held[listKey], &before))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		// One goes and one comes: there are as many as before.
		require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, map[string]any{"n": "new"})))
		var after []string
		require.NoError(t, json.Unmarshal(mem.held[listKey], &after))
		assert.Len(t, after, 1)
		assert.NotEqual(t, before, after)
		assert.Len(t, mem.held, 2)
		assert.NotContains(t, mem.held, keyPrefix+before[0])

		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.NoError(t, m.Shutdown(t.Context()))
		assert.Len(t, mem.held, 1, "the list alone")
		require.NoError(t, json.Unmarshal(mem.held[listKey], &after))
		assert.Empty(t, after)
	})
}

func TestStorage_ThatFailsForAWhileRefusesNoLogs(t *testing.T) {
	mem := &memory{held: map[string][]byte{}}
	set, logged := settings()
	m, err := newMetricsConnector(storedConfig(), set, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
	mem.err = storage.ErrStorageFull
	require.NoError(t, m.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
	require.NoError(t, m.ConsumeLogs(t.Context(), logs(otherRequest, nil)))
	assert.Equal(t, 1, logged.FilterMessageSnippet("cannot be stored").Len())
	mem.err = nil
	require.NoError(t, m.ConsumeLogs(t.Context(), logs("", nil)))
	require.NoError(t, m.Shutdown(t.Context()))
	assert.Len(t, mem.held, 2)
}

func TestStorage_SpansThatAreRefusedAreNotNotedAsDone(t *testing.T) {
	mem := &memory{held: map[string][]byte{}}
	set, logged := settings()
	next := &refusing{err: errors.New("full")}
	start := func() *tracesConnector {
		c, err := newTracesConnector(storedConfig(), set, next)
		require.NoError(t, err)
		require.NoError(t, c.Start(t.Context(), host{storageID: mem}))
		return c
	}
	c := start()
	require.Error(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
	require.NoError(t, c.Shutdown(t.Context()))
	assert.Empty(t, mem.held)
	assert.Equal(t, 1, logged.FilterMessageSnippet("lost unless their logs are read again").Len())

	next.refuse(nil)
	c = start()
	require.NoError(t, c.ConsumeLogs(t.Context(), logs(oneRequest, nil)))
	require.NoError(t, c.Shutdown(t.Context()))
	assert.Equal(t, 3, next.spans.SpanCount())
}

// testdata/storage holds what a connector stored that had read
// start_and_three_requests_slow.log, oneRequest and two lines of otherRequest.
func TestStorage_WhatEarlierVersionsStoredIsReadable(t *testing.T) {
	for name, cfg := range map[string]*Config{"fixed": storedConfig(), "exponential": storedConfig()} {
		t.Run(name, func(t *testing.T) {
			if name == "exponential" {
				cfg.Histogram = exponentialConfig(histogram.DefaultSize).Histogram
			}
			b, err := os.ReadFile(filepath.Join("testdata", "storage", name+".json"))
			require.NoError(t, err)
			var held map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(b, &held))
			mem := &memory{held: map[string][]byte{}}
			for k, v := range held {
				mem.held[k] = v
			}
			set, logged := settings()
			sink := new(consumertest.MetricsSink)
			m, err := newMetricsConnector(cfg, set, sink)
			require.NoError(t, err)
			require.NoError(t, m.Start(t.Context(), host{storageID: mem}))
			require.Len(t, m.sources, 1)
			for key, s := range m.sources {
				b, err := s.marshal()
				require.NoError(t, err)
				// Earlier versions had no bounds above 10 s.
				want := strings.ReplaceAll(string(held[keyPrefix+key]), "[0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]", "[0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]")
				assert.JSONEq(t, want, string(b))
			}

			rest := strings.Join(strings.Split(otherRequest, "\n")[2:], "\n")
			require.NoError(t, m.ConsumeLogs(t.Context(), logs(rest, map[string]any{"host.name": "h", "n": 5})))
			require.NoError(t, m.Shutdown(t.Context()))
			assert.Zero(t, logged.Len(), logged.All())
			require.NotEmpty(t, sink.AllMetrics())
			md := sink.AllMetrics()[0]
			assert.EqualValues(t, 4, completed(md))
			tokens, ok := points.Metric(md, "llamacpp.request.tokens")
			require.True(t, ok)
			want := map[string]float64{"input": 3106 + 44, "output": 712 + 6}
			if name == "exponential" {
				for _, p := range tokens.ExponentialHistogram().DataPoints().All() {
					typ, _ := p.Attributes().Get("gen_ai.token.type")
					assert.EqualValues(t, 4, p.Count(), typ.Str())
					assert.InDelta(t, want[typ.Str()], p.Sum(), 0, typ.Str())
				}
				return
			}
			for _, p := range tokens.Histogram().DataPoints().All() {
				typ, _ := p.Attributes().Get("gen_ai.token.type")
				assert.EqualValues(t, 4, p.Count(), typ.Str())
				assert.InDelta(t, want[typ.Str()], p.Sum(), 0, typ.Str())
			}
		})
	}
}
