// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/entry"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator/helper"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator/parser/regex"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/logwriter"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"
)

const (
	// batchLines is how many lines file_log hands on at once, about.
	batchLines = 12 * logwriter.LinesPerRequest
	// batches are those of one measurement, for which the clock is stopped.
	batches = 20
)

// fields takes a line apart, and makes nothing of it: the least with which a
// pipeline of contrib's parts could go on.
const fields = `^(?P<clock>\S+) (?P<level>\w) (?P<area>\w+) +(?P<function>\w+): id +(?P<slot>\d+) \| task (?P<task>-?\d+) \| +(?P<text>.*)$`

// BenchmarkLines takes in lines of the server's log: the connector to metrics
// and to traces, and the regex_parser of contrib's file_log.
func BenchmarkLines(b *testing.B) {
	b.Run("llamacpplog/metrics", func(b *testing.B) {
		factory := llamacpplogconnector.NewFactory()
		c, err := factory.CreateLogsToMetrics(b.Context(), connectortest.NewNopSettings(factory.Type()), factory.CreateDefaultConfig(), consumertest.NewNop())
		if err != nil {
			b.Fatal(err)
		}
		lines(b, c.ConsumeLogs, logs)
	})
	b.Run("llamacpplog/traces", func(b *testing.B) {
		factory := llamacpplogconnector.NewFactory()
		c, err := factory.CreateLogsToTraces(b.Context(), connectortest.NewNopSettings(factory.Type()), factory.CreateDefaultConfig(), consumertest.NewNop())
		if err != nil {
			b.Fatal(err)
		}
		lines(b, c.ConsumeLogs, logs)
	})
	b.Run("regex_parser", func(b *testing.B) {
		set := componenttest.NewNopTelemetrySettings()
		cfg := regex.NewConfig()
		cfg.Regex = fields
		parser, err := cfg.Build(set)
		if err != nil {
			b.Fatal(err)
		}
		parser.SetOutputIDs([]string{"synchronous_log_emitter"})
		drop := helper.NewSynchronousLogEmitter(set, func(context.Context, []*entry.Entry) {})
		if err := parser.SetOutputs([]operator.Operator{drop}); err != nil {
			b.Fatal(err)
		}
		lines(b, parser.ProcessBatch, entries)
	})
}

// lines measures what takes them in, in the form that pack gives them.
func lines[T any](b *testing.B, take func(context.Context, T) error, pack func([]string) T) {
	task := 0
	fresh := func() T {
		var text []string
		for len(text) < batchLines {
			text = append(text, logwriter.Request(task%8, task, time.Duration(task+100)*10*time.Millisecond)...)
			task++
		}
		return pack(text)
	}
	b.ReportAllocs()
	for range b.N {
		b.StopTimer()
		var ready []T
		for range batches {
			ready = append(ready, fresh())
		}
		b.StartTimer()
		for _, x := range ready {
			if err := take(b.Context(), x); err != nil {
				b.Fatal(err)
			}
		}
	}
	n := float64(b.N) * batches * batchLines
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/line")
	b.ReportMetric(n/b.Elapsed().Seconds(), "lines/s")
}

func logs(lines []string) plog.Logs {
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for _, line := range lines {
		r := records.AppendEmpty()
		r.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		r.Body().SetStr(line)
	}
	return ld
}

func entries(lines []string) []*entry.Entry {
	var es []*entry.Entry
	for _, line := range lines {
		e := entry.New()
		e.Body = line
		es = append(es, e)
	}
	return es
}
