// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// certificate is a valid certificate of localhost and its key, in PEM.
func certificate(tb testing.TB) (cert, key []byte) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(tb, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// start runs the collector with the files, on ports of its own, until the test
// ends. It returns the URL of its Prometheus endpoint.
func start(tb testing.TB, env []string, files ...string) string {
	tb.Helper()
	url, _ := startLogged(tb, env, files...)
	return url
}

// startLogged is start that returns the collector as well.
func startLogged(tb testing.TB, env []string, files ...string) (url string, c *collectortest.Collector) {
	tb.Helper()
	var args []string
	for _, file := range files {
		args = append(args, "--config", filepath.Join(root, file))
	}
	port := freeport.For(tb)
	env = append(append(environment(tb),
		fmt.Sprintf("PROMETHEUS_PORT=%d", port), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(tb)), fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(tb)),
		fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(tb))),
		env...)
	return fmt.Sprintf("http://localhost:%d/metrics", port), collectortest.Start(tb, env, args...)
}

// eventuallyServes waits until a line of the Prometheus endpoint has all the parts.
func eventuallyServes(tb testing.TB, url string, parts ...string) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		response, err := http.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return false
		}
	lines:
		for line := range strings.Lines(string(body)) {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			return true
		}
		return false
	}, 40*time.Second, 200*time.Millisecond, "no line with %q at %s", parts, url)
}

func simulator(tb testing.TB) string {
	tb.Helper()
	return llamasim.Start(tb, llamasim.Options{}).URL()
}

func TestCollectorConfig_ServesPrometheus(t *testing.T) {
	server := simulator(t)
	metrics := start(t, []string{"LLAMACPP_ENDPOINT=" + server}, "collector-config.yaml")
	eventuallyServes(t, metrics, "llamacpp_server_status{", `llamacpp_server_state="ok"`, "} 1")
	eventuallyServes(t, metrics, "llamacpp_slots_tokens_decoded_total{", `instance="`+strings.TrimPrefix(server, "http://")+`"`)
}

func TestCollectorConfig_ReadsTheLogThatIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "llama-server.log")
	lines := recording(t)
	require.NoError(t, os.WriteFile(file, []byte(lines[0]+"\n"), 0o600))
	metrics, c := startLogged(t, []string{"LLAMACPP_ENDPOINT=" + simulator(t), "LLAMACPP_LOG=" + file}, "collector-config.yaml")
	c.AwaitLog("Started watching file")
	time.Sleep(500 * time.Millisecond) // only then it looks where the file ends
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(strings.Join(lines[1:], "\n") + "\n")
	require.NoError(t, err)
	eventuallyServes(t, metrics, "gen_ai_server_time_to_first_token_seconds_count{", "} 2")
	eventuallyServes(t, metrics, "llamacpp_requests_total{", `llamacpp_request_outcome="completed"`, "} 2")

	// What the documentation asks Prometheus for is there.
	text, err := os.ReadFile(root + "/docs/latency.md")
	require.NoError(t, err)
	queries := regexp.MustCompile("(?s)```promql\n(.*?)```").FindSubmatch(text)
	require.NotNil(t, queries)
	names := regexp.MustCompile(`(?m)^[^#]*`).FindAll(queries[1], -1)
	series := regexp.MustCompile(`\b(?:gen_ai|llamacpp)_\w+_(?:total|bucket|sum|count)\b`).FindAll(bytes.Join(names, []byte("\n")), -1)
	require.NotEmpty(t, series)
	for _, name := range series {
		eventuallyServes(t, metrics, string(name)+"{")
	}
}

func TestOTLPOut_KeepsDataWhileTheBackendIsAway(t *testing.T) {
	var away atomic.Bool
	var refused atomic.Int64
	away.Store(true)
	received := make(chan string, 1000)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			body = unzipped
		}
		data, err := io.ReadAll(body)
		if err == nil {
			select {
			case received <- r.URL.Path + string(data):
			default:
			}
		}
	}))
	defer backend.Close()

	state := filepath.Join(t.TempDir(), "state")
	start(t, []string{"LLAMACPP_ENDPOINT=" + simulator(t), "OTLP_ENDPOINT=" + backend.URL, "STATE_DIRECTORY=" + state},
		"collector-config.yaml", "examples/otlp-out.yaml")
	require.Eventually(t, func() bool { return refused.Load() > 0 }, 30*time.Second, 50*time.Millisecond)
	files, err := filepath.Glob(filepath.Join(state, "exporter_otlp_http_*"))
	require.NoError(t, err)
	assert.NotEmpty(t, files, "the queue is on disk")

	away.Store(false)
	select {
	case got := <-received:
		assert.True(t, strings.HasPrefix(got, "/v1/metrics"))
		assert.Contains(t, got, "llamacpp.server.status")
	case <-time.After(40 * time.Second):
		t.Fatal("nothing came after the backend was back")
	}
}

func TestCollectorConfig_ReadsTheSimulatorsLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "llama-server.log")
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	sim := llamasim.Start(t, llamasim.Options{Log: file})
	metrics, c := startLogged(t, []string{"LLAMACPP_ENDPOINT=" + sim.URL(), "LLAMACPP_LOG=" + path}, "collector-config.yaml")
	c.AwaitLog("Started watching file")
	sim.AddLoad(llamasim.Load{Concurrency: 1, MaxTokens: 20})
	eventuallyServes(t, metrics, "gen_ai_server_request_duration_seconds_count{", `instance="`+strings.TrimPrefix(sim.URL(), "http://")+`"`)
	eventuallyServes(t, metrics, "gen_ai_server_time_to_first_token_seconds_count{")
}

// A real llama-server is found by its process's name alone.
func TestDiscoverHost_FindsALlamaServerThatNobodyNamed(t *testing.T) {
	server := llamatest.Start(t, llamatest.Options{})
	address, err := url.Parse(server.URL())
	require.NoError(t, err)
	metrics := start(t, []string{"DISCOVERY_INTERVAL=1s"}, "examples/discover-host.yaml")
	eventuallyServes(t, metrics, "llamacpp_server_status{", `llamacpp_server_state="ok"`, ":"+address.Port()+`"`, "} 1")
	eventuallyServes(t, metrics, "llamacpp_slots_tokens_decoded_total{", ":"+address.Port()+`"`)
}

func TestDiscoverHost_FindsAServerBehindItsPrefix(t *testing.T) {
	server := llamatest.Start(t, llamatest.Options{Args: []string{"--api-prefix", "/llama"}, WithoutWait: true})
	metrics := start(t, []string{"DISCOVERY_INTERVAL=1s"}, "examples/discover-host.yaml")
	eventuallyServes(t, metrics, "llamacpp_server_status{", `llamacpp_server_state="ok"`, fmt.Sprintf(`:%d/llama"`, server.Port), "} 1")
}

// examples/dashboard.yaml is for other machines: without the password nothing can be read.
func TestDashboardExample_AsksForThePasswordOverTLS(t *testing.T) {
	port := freeport.For(t)
	env := append(environment(t), "LLAMACPP_ENDPOINT="+simulator(t), fmt.Sprintf("DASHBOARD_PORT=%d", port))
	c := collectortest.Start(t, env, "--config", filepath.Join(root, "examples", "dashboard.yaml"), "--config", collectortest.ConfigFile(t, quiet))
	c.AwaitLog("Everything is ready")
	pem, err := os.ReadFile(variable(t, env, "PAGE_CERTIFICATE"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/", "/api/v1/query?query=up", "/live/snapshot", "/loadgen/api/v1/runs"} {
		for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, variable(t, env, "PAGE_PASSWORD"): http.StatusOK} {
			if path == "/loadgen/api/v1/runs" && want == http.StatusOK {
				want = http.StatusNotFound // there is no load generator
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://localhost:%d%s", port, path), http.NoBody)
			require.NoError(t, err)
			r.Host = "gpu-server.example" // with a password any name will do
			if password != "" {
				r.SetBasicAuth("admin", password)
			}
			response, err := client.Do(r)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			assert.Equal(t, want, response.StatusCode, "%s with %q", path, password)
		}
	}
}

// variable is the value of a variable in an environment.
func variable(t *testing.T, env []string, name string) string {
	t.Helper()
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	t.Fatalf("%s is not set", name)
	return ""
}
