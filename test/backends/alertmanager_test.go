// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package backends

import (
	"encoding/json"
	"fmt"
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

	"github.com/llamatelemetry/otelcol-llamacpp/test/alertmanagertest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

var alertmanagerFile = filepath.Join(root, "examples", "prometheus", "alertmanager.yaml")

// notification is what Alertmanager posts to a webhook.
type notification struct {
	path        string
	Receiver    string
	Status      string
	GroupLabels map[string]string
	Alerts      []struct {
		Status              string
		Labels, Annotations map[string]string
	}
}

// names are those of the alerts in it that have a status.
func (n notification) names(status string) []string {
	var names []string
	for _, a := range n.Alerts {
		if a.Status == status {
			names = append(names, a.Labels["alertname"])
		}
	}
	slices.Sort(names)
	return names
}

// pager takes what Alertmanager posts.
type pager struct {
	url string
	mu  sync.Mutex
	got []notification
}

func startPager(t *testing.T) *pager {
	t.Helper()
	p := &pager{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := notification{path: r.URL.Path}
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.got = append(p.got, n)
		p.mu.Unlock()
	}))
	t.Cleanup(func() {
		server.Close()
		if t.Failed() {
			for _, n := range p.all() {
				t.Logf("%s %s %v: firing %v, resolved %v", n.path, n.Status, n.GroupLabels, n.names("firing"), n.names("resolved"))
			}
		}
	})
	p.url = server.URL
	return p
}

func (p *pager) all() []notification {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// find are the notifications to a receiver about an instance.
func (p *pager) find(receiver, instance string) []notification {
	return slices.DeleteFunc(p.all(), func(n notification) bool { return n.Receiver != receiver || n.GroupLabels["instance"] != instance })
}

// await waits for a notification with exactly these alerts.
func (p *pager) await(t *testing.T, receiver, instance, status string, names ...string) notification {
	t.Helper()
	var found notification
	otlpsink.Eventually(t, time.Minute, func() bool {
		for _, n := range p.find(receiver, instance) {
			if slices.Equal(n.names(status), names) {
				found = n
				return true
			}
		}
		return false
	}, "%s hears of %s: %s %v", receiver, instance, status, names)
	return found
}

func TestAlertmanagerConfiguration_IsValid(t *testing.T) {
	alertmanagertest.CheckConfig(t, alertmanagerFile)
}

// Two servers become slow, and one of them goes down: it pages somebody, once, and
// nobody is told that it is slow until it is back. Rules, routes and inhibitions
// are the shipped ones, with less patience.
func TestAlerts_ReachWhomTheyConcern(t *testing.T) {
	t.Parallel()
	hook := startPager(t)
	text, err := os.ReadFile(alertmanagerFile)
	require.NoError(t, err)
	alertmanager := alertmanagertest.Start(t, replaced(t, string(text), "http://localhost:9095", hook.url,
		"group_wait: 30s", "group_wait: 20s", "group_wait: 10s", "group_wait: 1s", "group_interval: 5m", "group_interval: 1s", "group_interval: 1m", "group_interval: 1s"))
	// A prompt takes seven seconds.
	slow := llamasim.Options{PromptTokensPerSecond: 9}
	down, stays := llamasim.Start(t, slow), llamasim.Start(t, slow)
	p := freePorts(t)
	prometheus := promtest.Start(t, impatient(t, prometheusConfig(t, "1s", []ports{p}, []ports{p}, alertmanager),
		"interval: 15s", "interval: 1s", "for: 30s", "for: 3s", "for: 2m", "for: 2s"))
	startCollector(t, ways[0], prometheus, p, `
receivers: {llamacpp/stays: {endpoint: "${env:STAYS}", scrapers: {server: {collection_interval: 1s}, slots: {collection_interval: 250ms}}}}
service: {pipelines: {metrics: {receivers: [llamacpp, llamacpp/stays, llamacpplog]}}}
`, "LLAMACPP_ENDPOINT="+down.URL(), "STAYS="+stays.URL())

	// One of them restarts, so that two things are wrong with it.
	for n := range 2 {
		otlpsink.Eventually(t, 40*time.Second, func() bool {
			ask(t, stays.URL())
			return prometheus.Value(fmt.Sprintf(`llamacpp_decode_calls_total{instance=%q}`, instance(stays.URL()))) > 0
		}, "it has worked")
		stays.Restart()
		otlpsink.Eventually(t, 40*time.Second, func() bool {
			return prometheus.Value(fmt.Sprintf(`resets(llamacpp_decode_calls_total{instance=%q}[15m])`, instance(stays.URL()))) == float64(n+1)
		}, "the restart is seen")
	}
	for _, s := range []*llamasim.Server{down, stays} {
		s.AddLoad(llamasim.Load{Concurrency: 1, MaxTokens: 10})
	}
	isSlow := fmt.Sprintf(`ALERTS{alertname="LlamaFirstTokenSlow", alertstate="firing", instance=%q}`, instance(down.URL()))
	// Several prompts of seven seconds have to end.
	otlpsink.Eventually(t, 2*time.Minute, func() bool { return len(prometheus.Query(isSlow)) == 1 }, "it is slow")
	down.Stop()

	page := hook.await(t, "pager", instance(down.URL()), "firing", "LlamaServerDown")
	assert.Equal(t, "/pager", page.path)
	assert.Equal(t, "firing", page.Status)
	assert.Equal(t, map[string]string{"instance": instance(down.URL())}, page.GroupLabels)
	assert.Equal(t, map[string]string{
		"alertname": "LlamaServerDown", "instance": instance(down.URL()), "kind": "alert", "severity": "critical", "llamacpp_server_state": "unreachable",
	}, page.Alerts[0].Labels)
	annotations := page.Alerts[0].Annotations
	assert.Contains(t, annotations["summary"], instance(down.URL())+" is unreachable.")
	assert.Contains(t, annotations["cure"], "Start llama-server")
	assert.NotEmpty(t, annotations["description"])
	_, anchor, _ := strings.Cut(annotations["runbook_url"], "docs/alerts.md#")
	document, err := os.ReadFile(filepath.Join(root, "docs", "alerts.md"))
	require.NoError(t, err)
	assert.Contains(t, strings.ToLower(string(document)), "\n### "+anchor+"\n", annotations["runbook_url"])

	// What is wrong with the other one comes in one message, to another receiver.
	chat := hook.await(t, "chat", instance(stays.URL()), "firing", "LlamaFirstTokenSlow", "LlamaServerRestarted")
	assert.Equal(t, "/chat", chat.path)
	assert.Equal(t, map[string]string{"instance": instance(stays.URL())}, chat.GroupLabels)
	states := alertStates(t, alertmanager)
	assert.Equal(t, "suppressed", states["LlamaFirstTokenSlow "+instance(down.URL())], "%v", states)
	assert.Equal(t, "active", states["LlamaFirstTokenSlow "+instance(stays.URL())], "%v", states)
	assert.Empty(t, hook.find("chat", instance(down.URL())), "it is slow, but that it is down says enough")

	down.StartAgain()
	hook.await(t, "pager", instance(down.URL()), "resolved", "LlamaServerDown")
	hook.await(t, "chat", instance(down.URL()), "firing", "LlamaFirstTokenSlow")
	assert.Len(t, hook.find("pager", instance(down.URL())), 2, "once, and that it is over")
	assert.Empty(t, hook.find("pager", instance(stays.URL())))
	for _, n := range hook.all() {
		for _, a := range n.Alerts {
			assert.Equal(t, "alert", a.Labels["kind"], "%v", a.Labels)
			assert.Equal(t, n.GroupLabels["instance"], a.Labels["instance"])
		}
	}
}

// ask sends a server a short request.
func ask(t *testing.T, url string) {
	t.Helper()
	r, err := http.Post(url+"/completion", "application/json", strings.NewReader(`{"prompt":"of","n_predict":2}`))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
}

// alertStates are Alertmanager's own, by name and instance.
func alertStates(t *testing.T, address string) map[string]string {
	t.Helper()
	r, err := http.Get("http://" + address + "/api/v2/alerts")
	require.NoError(t, err)
	defer r.Body.Close()
	var alerts []struct {
		Labels map[string]string
		Status struct{ State string }
	}
	require.NoError(t, json.NewDecoder(r.Body).Decode(&alerts))
	states := map[string]string{}
	for _, a := range alerts {
		states[a.Labels["alertname"]+" "+a.Labels["instance"]] = a.Status.State
	}
	return states
}
