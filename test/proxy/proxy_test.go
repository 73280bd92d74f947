// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// patience is for what takes a second or two on a machine that is not busy.
const patience = 90 * time.Second

// config is the collector's configuration; %s are the proxy's address, the
// upstream's URL, further settings of the upstream and of the receiver, further
// receivers, where spans and metrics go, the names of the further receivers, and the
// log's level. Every point is sent at once.
const config = `
receivers:
  llamaproxy:
    endpoint: %s
    upstream:
      endpoint: %s
%s    metrics_flush_interval: 200ms
%s%sexporters:
  otlp_http/traces: &exporter
    endpoint: %s
    timeout: 5s
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
  otlp_http/metrics:
    <<: *exporter
    endpoint: %s
service:
  pipelines:
    metrics: {receivers: [llamaproxy%s], exporters: [otlp_http/metrics]}
    traces: {receivers: [llamaproxy], exporters: [otlp_http/traces]}
  telemetry:
    logs: {level: %s, encoding: json, sampling: {enabled: false}}
    metrics: {level: none}
`

// settings are what a test changes.
type settings struct {
	// upstream and receiver are further lines of these sections.
	upstream, receiver []string
	// receivers are others, whose metrics are exported as well.
	receivers []string
	// traces is where spans go instead of to the sink.
	traces string
	// more is a further configuration, on top.
	more string
	// level is the log's (default info).
	level string
}

// proxy is a collector whose proxy listens at an address, and what it exports.
type proxy struct {
	*otlpsink.Sink
	*collectortest.Collector
	t       testing.TB
	address string
}

// start runs a proxy in front of an upstream until the end of the test.
func start(t testing.TB, upstream string, s settings) *proxy {
	t.Helper()
	p := &proxy{t: t, Sink: otlpsink.Start(t), address: fmt.Sprintf("127.0.0.1:%d", freeport.For(t))}
	if s.traces == "" {
		s.traces = p.Sink.URL()
	}
	if s.level == "" {
		s.level = "info"
	}
	var others string
	for _, r := range s.receivers {
		id, _, _ := strings.Cut(r, ":")
		others += ", " + id
	}
	text := fmt.Sprintf(config, p.address, upstream, lines(6, s.upstream), lines(4, s.receiver), lines(2, s.receivers), s.traces, p.Sink.URL(), others, s.level)
	args := []string{"--config", collectortest.ConfigFile(t, text)}
	if s.more != "" {
		args = append(args, "--config", collectortest.ConfigFile(t, s.more))
	}
	p.Collector = collectortest.Start(t, nil, args...)
	p.AwaitLog("Everything is ready")
	return p
}

func lines(indent int, all []string) string {
	var b strings.Builder
	for _, line := range all {
		b.WriteString(strings.Repeat(" ", indent) + line + "\n")
	}
	return b.String()
}

// URL is what clients take for the server.
func (p *proxy) URL() string { return "http://" + p.address }

// eventually waits for something to be seen.
func (p *proxy) eventually(holds func() bool, what string, args ...any) {
	p.t.Helper()
	otlpsink.Eventually(p.t, patience, holds, what, args...)
}

// total is the sum of the last points of all series that match.
func (p *proxy) total(metric string, match ...otlpsink.Match) float64 {
	return p.Points(append(match, otlpsink.Metric(metric))...).Total()
}

// awaitTotal waits until the sum over all series that match is the one given.
func (p *proxy) awaitTotal(want float64, metric string, match ...otlpsink.Match) {
	p.t.Helper()
	p.eventually(func() bool { return p.total(metric, match...) == want }, "%s is %v in all", metric, want)
}

// outcome chooses the requests that ended in one way.
func outcome(how string) otlpsink.Match {
	return otlpsink.With("llamacpp.request.outcome", how)
}

// operation chooses by what was asked for.
func operation(name string) otlpsink.Match { return otlpsink.With("gen_ai.operation.name", name) }

// awaitOutcomes waits until the given number of requests has ended in each way,
// and none in another.
func (p *proxy) awaitOutcomes(want map[string]int) {
	p.t.Helper()
	for _, how := range []string{"completed", "cancelled", "rejected", "failed"} {
		p.awaitTotal(float64(want[how]), "llamacpp.proxy.requests", outcome(how))
	}
}

// dial opens a connection, which has to be done with within a time.
func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

// oneShot makes a connection for each request, and follows no redirect.
func oneShot() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// do sends a request and reads the answer.
func do(t testing.TB, client *http.Client, method, url, body string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	r, err := client.Do(q)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}
