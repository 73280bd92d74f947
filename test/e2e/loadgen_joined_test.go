// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// followLog makes a collector that generates load follow the server's log as well; %s
// are the log and the server.
const followLog = `
receivers:
  file_log: {include: ["%s"], start_at: beginning, include_file_path: true, include_file_record_offset: true}
connectors:
  llamacpplog: {endpoint: "%s"}
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    traces/log: {receivers: [llamacpplog], exporters: [otlp_http]}
`

// joined is the attribute that the client's span of a request and the log's have in
// common.
const joined = "llamacpp.request.timings"

// From each client's span leads one attribute to the trace that the server's log
// tells of the same request, and back.
func TestLoad_EachRequestsSpanLeadsToTheLogsTraceOfIt(t *testing.T) {
	t.Parallel()
	for api, stream := range map[string]bool{"chat": true, "completion": true, "completions": false, "responses": true} {
		t.Run(api, func(t *testing.T) {
			s := logged(t, llamatest.Options{})
			g := generateIn(t, nil, s.URL(), fmt.Sprintf("      steady: {api: %s, stream: %t, rate: 10, gaps: poisson, duration: 3s, max_tokens: {min: 20, max: 60}}", api, stream),
				fmt.Sprintf(followLog, s.Log(), s.URL()))
			run := g.start("steady")
			run = g.awaitRun(run.ID, over, "the run ends")
			require.Equal(t, run.Requests.Due, run.Requests.OK)

			ofLog := otlpsink.SpanWith("llamacpp.request.outcome", "completed")
			g.eventually(func() bool {
				return len(g.Spans().Where(otlpsink.Kind("Client"))) == run.Requests.OK && len(g.Spans().Where(ofLog)) == run.Requests.OK
			}, "the spans of both arrive")
			all := g.Spans()
			for _, client := range all.Where(otlpsink.Kind("Client")) {
				key := client.Attributes[joined]
				require.NotEmpty(t, key)
				found := all.Where(ofLog, otlpsink.SpanWith(joined, key))
				if !assert.Len(t, found, 1, "%s: %s", key, all.Describe()) {
					continue
				}
				server := found[0]
				assert.Equal(t, "Server", server.Kind)
				assert.NotEmpty(t, server.Attributes["llamacpp.task.id"])
				assert.Equal(t, server.Attributes["gen_ai.usage.output_tokens"], client.Attributes["gen_ai.usage.output_tokens"])
				assert.Len(t, all.Children(server), 2, "prompt and generation")
				// The log's clock is the process's, and its place in time is inferred.
				const room = 500 * time.Millisecond
				assert.False(t, server.Start.Before(client.Start.Add(-room)), "%s before %s", server.Start, client.Start)
				assert.False(t, server.End.After(client.End.Add(room)), "%s after %s", server.End, client.End)
				assert.Len(t, all.Where(otlpsink.Kind("Client"), otlpsink.SpanWith(joined, key)), 1, "and back")
			}
		})
	}
}
