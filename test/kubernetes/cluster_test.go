// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/kubetest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

// deployed is what the manifests make of a cluster with one node: an agent and a
// gateway, each with the configuration out of its config map, and llama-servers,
// which are simulated. Each pod has a loopback address, so that all ports are those
// of the manifests.
type deployed struct {
	t         *testing.T
	logs      string // what is /var/log/pods on a node
	agent     *collectortest.Collector
	gateway   *collectortest.Collector
	agentIP   string
	gatewayIP string
	backend   *otlpsink.Sink // to which the gateway forwards
	free      []string       // addresses for further pods
}

const node = "node-1"

func deploy(t *testing.T) *deployed {
	t.Helper()
	addresses := kubetest.Loopback(12)
	d := &deployed{t: t, logs: t.TempDir(), agentIP: addresses[1], gatewayIP: addresses[0], backend: otlpsink.Start(t), free: addresses[2:]}
	all := built(t, manifests+"/overlays/production")
	gateway := find(t, all, "StatefulSet/otelcol-llamacpp-gateway")
	d.gateway = collectortest.Start(t, []string{
		"POD_IP=" + d.gatewayIP, "DASHBOARD_HOST=" + d.gatewayIP, "POD_NAMESPACE=" + gateway.text("metadata", "namespace"), "STATE_DIRECTORY=" + t.TempDir(),
		"OTLP_ENDPOINT=" + d.backend.URL(),
	}, configs(applied(t, gateway)...)...)
	// The simulated servers are this process.
	driver := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	driver.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 7 << 30})
	d.agent = collectortest.Start(t, []string{
		"POD_IP=" + d.agentIP, "K8S_NODE_NAME=" + node, "POD_LOGS=" + d.logs, "STATE_DIRECTORY=" + t.TempDir(),
		"OTLP_ENDPOINT=" + d.gatewayIP + ":4317", "KUBECONFIG=" + agent(t),
		"LD_LIBRARY_PATH=" + driver.Folder(),
		// A pod finds its token and the API server at places that a process has not.
	}, append(configs(applied(t, find(t, all, "DaemonSet/otelcol-llamacpp-agent"))...), "--config=yaml:extensions::k8s_observer::auth_type: kubeConfig")...)
	return d
}

// applied are a workload's configurations as the API server has them.
func applied(t *testing.T, workload object) []string {
	t.Helper()
	get := func(kind, name string) object {
		var o object
		require.NoError(t, json.Unmarshal([]byte(kubectl(t, nil, "get", kind, name, "--namespace", workload.text("metadata", "namespace"), "--output=json")), &o))
		return o
	}
	stored := get(workload.text("kind"), workload.text("metadata", "name"))
	return configurations(t, []object{get("ConfigMap", stored.text("spec", "template", "spec", "volumes", 0, "configMap", "name"))}, stored)
}

func configs(files ...string) []string {
	var args []string
	for _, file := range files {
		args = append(args, "--config="+file)
	}
	return args
}

// server is a pod with a simulated llama-server behind its address.
type server struct {
	*llamasim.Server
	name string
}

// addServer creates a pod as the example's Deployment would, after change.
func (d *deployed) addServer(name string, change func(pod object), load llamasim.Load) server {
	d.t.Helper()
	all := built(d.t, manifests+"/overlays/production")
	p := pod(find(d.t, all, "Deployment/llama-server"), "llama", name)
	p.part("spec")["nodeName"] = node
	if change != nil {
		change(p)
	}
	ip := d.free[0]
	d.free = d.free[1:]

	uid := kubectl(d.t, p.json(d.t), "create", "--output=jsonpath={.metadata.uid}", "-f", "-")
	d.t.Cleanup(func() { // when the test's context has ended
		_, err := cluster.Kubectl(context.Background(), nil, "delete", "pod", name, "--namespace=llama", "--grace-period=0", "--force", "--ignore-not-found")
		assert.NoError(d.t, err)
	})
	folder := filepath.Join(d.logs, "llama_"+name+"_"+uid, "llama-server")
	require.NoError(d.t, os.MkdirAll(folder, 0o700))
	file, err := os.Create(filepath.Join(folder, "0.log"))
	require.NoError(d.t, err)
	d.t.Cleanup(func() { _ = file.Close() })
	sim := llamasim.New(llamasim.Options{Log: &containerLog{w: file}})
	d.t.Cleanup(sim.Close)
	if load.Concurrency > 0 {
		sim.AddLoad(load)
	}
	_, err = sim.Start(ip + ":8080")
	require.NoError(d.t, err)

	now := time.Now().UTC().Format(time.RFC3339)
	kubectl(d.t, nil, "patch", "pod", name, "--namespace=llama", "--subresource=status", "--type=merge", "--patch", fmt.Sprintf(`{"status": {
		"phase": "Running", "podIP": %q, "podIPs": [{"ip": %q}], "hostIP": "127.0.0.1", "startTime": %q,
		"conditions": [{"type": "Ready", "status": "True"}],
		"containerStatuses": [{"name": "llama-server", "ready": true, "started": true, "restartCount": 0, "image": "i", "imageID": "i",
			"containerID": "containerd://%s", "state": {"running": {"startedAt": %q}}}]}}`, ip, ip, now, name, now))
	return server{sim, name}
}

// instance is the name of a server in all its metrics.
func (s server) instance() string { return "llama." + s.name + ".llama-server" }

// containerLog writes lines as containerd keeps those of a container.
type containerLog struct {
	mu   sync.Mutex
	w    io.Writer
	line []byte
}

func (l *containerLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = append(l.line, b...)
	for {
		line, rest, complete := bytes.Cut(l.line, []byte("\n"))
		if !complete {
			return len(b), nil
		}
		if _, err := fmt.Fprintf(l.w, "%s stderr F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line); err != nil {
			return 0, err
		}
		l.line = rest
	}
}

// ask evaluates a query as KEDA does, at the service's address, and reports
// whether there was one value.
func (d *deployed) ask(query string) (float64, bool) {
	d.t.Helper()
	trigger := find(d.t, built(d.t, manifests+"/overlays/production"), "ScaledObject/llama-server").part("spec", "triggers", 0, "metadata")
	service, err := url.Parse(trigger.text("serverAddress"))
	require.NoError(d.t, err)
	require.Equal(d.t, "9465", service.Port())
	address := fmt.Sprintf("http://%s:9465/api/v1/query?query=%s&time=%s", d.gatewayIP, url.QueryEscape(query), time.Now().UTC().Format(time.RFC3339))
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, address, http.NoBody)
	require.NoError(d.t, err)
	r.Host = service.Host
	a, err := http.DefaultClient.Do(r)
	require.NoError(d.t, err)
	defer a.Body.Close()
	var answer struct {
		Status string
		Data   struct{ Result []struct{ Value [2]any } }
	}
	require.NoError(d.t, json.NewDecoder(a.Body).Decode(&answer))
	require.Equal(d.t, "success", answer.Status)
	if len(answer.Data.Result) != 1 {
		return 0, false
	}
	value, err := strconv.ParseFloat(answer.Data.Result[0].Value[1].(string), 64)
	require.NoError(d.t, err)
	return value, true
}

// has reports whether a query has a result.
func (d *deployed) has(query string) bool {
	v, ok := d.ask("count(" + query + ")")
	return ok && v > 0
}

const patience = 40 * time.Second

func (d *deployed) eventually(holds func() bool, what string) {
	d.t.Helper()
	require.Eventually(d.t, holds, patience, 200*time.Millisecond, what)
}

func TestCollectors_FollowTheNodesPods(t *testing.T) {
	d := deploy(t)
	one := d.addServer("llama-server-1", nil, llamasim.Load{Concurrency: 2, MaxTokens: 20})
	elsewhere := d.addServer("elsewhere", func(p object) { p.part("spec")["nodeName"] = "node-2" }, llamasim.Load{})
	unasked := d.addServer("unasked", func(p object) { delete(p.part("metadata"), "annotations") }, llamasim.Load{})

	serves := func(s server) bool {
		return d.has(`llamacpp_server_status{llamacpp_server_state="ok", instance="` + s.instance() + `"} == 1`)
	}
	d.eventually(func() bool { return serves(one) }, "the first pod is watched")
	d.eventually(func() bool { return d.has(`llamacpp_requests_total{instance="` + one.instance() + `"} > 2`) }, "its log is read, under the same name")
	d.eventually(func() bool { return d.has(`llamacpp_slot_status{instance="` + one.instance() + `"}`) }, "the page has its slots")

	d.eventually(func() bool {
		gpus, _ := d.ask(`count(hw_gpu_utilization_ratio{job="nvidia-gpu", instance="` + node + `", hw_gpu_task="general"})`)
		return gpus == 2
	}, "each GPU is there once, as the node's")
	d.eventually(func() bool { return d.has(`llamacpp_gpu_memory_usage_bytes{instance="` + one.instance() + `"}`) }, "and what the server holds of it")

	two := d.addServer("llama-server-2", nil, llamasim.Load{})
	d.eventually(func() bool { return serves(two) }, "a pod that comes later is watched")

	kubectl(t, nil, "delete", "pod", one.name, "--namespace=llama", "--grace-period=0", "--force")
	d.agent.AwaitLog("stopping receiver")
	d.eventually(func() bool { return !serves(one) }, "the pod that went is forgotten")
	asked := one.Hits("/metrics")
	time.Sleep(3 * time.Second)
	assert.Equal(t, asked, one.Hits("/metrics"))
	assert.True(t, serves(two))

	// The agent read no other node's pods and none that did not ask for it.
	assert.Zero(t, elsewhere.Hits("/metrics"))
	assert.Zero(t, unasked.Hits("/metrics"))

	d.eventually(func() bool {
		return len(d.backend.Points(otlpsink.Metric("llamacpp.requests"), otlpsink.Of(one.instance()))) > 0 && len(d.backend.Spans()) > 0
	}, "metrics and traces are forwarded")
	assert.Empty(t, d.backend.Points(otlpsink.Metric("llamacpp.slot.status")))
	metrics := get(t, "http://"+d.gatewayIP+":9464/metrics")
	assert.Contains(t, metrics, `instance="`+two.instance()+`"`)
	assert.NotContains(t, metrics, "llamacpp_slot_status")
	for workload, ip := range map[string]string{"DaemonSet/otelcol-llamacpp-agent": d.agentIP, "StatefulSet/otelcol-llamacpp-gateway": d.gatewayIP} {
		container := find(t, built(t, manifests+"/overlays/production"), workload).part("spec", "template", "spec", "containers", 0)
		for _, port := range list(container.at("ports")) {
			address := net.JoinHostPort(ip, fmt.Sprint(port.at("containerPort")))
			connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
			require.NoError(t, err, "%s listens at %s", workload, port.text("name"))
			require.NoError(t, connection.Close())
			if port.text("name") == "health" {
				get(t, "http://"+address+container.text("readinessProbe", "httpGet", "path"))
			}
		}
	}
}

// The agent keeps on its node what the gateway does not take.
func TestCollectors_GatewayThatIsAwayCostsNoPoint(t *testing.T) {
	d := deploy(t)
	one := d.addServer("llama-server-1", nil, llamasim.Load{Concurrency: 2, MaxTokens: 20})
	arrived := func(match ...otlpsink.Match) otlpsink.Points {
		return d.backend.Points(append(match, otlpsink.Metric("llamacpp.requests.processing"), otlpsink.Of(one.instance()), otlpsink.Recorded)...)
	}
	d.eventually(func() bool { return len(arrived()) > 1 }, "points arrive")

	d.gateway.Kill()
	time.Sleep(8 * time.Second)
	back := time.Now()
	d.gateway.Start()
	d.eventually(func() bool { return len(arrived(otlpsink.After(back.Add(3*time.Second)))) > 0 }, "points arrive again")
	var times []time.Time
	for _, p := range arrived() {
		times = append(times, p.Time)
	}
	slices.SortFunc(times, time.Time.Compare)
	for i := 1; i < len(times); i++ {
		assert.Less(t, times[i].Sub(times[i-1]), 4*time.Second, "between two points, of which there is one a second")
	}
}

func get(t *testing.T, address string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	require.NoError(t, err)
	a, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, a.StatusCode, "%s: %s", address, text)
	return string(text)
}

// What decides how many servers there are.
func TestScaling_QueriesCountTheRequestsOfAllServers(t *testing.T) {
	d := deploy(t)
	prometheus := promtest.Start(t, fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - {job_name: gateway, honor_labels: %v, static_configs: [{targets: ["%s:9464"]}]}
`, find(t, built(t, manifests+"/overlays/production"), "PodMonitor/otelcol-llamacpp-gateway").at("spec", "podMetricsEndpoints", 0, "honorLabels"), d.gatewayIP))
	query := func(folder string) string {
		return find(t, built(t, manifests+"/"+folder), "ScaledObject/llama-server").text("spec", "triggers", 0, "metadata", "query")
	}
	gateways, prometheuss := query("overlays/production"), query("overlays/keda-prometheus")
	_, found := d.ask(gateways)
	require.False(t, found, "without servers there is no answer, which is not 0")

	// Four slots each: five of these twelve requests wait. The other deployment's do not count.
	busy := d.addServer("llama-server-1", nil, llamasim.Load{Concurrency: 9, MaxTokens: 400})
	idle := d.addServer("llama-server-2", nil, llamasim.Load{Concurrency: 3, MaxTokens: 400})
	other := d.addServer("another", nil, llamasim.Load{Concurrency: 2, MaxTokens: 400})
	d.eventually(func() bool { return d.has(`llamacpp_requests_processing{instance="` + other.instance() + `"}`) }, "another deployment's server is watched as well")
	near := func(v float64) bool { return v > 11.7 && v < 12.3 }
	d.eventually(func() bool { v, _ := d.ask(gateways); return near(v) }, "the gateway's answer")
	d.eventually(func() bool { return near(prometheus.Value(prometheuss)) }, "Prometheus' answer")
	assert.Equal(t, 9, busy.Processing()+busy.Deferred())
	assert.Equal(t, 3, idle.Processing()+idle.Deferred())
	assert.Equal(t, 4, desired(12, 2, target(t)))
}
