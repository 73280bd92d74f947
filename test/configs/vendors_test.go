// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// vendor is an OTLP backend that notes what it is asked with.
type vendor struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	metrics  []pmetric.Metrics
}

// startVendor starts a backend, which is away for its first request.
func startVendor(t *testing.T) *vendor {
	t.Helper()
	v := &vendor{}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		unzipped, err := gzip.NewReader(r.Body)
		if err == nil {
			body, err = io.ReadAll(unzipped)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.requests = append(v.requests, r)
		if len(v.requests) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		request := pmetricotlp.NewExportRequest()
		if err == nil && strings.HasSuffix(r.URL.Path, "/v1/metrics") {
			err = request.UnmarshalProto(body)
			v.metrics = append(v.metrics, request.Metrics())
		}
		if err != nil {
			t.Errorf("%s: %v", r.URL, err)
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(v.Close)
	return v
}

// eventually waits for a request to a path, and returns the last.
func (v *vendor) eventually(t *testing.T, path string) *http.Request {
	t.Helper()
	var found *http.Request
	require.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, r := range v.requests[min(1, len(v.requests)):] {
			if r.URL.Path == path {
				found = r
			}
		}
		return found != nil
	}, 40*time.Second, 50*time.Millisecond, "nothing came to %s", path)
	return found
}

// Each of these goes on top of otlp-out.yaml, from which it has queue and retries.
func TestExamplesForVendors_SendTheirHeaders(t *testing.T) {
	for example, test := range map[string]struct {
		env     []string // the last is completed by the backend's URL
		path    string   // in front of /v1
		headers map[string]string
	}{
		"otlp-grafana-cloud.yaml": {
			// Text of digits alone stays text.
			env:     []string{"GRAFANA_CLOUD_INSTANCE_ID=0123456", "GRAFANA_CLOUD_API_KEY=glc_secret", "GRAFANA_CLOUD_OTLP_ENDPOINT=%s/otlp"},
			path:    "/otlp",
			headers: map[string]string{"Authorization": "Basic MDEyMzQ1NjpnbGNfc2VjcmV0"}, // base64 of 0123456:glc_secret
		},
		"otlp-honeycomb.yaml": {
			env:     []string{"HONEYCOMB_API_KEY=hcaik_secret", "HONEYCOMB_ENDPOINT=%s"},
			headers: map[string]string{"X-Honeycomb-Team": "hcaik_secret", "X-Honeycomb-Dataset": "llamacpp-metrics"},
		},
		"otlp-datadog.yaml": {
			env: []string{"DD_API_KEY=0123456789", "DD_OTLP_ENDPOINT=%s"},
			headers: map[string]string{
				"Dd-Api-Key": "0123456789", "Compute_stats": "true", "Dd-Otel-Metric-Config": `{"resource_attributes_as_tags": true}`,
			},
		},
	} {
		t.Run(example, func(t *testing.T) {
			backend := startVendor(t)
			env := slices.Clone(test.env)
			env[len(env)-1] = fmt.Sprintf(env[len(env)-1], backend.URL)
			log, err := os.Create(filepath.Join(t.TempDir(), "llama-server.log"))
			require.NoError(t, err)
			defer log.Close()
			sim := llamasim.Start(t, llamasim.Options{Log: log})
			state := filepath.Join(t.TempDir(), "state")
			_, c := startLogged(t, append(env, "LLAMACPP_ENDPOINT="+sim.URL(), "LLAMACPP_LOG="+log.Name(), "STATE_DIRECTORY="+state),
				"collector-config.yaml", "examples/otlp-out.yaml", "examples/"+example)
			c.AwaitLog("Started watching file")
			sim.AddLoad(llamasim.Load{Concurrency: 1, MaxTokens: 20})

			for _, signal := range []string{"/v1/metrics", "/v1/traces"} {
				request := backend.eventually(t, test.path+signal)
				for name, want := range test.headers {
					assert.Equal(t, want, request.Header.Get(name), "%s of %s", name, signal)
				}
				assert.Equal(t, "gzip", request.Header.Get("Content-Encoding"))
			}
			queues, err := filepath.Glob(filepath.Join(state, "exporter_otlp_http_*"))
			require.NoError(t, err)
			assert.Len(t, queues, 2, "the queues are on disk")
			assert.NotContains(t, c.Log(), "Dropping data")
		})
	}
}

func TestDatadogExample_SendsDeltasAndPrometheusKeepsTotals(t *testing.T) {
	backend := startVendor(t)
	sim := llamasim.Start(t, llamasim.Options{})
	sim.AddLoad(llamasim.Load{Concurrency: 2, MaxTokens: 20})
	metrics := start(t, []string{"LLAMACPP_ENDPOINT=" + sim.URL(), "DD_API_KEY=secret", "DD_OTLP_ENDPOINT=" + backend.URL},
		"collector-config.yaml", "examples/otlp-out.yaml", "examples/otlp-datadog.yaml")
	counters := map[string]pmetric.AggregationTemporality{}
	require.Eventually(t, func() bool {
		backend.mu.Lock()
		defer backend.mu.Unlock()
		for _, md := range backend.metrics {
			for _, resource := range md.ResourceMetrics().All() {
				for _, scope := range resource.ScopeMetrics().All() {
					for _, m := range scope.Metrics().All() {
						switch {
						case m.Type() == pmetric.MetricTypeSum && m.Sum().IsMonotonic():
							counters[m.Name()] = m.Sum().AggregationTemporality()
						case m.Type() == pmetric.MetricTypeHistogram:
							counters[m.Name()] = m.Histogram().AggregationTemporality()
						}
					}
				}
			}
		}
		return counters["llamacpp.tokens.predicted"] != 0 && counters["llamacpp.request.duration"] != 0
	}, 40*time.Second, 100*time.Millisecond, "%v", counters)
	for name, temporality := range counters {
		assert.Equal(t, pmetric.AggregationTemporalityDelta, temporality, name)
	}
	eventuallyServes(t, metrics, "llamacpp_tokens_predicted_total{")
}

// The collector on the host of llama-server and the gateway, as their comment says.
func TestContribGateway_ReceivesFromWhoKnowsTheToken(t *testing.T) {
	sink := otlpsink.Start(t)
	dir := t.TempDir()
	port := freeport.For(t)
	gateway := collectortest.Start(t, []string{
		"GATEWAY_TOKEN=secret", "GATEWAY_OTLP_ENDPOINT=" + sink.URL(), "GATEWAY_STATE_DIRECTORY=" + filepath.Join(dir, "gateway"),
		fmt.Sprintf("GATEWAY_PORT=%d", port), fmt.Sprintf("GATEWAY_HEALTH_CHECK_PORT=%d", freeport.For(t)),
	}, "--config", filepath.Join(root, "examples", "contrib-gateway.yaml"), "--config", collectortest.ConfigFile(t, quiet))
	gateway.AwaitLog("Everything is ready")

	agent := func(server, token string) *collectortest.Collector {
		env := append(environment(t),
			"LLAMACPP_ENDPOINT="+server, "GATEWAY_TOKEN="+token, fmt.Sprintf("OTLP_ENDPOINT=http://localhost:%d", port),
			fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
			fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)), fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)))
		return collectortest.Start(t, env, "--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "otlp-out.yaml"),
			"--config", "yaml:exporters::otlp_http::headers::authorization: Bearer ${env:GATEWAY_TOKEN}")
	}
	known, stranger := simulator(t), simulator(t)
	agent(known, "secret")
	otlpsink.Eventually(t, 40*time.Second, func() bool {
		return len(sink.Points(otlpsink.Metric("llamacpp.server.status"), otlpsink.Of(strings.TrimPrefix(known, "http://")))) > 0
	}, "a point of %s", known)

	agent(stranger, "guessed").AwaitLog("401")
	assert.Empty(t, sink.Points(otlpsink.Of(strings.TrimPrefix(stranger, "http://"))))
}
