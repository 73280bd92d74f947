// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// recorded is how many minutes at the default intervals a recording has the
// scrapes of, and haste by how much its clocks were faster than those.
const (
	recorded = 11
	haste    = 40
)

// record gives what a pipeline gets in eleven minutes from a server with load
// and from its log: batch for batch what the receivers and the connector made,
// with the times that they have at the default intervals. The clocks run 40 times
// as fast as those, and the times of the points are stretched by as much, so that
// eleven minutes are recorded in 17 s. The last point is of the time at which
// record returns. All tests share one recording.
func record(t *testing.T) []pmetric.Metrics {
	t.Helper()
	recording.Do(func() { recording.batches = recordOnce(t) })
	require.NotEmpty(t, recording.batches, "the recording failed in another test")
	return recording.batches
}

var recording struct {
	sync.Once
	batches []pmetric.Metrics
}

func recordOnce(t *testing.T) []pmetric.Metrics {
	t.Helper()
	logFile := filepath.Join(t.TempDir(), "llama-server.log")
	log, err := os.Create(logFile)
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	server := llamasim.Start(t, llamasim.Options{Log: log})
	server.AddLoad(llamasim.Load{Concurrency: 6})

	var mu sync.Mutex
	var batches []pmetric.Metrics
	scrapes := map[string]int{}
	recorder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := pmetricotlp.NewExportRequest()
		if err == nil {
			err = request.UnmarshalProto(body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		batches = append(batches, request.Metrics())
		for _, m := range points.Metrics(request.Metrics()) {
			scrapes[m.Name()]++
		}
	}))
	t.Cleanup(recorder.Close)
	source := collectortest.Start(t, nil, "--config", collectortest.ConfigFile(t, fmt.Sprintf(`
extensions:
  file_storage: {directory: %[1]q}
receivers:
  llamacpp:
    endpoint: %[2]s
    scrapers: {server: {collection_interval: 25ms}, slots: {collection_interval: 12500us}}
  file_log: {include: [%[3]q], start_at: beginning, poll_interval: 25ms, storage: file_storage, include_file_path: true, include_file_record_offset: true}
connectors:
  llamacpplog: {endpoint: %[2]s, metrics_flush_interval: 25ms}
exporters:
  otlp_http: {endpoint: %[4]s, compression: none, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
service:
  extensions: [file_storage]
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    metrics: {receivers: [llamacpp, llamacpplog], exporters: [otlp_http]}
  telemetry: {metrics: {level: none}}
`, t.TempDir(), server.URL(), logFile, recorder.URL)))

	const minute = 60 // scrapes of the server
	otlpsink.Eventually(t, 3*time.Minute, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return scrapes["llamacpp.server.status"] > recorded*minute && scrapes["llamacpp.slots.tokens.decoded"] > 2*recorded*minute &&
			scrapes["gen_ai.server.request.duration"] > recorded*minute/2
	}, "%d minutes of scrapes: %v", recorded, scrapes)
	source.Terminate()
	stretch(batches, haste)
	return batches
}

// stretch moves all times away from now by a factor.
func stretch(batches []pmetric.Metrics, factor int) {
	now := time.Now()
	moveTimes(batches, func(at time.Time) time.Time { return now.Add(-now.Sub(at) * time.Duration(factor)) })
}

// earlier is a copy in which everything was measured some time earlier.
func earlier(batches []pmetric.Metrics, by time.Duration) []pmetric.Metrics {
	var out []pmetric.Metrics
	for _, md := range batches {
		c := pmetric.NewMetrics()
		md.CopyTo(c)
		out = append(out, c)
	}
	moveTimes(out, func(at time.Time) time.Time { return at.Add(-by) })
	return out
}

func moveTimes(batches []pmetric.Metrics, to func(time.Time) time.Time) {
	move := func(at pcommon.Timestamp) pcommon.Timestamp {
		if at == 0 {
			return 0
		}
		return pcommon.NewTimestampFromTime(to(at.AsTime()))
	}
	exemplars := func(es pmetric.ExemplarSlice) {
		for _, e := range es.All() {
			e.SetTimestamp(move(e.Timestamp()))
		}
	}
	for _, md := range batches {
		for _, m := range points.Metrics(md) {
			for _, p := range points.Numbers(m).All() {
				p.SetTimestamp(move(p.Timestamp()))
				p.SetStartTimestamp(move(p.StartTimestamp()))
			}
			if m.Type() != pmetric.MetricTypeHistogram {
				continue
			}
			for _, p := range m.Histogram().DataPoints().All() {
				p.SetTimestamp(move(p.Timestamp()))
				p.SetStartTimestamp(move(p.StartTimestamp()))
				exemplars(p.Exemplars())
			}
		}
	}
}

// replayer is a client of a collector's OTLP receiver. It gives a batch again
// until it is taken, as every client has to.
type replayer struct {
	t   *testing.T
	url string
}

// receiveOTLP is an overlay that replaces what a pipeline gets by what a
// replayer sends.
func receiveOTLP(t *testing.T) (r replayer, overlay string) {
	t.Helper()
	port := freeport.For(t)
	return replayer{t, fmt.Sprintf("http://127.0.0.1:%d", port)}, fmt.Sprintf(`
receivers: {otlp: {protocols: {http: {endpoint: "127.0.0.1:%d"}}}}
service: {pipelines: {metrics: {receivers: [otlp]}}}
`, port)
}

// give returns when the collector has taken all.
func (r replayer) give(batches ...pmetric.Metrics) {
	r.t.Helper()
	for _, md := range batches {
		body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		require.NoError(r.t, err)
		otlpsink.Eventually(r.t, time.Minute, func() bool { return r.post(body) == http.StatusOK }, "the collector takes a batch")
	}
}

// post returns the status, or 0 where there was no answer.
func (r replayer) post(body []byte) int { return r.postTo("/v1/metrics", body) }

func (r replayer) postTo(path string, body []byte) int {
	answer, err := http.Post(r.url+path, "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return answer.StatusCode
}
