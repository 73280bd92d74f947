// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// collector is the built collector, with what it exports.
type collector struct {
	*otlpsink.Sink
	*collectortest.Collector
	t testing.TB
}

// logLine is one line of the collector's log.
type logLine struct {
	Level     string `json:"level"`
	Message   string `json:"msg"`
	Component string `json:"otelcol.component.id"`
	State     string `json:"state"`
	// Text is the whole line.
	Text string `json:"-"`
}

// config is the collector's configuration; %s are the receivers, indented by
// two, the exporter's endpoint, and the receivers' names. Every point is sent at
// once, and no log line is left out for being frequent.
const config = `
receivers:
%s
exporters:
  otlp_http:
    endpoint: %s
    timeout: 5s
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  pipelines:
    metrics: {receivers: [%s], exporters: [otlp_http]}
  telemetry:
    logs: {level: info, encoding: json, sampling: {enabled: false}}
    metrics: {level: none}
`

// watch runs a collector with one receiver of a server; settings are further
// lines of its section.
func watch(t testing.TB, endpoint string, settings ...string) *collector {
	t.Helper()
	return run(t, receiver("llamacpp", endpoint, settings...))
}

func receiver(id, endpoint string, settings ...string) string {
	section := fmt.Sprintf("  %s:\n    endpoint: %s\n", id, endpoint)
	for line := range strings.Lines(strings.Join(settings, "\n")) {
		section += "    " + strings.TrimRight(line, "\n") + "\n"
	}
	return section
}

// run runs a collector until the end of the test. Whatever the test is about,
// counters have to behave as counters, and the collector has to end well.
func run(t testing.TB, receivers ...string) *collector {
	t.Helper()
	return runIn(t, nil, receivers...)
}

// runIn is run with further variables in the environment.
func runIn(t testing.TB, environment []string, receivers ...string) *collector {
	t.Helper()
	c := &collector{t: t, Sink: otlpsink.Start(t)}
	var ids []string
	for _, r := range receivers {
		id, _, _ := strings.Cut(strings.TrimSpace(r), ":\n")
		ids = append(ids, id)
	}
	c.begin(environment, fmt.Sprintf(config, strings.Join(receivers, ""), c.URL(), strings.Join(ids, ", ")))
	return c
}

// begin starts the collector with a configuration, until the end of the test.
func (c *collector) begin(environment []string, text string, args ...string) {
	c.t.Helper()
	// After the collector has ended.
	c.t.Cleanup(func() { assert.Empty(c.t, c.Points().Faults()) })
	c.Collector = collectortest.Start(c.t, environment, append([]string{"--config", collectortest.ConfigFile(c.t, text)}, args...)...)
}

// logLines are the lines that the collector has logged so far.
func (c *collector) logLines() []logLine {
	var out []logLine
	for text := range strings.Lines(c.Log()) {
		if !strings.HasSuffix(text, "\n") {
			break // the rest of it is to come
		}
		line := logLine{Text: strings.TrimSpace(text)}
		if json.Unmarshal([]byte(text), &line) != nil { // a panic, say
			line.Level = "?"
		}
		out = append(out, line)
	}
	return out
}

// lines are the log lines of one receiver that hold all the texts.
func (c *collector) lines(id string, texts ...string) []logLine {
	var out []logLine
next:
	for _, l := range c.logLines() {
		for _, text := range texts {
			if !strings.Contains(l.Text, text) {
				continue next
			}
		}
		if l.Component == id {
			out = append(out, l)
		}
	}
	return out
}

// states are the states of the server that a receiver has logged, in order.
func (c *collector) states(id string) []string {
	var out []string
	for _, l := range c.lines(id) {
		if l.State != "" {
			out = append(out, l.State)
		}
	}
	return out
}

// awaitStates waits until a receiver's log has that many states, which may be a
// moment after its metrics have, and compares them.
func (c *collector) awaitStates(id string, want ...string) {
	c.t.Helper()
	c.eventually(func() bool { return len(c.states(id)) >= len(want) }, "the log of %s has the states %v", id, want)
	assert.Equal(c.t, want, c.states(id))
}

// complaints are a receiver's log lines above info.
func (c *collector) complaints(id string) []string {
	var out []string
	for _, l := range c.lines(id) {
		if l.Level != "info" {
			out = append(out, l.Text)
		}
	}
	return out
}

// patience is for what takes a second or two on a machine that is not busy.
const patience = 90 * time.Second

// eventually waits for something to be seen.
func (c *collector) eventually(holds func() bool, what string, args ...any) {
	c.t.Helper()
	otlpsink.Eventually(c.t, patience, holds, what, args...)
}

// await waits until the last value of a metric is the one given.
func (c *collector) await(value float64, metric string, match ...otlpsink.Match) {
	c.t.Helper()
	match = append(match, otlpsink.Metric(metric))
	c.eventually(func() bool { return c.Points(match...).LastIs(value) }, "%s is %v", metric, value)
}

// awaitState waits until the server, or a model of a router, is in a state.
func (c *collector) awaitState(state string, match ...otlpsink.Match) {
	c.t.Helper()
	c.eventually(func() bool { return c.state(match...) == state }, "the state is %s", state)
}

// state is the last state of a server; "" before the first.
func (c *collector) state(match ...otlpsink.Match) string {
	var state string
	var at time.Time
	for _, p := range c.Points(append(match, otlpsink.Metric("llamacpp.server.status"))...) {
		if p.Value == 1 && !p.Time.Before(at) {
			state, at = p.Attributes["llamacpp.server.state"], p.Time
		}
	}
	return state
}

// awaitScrapes waits until the server has been looked at n more times.
func (c *collector) awaitScrapes(n int, match ...otlpsink.Match) {
	c.t.Helper()
	match = append(match, inState("ok"))
	before := len(c.Points(match...))
	c.eventually(func() bool { return len(c.Points(match...)) >= before+n }, "the server is looked at %d more times", n)
}

// inState chooses the points that say whether a server is in a state.
func inState(state string) otlpsink.Match {
	return func(p otlpsink.Point) bool {
		return p.Metric == "llamacpp.server.status" && p.Attributes["llamacpp.server.state"] == state
	}
}

// slots chooses the points that say how many slots are in a state.
func slots(state string) otlpsink.Match {
	return func(p otlpsink.Point) bool {
		return p.Metric == "llamacpp.slots" && p.Attributes["llamacpp.slot.state"] == state
	}
}
