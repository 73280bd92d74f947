// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/promtest"
)

// everything is one collector that watches all there is to watch, and gives the
// same points to three Prometheus: one scrapes it, two are pushed to.
type everything struct {
	// prometheus is in the order of ways.
	prometheus [3]*promtest.Server
	collector  *collectortest.Collector
	spans      *otlpsink.Sink
	loadgen    string
	// nativeServer is the server of native.
	nativeServer *llamasim.Server
	// clients send requests through the proxies until asking is closed.
	clients    sync.WaitGroup
	asking     chan struct{}
	stopAsking func()
	// classic is the server of which the log's histograms have fixed buckets, and
	// native the one of which they are exponential, as instances.
	classic, native string
}

// everythingConfig goes on top of collector-config.yaml and the shipped
// configurations of both ways to push.
const everythingConfig = `
extensions:
  loadgen:
    endpoint: localhost:${env:LOADGEN_PORT}
    target: {endpoint: "http://${env:LLAMAPROXY_ENDPOINT}", api_key: steady's}
    profiles:
      steady: {start: true, rate: 6, duration: 1h, max_tokens: {min: 10, max: 40}, objective: ttft<10s, cancel: {share: 0.1, after: 3}}
receivers:
  loadgen:
  llamacpp:
    scrapers:
      slots: {collection_interval: 250ms}
      gpu:
        collection_interval: 1s
        metrics:
          nvidia.gpu.process.memory.usage: {enabled: true}
          nvidia.gpu.sm.utilization: {enabled: true}
          nvidia.gpu.sm.occupancy: {enabled: true}
          nvidia.gpu.tensor.utilization: {enabled: true}
          nvidia.gpu.dram.utilization: {enabled: true}
  llamacpp/native:
    endpoint: ${env:NATIVE_ENDPOINT}
    scrapers: {server: {collection_interval: 1s}, slots: {collection_interval: 250ms}}
  llamacpp/router:
    endpoint: ${env:ROUTER_ENDPOINT}
    scrapers: {server: {collection_interval: 1s}, slots: {collection_interval: 1s}}
  llamacpp/down:
    endpoint: http://127.0.0.1:1
    scrapers: {server: {collection_interval: 1s}}
  llamaproxy: &clients
    clients: {names: {steady: steady's}}
  llamaproxy/page: *clients
  llamaproxy/native:
    endpoint: localhost:${env:NATIVE_PROXY_PORT}
    upstream: {endpoint: "${env:NATIVE_ENDPOINT}"}
    clients: {names: {steady: steady's}}
    histogram: {exponential: {}}
  llamaproxy/down:
    endpoint: localhost:${env:DOWN_PROXY_PORT}
    upstream: {endpoint: http://127.0.0.1:1}
  # What the collector refuses and loses.
  llamacpp/refused:
    endpoint: http://127.0.0.1:2
    scrapers: {server: {collection_interval: 1s}}
  file_log/native:
    include: ["${env:NATIVE_LOG}"]
    start_at: beginning  # how the model was loaded
    include_file_path: true
    include_file_record_offset: true
    storage: file_storage
connectors:
  llamacpplog/native:
    endpoint: ${env:NATIVE_ENDPOINT}
    storage: file_storage
    histogram: {exponential: {}}
processors:
  memory_limiter/tiny: {check_interval: 1s, limit_mib: 1}
exporters:
  debug:
  otlp_http/prometheus: {metrics_endpoint: "${env:OTLP_PROMETHEUS_URL}/api/v1/otlp/v1/metrics"}
  otlp_http/nobody: {endpoint: http://127.0.0.1:3, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
  otlp_http/spans: {endpoint: "${env:SPANS_URL}"}
service:
  extensions: [health_check, file_storage, loadgen]
  pipelines:
    metrics:
      receivers: [llamacpp, llamacpp/native, llamacpp/router, llamacpp/down, llamacpplog, llamacpplog/native, llamaproxy, llamaproxy/native, llamaproxy/down, loadgen]
      exporters: [prometheus, otlp_http/prometheus, prometheus_remote_write]
    metrics/refused: {receivers: [llamacpp/refused], processors: [memory_limiter/tiny], exporters: [debug]}
    metrics/lost: {receivers: [llamacpp/refused], exporters: [otlp_http/nobody]}
    logs/native: {receivers: [file_log/native], exporters: [llamacpplog/native]}
    traces/spans: {receivers: [llamacpplog, llamacpplog/native, llamaproxy, llamaproxy/native, loadgen], exporters: [otlp_http/spans]}
  telemetry: {logs: {sampling: {initial: 2, thereafter: 1000}}}
`

func watchEverything(t *testing.T) *everything {
	t.Helper()
	classic, classicLog := logged(t, llamasim.Options{Draft: 4})
	native, nativeLog := logged(t, llamasim.Options{Draft: 4})
	router := llamasim.Start(t, llamasim.Options{Router: &llamasim.RouterOptions{Models: []string{"one", "two"}}})
	driver := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	driver.Burn(t, 300, 50)
	driver.GPU(0).GPM, driver.GPU(1).GPM = 1, 1
	// The simulators are in this process.
	driver.SetProcesses(0, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 6 << 30})
	driver.XID(0, 31)

	e := &everything{nativeServer: native, spans: otlpsink.Start(t), classic: instance(classic.URL()), native: instance(native.URL())}
	p := freePorts(t)
	for i := range e.prometheus {
		var scraped []ports
		if !ways[i].pushes {
			scraped = []ports{p}
		}
		e.prometheus[i] = promtest.Start(t, impatient(t, prometheusConfig(t, "1s", scraped, []ports{p}), "interval: 15s", "interval: 5s"), "--enable-feature=exemplar-storage")
	}
	loadgen := freeport.For(t)
	e.loadgen = fmt.Sprintf("http://localhost:%d", loadgen)
	proxy, nativeProxy, downProxy := freeport.For(t), freeport.For(t), freeport.For(t)
	e.collector = collectortest.Start(t, []string{
		fmt.Sprintf("LLAMAPROXY_ENDPOINT=localhost:%d", proxy), fmt.Sprintf("NATIVE_PROXY_PORT=%d", nativeProxy), fmt.Sprintf("DOWN_PROXY_PORT=%d", downProxy),
		"LLAMACPP_ENDPOINT=" + classic.URL(), "LLAMACPP_LOG=" + classicLog, "NATIVE_ENDPOINT=" + native.URL(), "NATIVE_LOG=" + nativeLog,
		"ROUTER_ENDPOINT=" + router.URL(), "LD_LIBRARY_PATH=" + driver.Folder(), "SPANS_URL=" + e.spans.URL(),
		"OTLP_PROMETHEUS_URL=" + e.prometheus[1].URL(), "PROMETHEUS_URL=" + e.prometheus[2].URL(),
		"STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"), fmt.Sprintf("LOADGEN_PORT=%d", loadgen),
		fmt.Sprintf("PROMETHEUS_PORT=%d", p.metrics), fmt.Sprintf("TELEMETRY_PORT=%d", p.telemetry),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)), fmt.Sprintf("DASHBOARD_PORT=%d", freeport.For(t)),
	},
		"--config", filepath.Join(root, "collector-config.yaml"), "--config", filepath.Join(root, "examples", "prometheus-push.yaml"),
		"--config", filepath.Join(root, "examples", "prometheus-remote-write.yaml"), "--config", collectortest.ConfigFile(t, everythingConfig))
	e.collector.AwaitLog("Everything is ready")
	native.AddLoad(llamasim.Load{Concurrency: 6})
	e.asking = make(chan struct{})
	e.stopAsking = sync.OnceFunc(func() { close(e.asking); e.clients.Wait() })
	t.Cleanup(e.stopAsking)
	e.clients.Go(func() {
		keepAsking(t, &llamatest.Client{BaseURL: fmt.Sprintf("http://localhost:%d", nativeProxy), APIKey: "steady's"}, 1, e.asking)
	})
	for _, port := range []int{proxy, nativeProxy, downProxy} {
		e.clients.Go(func() { e.leave(t, fmt.Sprintf("http://localhost:%d/completion", port)) })
	}
	return e
}

// leave sends requests whose clients do not wait for an answer, until asking is closed.
func (e *everything) leave(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Millisecond}
	for {
		select {
		case <-e.asking:
			return
		case <-time.After(300 * time.Millisecond):
		}
		if r, err := client.Post(url, "application/json", strings.NewReader(`{"n_predict": 1, "prompt": "`+strings.Repeat("a ", 1000)+`"}`)); err == nil {
			_ = r.Body.Close()
		}
	}
}

// stopLoad ends all load, so that counts stand still.
func (e *everything) stopLoad(t *testing.T) {
	t.Helper()
	e.stopAsking()
	e.nativeServer.Stop()
	id := runs(t, e.loadgen)[0].ID
	r, err := http.Post(e.loadgen+"/api/v1/runs/"+id+"/stop", "application/json", nil)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusAccepted, r.StatusCode)
	otlpsink.Eventually(t, 40*time.Second, func() bool { return runs(t, e.loadgen)[0].State == "ended" }, "the run ends")
}

var promql = parser.NewParser(parser.Options{})

// unbounded is an expression without its thresholds: what it compares, at any
// value, and at the present time. It has data exactly where all that it joins is
// there and has the labels that it is joined on.
func unbounded(e parser.Expr) parser.Expr {
	switch e := e.(type) {
	case *parser.BinaryExpr:
		switch {
		case e.Op == parser.LUNLESS:
			return unbounded(e.LHS)
		case e.Op.IsComparisonOperator() && e.RHS.Type() == parser.ValueTypeScalar:
			return unbounded(e.LHS)
		case e.Op.IsComparisonOperator():
			e.ReturnBool = true
		}
		e.LHS, e.RHS = unbounded(e.LHS), unbounded(e.RHS)
	case *parser.ParenExpr:
		e.Expr = unbounded(e.Expr)
	case *parser.UnaryExpr:
		e.Expr = unbounded(e.Expr)
	case *parser.AggregateExpr:
		e.Expr = unbounded(e.Expr)
	case *parser.Call:
		for i := range e.Args {
			e.Args[i] = unbounded(e.Args[i])
		}
	case *parser.MatrixSelector:
		e.VectorSelector = unbounded(e.VectorSelector)
	case *parser.SubqueryExpr:
		e.Expr = unbounded(e.Expr)
		e.OriginalOffset = 0
	case *parser.VectorSelector:
		e.OriginalOffset = 0
	}
	return e
}

// selectors are the series that an expression asks for, at the present time.
func selectors(t *testing.T, expr string) []string {
	t.Helper()
	parsed, err := promql.ParseExpr(expr)
	require.NoError(t, err, expr)
	var all []string
	for _, matchers := range parser.ExtractSelectors(parsed) {
		var texts []string
		for _, m := range matchers {
			texts = append(texts, m.String())
		}
		all = append(all, "{"+strings.Join(texts, ", ")+"}")
	}
	return all
}

// asked is a query of the dashboards or a rule.
type asked struct{ name, expr string }

// panelQueries are all that panels.yaml asks.
func panelQueries(t *testing.T) []asked {
	t.Helper()
	c, err := dashboards.Load()
	require.NoError(t, err)
	var all []asked
	add := func(expr, name string, args ...any) {
		if expr != "" {
			all = append(all, asked{fmt.Sprintf(name, args...), dashboards.Expand(expr, dashboards.Variables{Interval: time.Minute})})
		}
	}
	for _, s := range c.Sources {
		add(s.Probe, "source %s", s.ID)
	}
	for _, p := range c.Panels {
		for _, q := range p.Queries {
			add(q.Expr, "panel %s, %s", p.ID, q.Legend)
		}
	}
	for _, tile := range c.Tiles {
		add(tile.Expr, "tile %s", tile.ID)
		if tile.Second != nil {
			add(tile.Second.Expr, "tile %s, %s", tile.ID, tile.Second.Label)
		}
	}
	for _, f := range c.Facts {
		add(f.Expr, "fact %s", f.ID)
	}
	for _, column := range c.Overview {
		add(column.Expr, "column %s", column.ID)
	}
	return all
}

// ruleQueries are the expressions of all rules, and recorded the names of what
// they record.
func ruleQueries(t *testing.T) (all []asked, recorded []string) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(dashboards.Rules(), &file))
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all = append(all, asked{"rule " + r.Record + r.Alert, r.Expr})
			if r.Record != "" {
				recorded = append(recorded, r.Record)
			}
		}
	}
	return all, recorded
}

func hasData(p *promtest.Server, expr string) bool {
	return slices.ContainsFunc(p.Query(expr), func(s *model.Sample) bool { return s.Histogram != nil || !math.IsNaN(float64(s.Value)) })
}

// What a documented difference is about: series, labels of exemplars and
// descriptions of metrics that exist on some ways only, and a label whose values
// are written differently.
const (
	kindSeries      = "series"
	kindLabel       = "label"
	kindExemplar    = "exemplars'"
	kindDescription = "description"
)

// difference is a row of the table in docs/prometheus.md.
type difference struct {
	kind string
	name *regexp.Regexp
	// cells are in the order of ways.
	cells [3]string
}

// documentedDifferences reads the table.
func documentedDifferences(t *testing.T) []difference {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(root, "docs", "prometheus.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(document), "<!-- begin differences: ")
	require.True(t, found)
	table, _, found = strings.Cut(table, "<!-- end differences -->")
	require.True(t, found)
	var all []difference
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || strings.Contains(line, "---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		span := codeSpan.FindStringSubmatch(cells[0])
		if span == nil {
			assert.Equal(t, []string{"scrape", "OTLP", "remote write"}, cells[1:], "the head of the table")
			continue
		}
		d := difference{name: regexp.MustCompile("^(?:" + strings.ReplaceAll(span[1], "*", ".*") + ")$"), cells: [3]string(cells[1:])}
		d.kind, _, _ = strings.Cut(cells[0], " ")
		require.Contains(t, []string{kindSeries, kindLabel, kindExemplar, kindDescription}, d.kind, line)
		all = append(all, d)
	}
	require.NotEmpty(t, all)
	return all
}

// apply removes from the series of each way what is documented to differ, and
// says where the table is wrong.
func (d difference) apply(prometheus [3]*promtest.Server, all [3][]model.LabelSet) (rest [3][]model.LabelSet, wrong []string) {
	for i, p := range prometheus {
		seen := map[string]bool{}
		see := func(name string) {
			if d.name.MatchString(name) {
				seen["yes"] = true
			}
		}
		switch d.kind {
		case kindExemplar:
			for _, s := range p.Exemplars(`{__name__=~".+"}`) {
				for _, x := range s.Exemplars {
					for name := range x.Labels {
						see(string(name))
					}
				}
			}
		case kindDescription:
			for name := range p.Metadata() {
				see(name)
			}
		}
		for _, s := range all[i] {
			name := string(s[model.MetricNameLabel])
			if d.kind == kindSeries && d.name.MatchString(name) {
				see(name)
				continue
			}
			if d.kind == kindLabel {
				s = s.Clone()
				for name, value := range s {
					if number, err := strconv.ParseFloat(string(value), 64); err == nil && d.name.MatchString(string(name)) {
						seen["`"+string(value)+"`"] = true
						s[name] = model.LabelValue(strconv.FormatFloat(number, 'g', -1, 64))
					}
				}
			}
			rest[i] = append(rest[i], s)
		}
		if want := d.cells[i]; want == "no" && seen["yes"] || want != "no" && !seen[want] {
			wrong = append(wrong, fmt.Sprintf("%s %s by %s: documented as %s", d.kind, d.name, ways[i].name, want))
		}
	}
	return rest, wrong
}

// missing are the series of one way that another lacks.
func missing(of, in []model.LabelSet) []string {
	has := map[model.Fingerprint]bool{}
	for _, s := range in {
		has[s.Fingerprint()] = true
	}
	var out []string
	for _, s := range of {
		if !has[s.Fingerprint()] {
			out = append(out, s.String())
		}
	}
	slices.Sort(out)
	return out
}

// undocumented is how the ways differ beyond the table, and where they do not
// differ as it says.
func (e *everything) undocumented(documented []difference) []string {
	var all [3][]model.LabelSet
	for i, p := range e.prometheus {
		// Not the collector's own metrics, which each Prometheus scrapes.
		all[i] = slices.DeleteFunc(p.Series(`{__name__=~".+", job!="otelcol"}`), func(s model.LabelSet) bool {
			name := string(s[model.MetricNameLabel])
			return strings.Contains(name, ":") || strings.HasPrefix(name, "ALERTS") // made by rules
		})
	}
	var out []string
	for _, d := range documented {
		var wrong []string
		all, wrong = d.apply(e.prometheus, all)
		out = append(out, wrong...)
	}
	for i := range all {
		for j := range all {
			for _, s := range missing(all[i], all[j]) {
				out = append(out, fmt.Sprintf("by %s, not by %s: %s", ways[i].name, ways[j].name, s))
			}
		}
	}
	return out
}

// settled are the last values of what counts, by series without what is written
// differently.
func settled(p *promtest.Server, selector string) map[string]string {
	out := map[string]string{}
	for _, s := range p.Query("last_over_time(" + selector + "[10m])") {
		if le, ok := s.Metric[model.BucketLabel]; ok {
			number, _ := strconv.ParseFloat(string(le), 64)
			s.Metric[model.BucketLabel] = model.LabelValue(strconv.FormatFloat(number, 'g', -1, 64))
		}
		if s.Histogram != nil {
			out[s.Metric.String()] = s.Histogram.String()
		} else {
			out[s.Metric.String()] = s.Value.String()
		}
	}
	return out
}

// withoutData are queries that have no data here, each with the reason.
var withoutData = map[string]string{
	"panel token-rate, generated, by requests that ended": "for servers without /slots",
	"panel request-rate, seen in a slot":                  "for servers without a log",
}

// withoutSeries are selectors of which there are no series here, each with the
// reason.
var withoutSeries = map[string]*regexp.Regexp{
	"the load run's histograms have fixed buckets":  regexp.MustCompile(`__name__="(loadgen|gen_ai_client)_.+_seconds"`),
	"histograms of /slots have fixed buckets":       regexp.MustCompile(`__name__="llamacpp_request_(prompt_)?duration_seconds"`),
	"only metrics are lost and refused, none queue": regexp.MustCompile(`otelcol_.+_(enqueue_failed_.+|spans|log_records)\(`),
}

// One collector gives the same points to three Prometheus, each in its own way.
func TestThreeWays_SayTheSame(t *testing.T) {
	t.Parallel()
	e := watchEverything(t)

	t.Run("panels, rules and documented queries have data", func(t *testing.T) {
		rules, recorded := ruleQueries(t)
		for i := range rules {
			parsed, err := promql.ParseExpr(rules[i].expr)
			require.NoError(t, err)
			rules[i].expr = unbounded(parsed).String()
		}
		for _, r := range recorded {
			rules = append(rules, asked{"recorded " + r, r})
		}
		for _, q := range queriesOf(t, "docs/prometheus.md") {
			rules = append(rules, asked{q.document, q.text})
		}
		// What one rule asks of another comes with the next evaluation.
		end := time.Now().Add(time.Minute)
		within := func() time.Duration { return max(time.Second, time.Until(end)) }
		used := map[string]bool{}
		for i, p := range e.prometheus {
			for _, q := range append(panelQueries(t), rules...) {
				if _, none := withoutData[q.name]; none {
					used[q.name] = true
					otlpsink.Eventually(t, within(), func() bool { return !hasData(p, q.expr) }, "by %s, %s has no data: else take it off the list", ways[i].name, q.name)
					continue
				}
				otlpsink.Eventually(t, within(), func() bool { return hasData(p, q.expr) }, "by %s, %s has data: %s", ways[i].name, q.name, q.expr)
			selectors:
				for _, s := range selectors(t, q.expr) {
					for why, none := range withoutSeries {
						if none.MatchString(s) {
							used[why] = true
							assert.Empty(t, p.Query(s), "%s: yet there are series: %s", why, s)
							continue selectors
						}
					}
					otlpsink.Eventually(t, within(), func() bool { return len(p.Query(s)) > 0 }, "by %s, %s has series: %s", ways[i].name, q.name, s)
				}
			}
		}
		for name := range maps.Keys(withoutData) {
			assert.True(t, used[name], "%s: nothing is called so", name)
		}
		for why := range maps.Keys(withoutSeries) {
			assert.True(t, used[why], "%s: nothing asks for it", why)
		}
	})

	// Those that do not wait until it has lasted.
	t.Run("alerts fire", func(t *testing.T) {
		firing := func(p *promtest.Server) (names []string) {
			for _, s := range p.Query(`ALERTS{alertstate="firing", alertname=~"GPUErrors|LlamaBottleneckState"}`) {
				names = append(names, s.Metric.String())
			}
			slices.Sort(names)
			return names
		}
		for _, p := range e.prometheus {
			otlpsink.Eventually(t, time.Minute, func() bool { return len(firing(p)) == 2 }, "two alerts: %v", firing(p))
			assert.Equal(t, firing(e.prometheus[0]), firing(p))
		}
	})

	e.stopLoad(t)
	t.Run("series differ as documented", func(t *testing.T) {
		documented := documentedDifferences(t)
		var differences []string
		same := func() bool {
			differences = e.undocumented(documented)
			return len(differences) == 0
		}
		for end := time.Now().Add(20 * time.Second); !same() && time.Now().Before(end); {
			time.Sleep(500 * time.Millisecond)
		}
		assert.Empty(t, differences)
		assert.Greater(t, len(e.prometheus[0].Series(`{job=~".+"}`)), 500, "the data is not enough to compare")
	})

	t.Run("values are the same", func(t *testing.T) {
		for _, selector := range []string{
			`{job="llamaload", __name__!~".+_in_flight|.+_target.*"}`,
			fmt.Sprintf(`{instance=%q, __name__=~".+_(total|count|sum|bucket)"}`, e.classic),
			// Native histograms.
			fmt.Sprintf(`{instance=%q, __name__=~"gen_ai_server_.+|llamacpp_request_.+"}`, e.native),
		} {
			for _, p := range e.prometheus[1:] {
				otlpsink.Eventually(t, 20*time.Second, func() bool { return maps.Equal(settled(e.prometheus[0], selector), settled(p, selector)) }, "%s: %v and %v",
					selector, settled(e.prometheus[0], selector), settled(p, selector))
			}
			assert.Greater(t, len(settled(e.prometheus[0], selector)), 5, selector)
		}
	})

	t.Run("exemplars lead to traces", func(t *testing.T) {
		for i, p := range e.prometheus {
			for _, metric := range []string{
				fmt.Sprintf(`gen_ai_server_request_duration_seconds_bucket{instance=%q}`, e.classic),
				fmt.Sprintf(`gen_ai_server_request_duration_seconds{instance=%q}`, e.native),
				`loadgen_request_duration_seconds_bucket`,
			} {
				series := p.Exemplars(metric)
				if !assert.NotEmpty(t, series, "by %s: %s", ways[i].name, metric) {
					continue
				}
				for _, s := range series {
					for _, x := range s.Exemplars {
						spans := e.spans.Spans(func(s otlpsink.Span) bool {
							return s.TraceID == string(x.Labels["trace_id"]) && s.ID == string(x.Labels["span_id"])
						})
						assert.Len(t, spans, 1, "by %s: %s: %v", ways[i].name, metric, x.Labels)
						for name := range x.Labels {
							assert.Contains(t, []model.LabelName{"trace_id", "span_id", "llamacpp.slot.id", "llamacpp.task.id"}, name)
						}
					}
				}
			}
		}
	})
}
