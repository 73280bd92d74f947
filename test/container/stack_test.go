// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/alertmanagertest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/jaegertest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

// ask returns the status and the body of an answer to a request for a host, and
// status 0 where there is none.
func ask(t *testing.T, url, host string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	request.Host = host
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, 200*time.Millisecond, what)
}

// dataSource is one of Grafana's.
type dataSource struct {
	Name, UID, Type, URL string
	IsDefault            bool `yaml:"isDefault"`
	JSONData             struct {
		TimeInterval string `yaml:"timeInterval"`
		Exemplars    []struct {
			Name          string
			DatasourceUID string `yaml:"datasourceUid"`
		} `yaml:"exemplarTraceIdDestinations"`
	} `yaml:"jsonData"`
}

// The services as processes of this machine, each with the very file that compose
// mounts into its container. Only names and ports of other services are replaced.
func TestStack_WorksOnTheFilesThatAreMounted(t *testing.T) {
	t.Parallel()
	services := stack(t).Services
	read := func(service, path string) string {
		text, err := os.ReadFile(services[service].source(t, path))
		require.NoError(t, err)
		return string(text)
	}

	log := filepath.Join(t.TempDir(), "llama-server.log")
	lines, err := os.Create(log)
	require.NoError(t, err)
	t.Cleanup(func() { lines.Close() })
	sim := llamasim.Start(t, llamasim.Options{Log: lines, TokensPerSecond: 1000})
	alertmanager := alertmanagertest.Start(t, read("alertmanager", "/etc/alertmanager/alertmanager.yaml"))

	var grpc, metrics, page, telemetry, health string
	for _, address := range []*string{&grpc, &metrics, &page, &telemetry, &health} {
		*address = fmt.Sprintf("127.0.0.1:%d", freeport.For(t))
	}
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

	// Prometheus: its own options too, but for files.
	const rules = "/etc/prometheus/rules/llamacpp.yaml"
	config := read("prometheus", "/etc/prometheus/prometheus.yaml")
	for name, address := range map[string]string{
		"collector:9464": metrics, "collector:8888": telemetry, "alertmanager:9093": alertmanager,
		rules: services["prometheus"].source(t, rules),
	} {
		require.Contains(t, config, name)
		config = strings.ReplaceAll(config, name, address)
	}
	options := slices.DeleteFunc(slices.Clone(services["prometheus"].Command), func(o string) bool {
		return strings.HasPrefix(o, "--config.file=") || strings.HasPrefix(o, "--storage.tsdb.path=")
	})
	prometheus := promtest.Start(t, config, options...)
	jaeger := jaegertest.Start(t, prometheus.URL())

	collector := services["collector"]
	var args []string
	for _, argument := range collector.Command {
		switch argument {
		case "/etc/otelcol-llamacpp/config.yaml": // in the image
			argument = filepath.Join(root, "collector-config.yaml")
		case "/etc/otelcol-llamacpp/stack.yaml":
			argument = collector.source(t, argument)
		}
		args = append(args, argument)
	}
	args = append(args, "--config", collectortest.ConfigFile(t, fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: "127.0.0.1:0"}}}}
exporters: {otlp_grpc/jaeger: {endpoint: %q}}
`, grpc, jaeger.GRPC)))
	c := collectortest.Start(t, []string{
		"LLAMACPP_ENDPOINT=" + sim.URL(), "LLAMACPP_LOG=" + log, "STATE_DIRECTORY=" + t.TempDir(),
		// As in the image.
		"DASHBOARD_HOST=0.0.0.0", "PROMETHEUS_HOST=0.0.0.0", "HEALTH_CHECK_HOST=0.0.0.0", "TELEMETRY_HOST=" + *collector.Environment["TELEMETRY_HOST"],
		"DASHBOARD_PORT=" + port(page), "PROMETHEUS_PORT=" + port(metrics), "HEALTH_CHECK_PORT=" + port(health), "TELEMETRY_PORT=" + port(telemetry),
	}, args...)
	c.AwaitLog("Everything is ready")
	c.AwaitLog("Started watching file")
	sim.AddLoad(llamasim.Load{Concurrency: 3, PromptTokens: 20, MaxTokens: 200})

	for _, job := range []string{"otelcol", "otelcol-llamacpp", "alertmanager"} {
		eventually(t, job+" is scraped", func() bool { return prometheus.Value(`up{job="`+job+`"}`) == 1 })
	}
	eventually(t, "requests of the log", func() bool { return prometheus.Value(`sum(llamacpp_requests_total{job="llama-server"})`) > 3 })
	eventually(t, "a recording rule", func() bool { return len(prometheus.Query(`llamacpp:serving:info`)) == 1 })
	eventually(t, "Alertmanager", func() bool {
		_, body := ask(t, prometheus.URL()+"/api/v1/alertmanagers", "")
		var answer struct {
			Data struct{ ActiveAlertmanagers []struct{ URL string } }
		}
		return json.Unmarshal([]byte(body), &answer) == nil && len(answer.Data.ActiveAlertmanagers) == 1 &&
			strings.Contains(answer.Data.ActiveAlertmanagers[0].URL, alertmanager)
	})
	eventually(t, "a trace of a request", func() bool { return slices.Contains(jaeger.Services(), "llama-server") })

	t.Run("health checks", func(t *testing.T) {
		for name, address := range map[string]string{
			"prometheus": strings.TrimPrefix(prometheus.URL(), "http://"), "alertmanager": alertmanager, "llama-server": strings.TrimPrefix(sim.URL(), "http://"),
		} {
			check := services[name].Healthcheck.Test
			u, err := url.Parse(check[len(check)-1])
			require.NoError(t, err, name)
			assert.Equal(t, fmt.Sprintf("127.0.0.1:%d", services[name].Ports[0].Target), u.Host, name)
			status, body := ask(t, "http://"+address+u.Path, "")
			assert.Equal(t, http.StatusOK, status, "%s: %s", name, body)
		}
	})

	t.Run("Grafana's data sources", func(t *testing.T) {
		var file struct{ Datasources []dataSource }
		require.NoError(t, yaml.Unmarshal([]byte(read("grafana", "/etc/grafana/provisioning/datasources/datasources.yaml")), &file))
		uids, defaults := map[string]string{}, 0
		for _, d := range file.Datasources {
			assert.NotContains(t, uids, d.UID)
			uids[d.UID] = d.Type
			if d.IsDefault {
				defaults++
			}
		}
		assert.Equal(t, 1, defaults)
		assert.Equal(t, "prometheus", uids["llamacpp"], "the name that dashboards/grafana/provisioning has")
		real := map[string]struct{ address, path string }{
			"prometheus:9090":   {strings.TrimPrefix(prometheus.URL(), "http://"), "/api/v1/query?query=llamacpp_requests_total"},
			"collector:9465":    {page, "/api/v1/query?query=llamacpp_requests_total"},
			"alertmanager:9093": {alertmanager, "/api/v2/alerts"},
		}
		for _, d := range file.Datasources {
			u, err := url.Parse(d.URL)
			require.NoError(t, err)
			s, ok := services[u.Hostname()]
			require.True(t, ok, "%s: %s is no service", d.Name, u.Hostname())
			var ports []string
			for _, p := range s.Ports {
				ports = append(ports, fmt.Sprint(p.Target))
			}
			assert.Contains(t, ports, u.Port(), d.Name)
			for _, e := range d.JSONData.Exemplars {
				assert.Equal(t, "jaeger", uids[e.DatasourceUID])
			}
			if d.Type == "jaeger" {
				continue // asked above
			}
			r := real[u.Host]
			status, body := ask(t, "http://"+r.address+r.path, u.Host)
			assert.Equal(t, http.StatusOK, status, "%s: %s", d.Name, body)
			if d.Type == "prometheus" {
				assert.Contains(t, body, "completed", d.Name)
			}
		}
	})

	// A click on an exemplar opens its trace.
	t.Run("exemplars", func(t *testing.T) {
		var trace string
		eventually(t, "an exemplar", func() bool {
			for _, series := range prometheus.Exemplars("gen_ai_server_request_duration_seconds_bucket") {
				for _, e := range series.Exemplars {
					trace = string(e.Labels["trace_id"])
				}
			}
			return trace != ""
		})
		eventually(t, "its trace", func() bool {
			for _, found := range jaeger.Find("llama-server", nil) {
				if found.TraceID == trace {
					return true
				}
			}
			return false
		})
	})

	// What the server lacks is shown, and is nothing to be told of.
	t.Run("bottlenecks", func(t *testing.T) {
		sim.SetFault("", llamasim.Refuse)
		eventually(t, "the alert", func() bool {
			return len(prometheus.Query(`ALERTS{alertname="LlamaServerDown", alertstate="firing"}`)) == 1
		})
		assert.NotEmpty(t, prometheus.Query(`ALERTS{alertname="LlamaBottleneckState", alertstate="firing"}`))
		var body string
		eventually(t, "the alert at Alertmanager", func() bool {
			_, body = ask(t, "http://"+alertmanager+"/api/v2/alerts", "")
			return strings.Contains(body, "LlamaServerDown")
		})
		assert.NotContains(t, body, "LlamaBottleneck")
	})
}

// Grafana reads its dashboards from the mounted folder.
func TestStack_GrafanaFindsItsDashboards(t *testing.T) {
	t.Parallel()
	grafana := stack(t).Services["grafana"]
	text, err := os.ReadFile(grafana.source(t, "/etc/grafana/provisioning/dashboards/llamacpp.yaml"))
	require.NoError(t, err)
	var file struct {
		Providers []struct{ Options struct{ Path string } }
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	require.Len(t, file.Providers, 1)
	found, err := filepath.Glob(filepath.Join(grafana.source(t, file.Providers[0].Options.Path), "*.json"))
	require.NoError(t, err)
	assert.Len(t, found, 4)
	assert.Contains(t, found, grafana.source(t, *grafana.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]))
}
