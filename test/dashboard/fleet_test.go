// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// row is a server in the table of servers.
type row struct {
	ID     string
	Values map[string]any
}

func (r row) number(column string) float64 {
	if n, ok := r.Values[column].(float64); ok {
		return n
	}
	return math.NaN()
}

func (c *collector) servers() map[string]row {
	c.t.Helper()
	var answer struct{ Servers []row }
	c.read("/live/servers", &answer)
	rows := map[string]row{}
	for _, r := range answer.Servers {
		require.NotContains(c.t, rows, r.ID, "a server has one row")
		rows[r.ID] = r
	}
	return rows
}

// A fleet of single servers and a router of many models: each has a row of its own,
// with its own numbers.
func TestDashboard_ShowsAFleet(t *testing.T) {
	t.Parallel()
	const servers, models = 50, 12
	type one struct {
		model         string
		rate, waiting float64
	}
	want := map[string]one{}
	var receivers, names []string
	add := func(name, url string) {
		receivers = append(receivers, fmt.Sprintf("  llamacpp/%s: {endpoint: %q, scrapers: {server: , slots: {collection_interval: 1s}}}\n", name, url))
		names = append(names, "llamacpp/"+name)
	}
	for i := range servers {
		speed := 20 + float64(i)
		server := llamasim.Start(t, llamasim.Options{ModelName: fmt.Sprintf("model-%d", i), TokensPerSecond: speed, Slots: 2, PromptTokensPerSecond: 1e6, ContextPerSlot: 1 << 16})
		// Answers that do not end, in both slots, and some that wait.
		server.AddLoad(llamasim.Load{Concurrency: 2 + i%4, MaxTokens: 60_000})
		want[host(server)] = one{fmt.Sprintf("model-%d", i), 2 * speed, float64(i % 4)}
		add(fmt.Sprint(i), server.URL())
	}
	o := llamasim.RouterOptions{MaxLoaded: models}
	for i := range models {
		o.Models = append(o.Models, fmt.Sprintf("routed-%d", i))
	}
	router := llamasim.Start(t, llamasim.Options{Router: &o})
	for _, name := range o.Models {
		response, err := http.Post(router.URL()+"/models/load", "application/json", strings.NewReader(fmt.Sprintf(`{"model": %q}`, name)))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		want[host(router)+"/"+name] = one{model: name}
	}
	add("router", router.URL())

	c, _ := run(t, "receivers:\n"+strings.Join(receivers, "")+`
exporters:
  dashboard: {endpoint: "localhost:${env:DASHBOARD_PORT}"}
service:
  pipelines:
    metrics: {receivers: [`+strings.Join(names, ", ")+`], exporters: [dashboard]}
  telemetry:
    metrics: {level: none}
`)
	wrong := func() (problems []string) {
		rows := c.servers()
		for id, w := range want {
			r, ok := rows[id]
			switch {
			case !ok:
				problems = append(problems, id+" is missing")
			case r.Values["model"] != w.model || r.Values["state"] != "ok":
				problems = append(problems, fmt.Sprintf("%s: %v", id, r.Values))
			case w.rate == 0: // of a router, without load
			case math.Abs(r.number("rate")-w.rate) > 0.05*w.rate, r.number("waiting") != w.waiting:
				problems = append(problems, fmt.Sprintf("%s: %v, want rate %v, waiting %v", id, r.Values, w.rate, w.waiting))
			}
		}
		return problems
	}
	var last []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(last, "\n"))
		}
	})
	c.eventually(func() bool { last = wrong(); return len(last) == 0 }, "%d rows", servers+models)
	routed := 0
	for id := range c.servers() {
		if strings.HasPrefix(id, host(router)) && id != host(router) {
			routed++
		}
	}
	assert.Equal(t, models, routed, "one row for each model")
	assert.LessOrEqual(t, len(c.servers()), servers+models+1, "no further rows than the router's own")
}

// gauges is a report in OTLP's JSON of gauges of one server, from number from on.
func gauges(server string, from, n int, value float64, at int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"many"}},`+
		`{"key":"service.instance.id","value":{"stringValue":%q}}]},"scopeMetrics":[{"metrics":[{"name":"many","gauge":{"dataPoints":[`, server)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"timeUnixNano":"%d","asDouble":%g,"attributes":[{"key":"series","value":{"stringValue":"%d"}}]}`, at, value, from+i)
	}
	b.WriteString(`]}}]}]}]}`)
	return b.String()
}

// send sends a report to an OTLP receiver.
func send(t *testing.T, port, body string) {
	t.Helper()
	response, err := http.Post("http://localhost:"+port+"/v1/metrics", "application/json", bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
}
