// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

const (
	// patience is for what takes some seconds on a machine that is not busy.
	patience = 60 * time.Second
	poll     = 200 * time.Millisecond
)

// collector is a collector with a dashboard.
type collector struct {
	*collectortest.Collector
	t          *testing.T
	base       string // URL of the page
	prometheus string // URL of the plain scrape
}

// ports is an environment in which a collector listens on ports of its own.
func ports(t *testing.T) (env []string, c *collector) {
	t.Helper()
	page, scrape := freeport.For(t), freeport.For(t)
	c = &collector{t: t, base: fmt.Sprintf("http://localhost:%d", page), prometheus: fmt.Sprintf("http://localhost:%d/metrics", scrape)}
	return []string{
		fmt.Sprintf("DASHBOARD_PORT=%d", page), fmt.Sprintf("PROMETHEUS_PORT=%d", scrape),
		fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)), fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
		fmt.Sprintf("LOADGEN_PORT=%d", freeport.For(t)), fmt.Sprintf("OTLP_PORT=%d", freeport.For(t)),
		"STATE_DIRECTORY=" + filepath.Join(t.TempDir(), "state"),
	}, c
}

// watch runs a collector with collector-config.yaml and further configurations.
func watch(t *testing.T, env []string, overlays ...string) *collector {
	t.Helper()
	own, c := ports(t)
	args := []string{"--config", filepath.Join(root, "collector-config.yaml"), "--feature-gates", "confmap.enableMergeAppendOption"}
	for _, overlay := range overlays {
		args = append(args, "--config", collectortest.ConfigFile(t, overlay))
	}
	c.Collector = collectortest.Start(t, append(own, env...), args...)
	c.AwaitLog("Everything is ready")
	return c
}

// run runs a collector with a configuration of the test's own.
func run(t *testing.T, config string) (c *collector, env []string) {
	t.Helper()
	env, c = ports(t)
	c.Collector = collectortest.Start(t, env, "--config", collectortest.ConfigFile(t, config))
	c.AwaitLog("Everything is ready")
	return c, env
}

// logged is a file for the server's log, as a pair of the environment.
func logged(t *testing.T) (*os.File, string) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "llama-server.log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	return file, "LLAMACPP_LOG=" + file.Name()
}

// eventually waits until something holds.
func (c *collector) eventually(holds func() bool, what string, args ...any) {
	c.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(poll) {
		require.True(c.t, time.Now().Before(end), "not within %s: %s", patience, fmt.Sprintf(what, args...))
	}
}

// get asks an endpoint.
func (c *collector) get(path string) (status int, body []byte) {
	c.t.Helper()
	response, err := http.Get(c.base + path)
	require.NoError(c.t, err)
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	require.NoError(c.t, err)
	return response.StatusCode, body
}

// read reads what an endpoint answers.
func (c *collector) read(path string, v any) {
	c.t.Helper()
	status, body := c.get(path)
	require.Equal(c.t, http.StatusOK, status, "%s: %s", path, body)
	require.NoError(c.t, json.Unmarshal(body, v), "%s: %s", path, body)
}

// vector evaluates an expression now, or at another time.
func (c *collector) vector(expr string, at ...time.Time) model.Vector {
	c.t.Helper()
	form := url.Values{"query": {expr}}
	if len(at) > 0 {
		form.Set("time", fmt.Sprintf("%.3f", float64(at[0].UnixMilli())/1000))
	}
	var v model.Vector
	require.NoError(c.t, json.Unmarshal(ask(c.t, c.base, "query", form).Data.Result, &v))
	return v
}

// number is the value of an expression of one series; ok is false without one.
func (c *collector) number(expr string, at ...time.Time) (value float64, ok bool) {
	c.t.Helper()
	v := c.vector(expr, at...)
	require.LessOrEqual(c.t, len(v), 1, expr)
	if len(v) == 0 {
		return 0, false
	}
	return float64(v[0].Value), true
}

// is reports whether an expression has one series with a value.
func (c *collector) is(want float64, expr string) bool {
	c.t.Helper()
	got, ok := c.number(expr)
	return ok && got == want
}

// lazily is a text that is made when it is needed.
type lazily func() string

func (l lazily) String() string { return l() }

// request is what the list of requests says of one.
type request struct {
	ID, Server, Model, Outcome string
	Start, End                 int64
	Prompt, Cached, Generated  int64
	Duration                   float64
	TTFT, Wait                 *float64
	Slot                       int64
	Began                      *int64
	Proxied, Client            bool
}

func (c *collector) requests() []request {
	c.t.Helper()
	var answer struct{ Requests []request }
	c.read("/live/requests", &answer)
	return answer.Requests
}

// snapshot is the part of one that the tests look at.
type snapshot struct {
	Server string
	GPUs   []string
	Start  int64
	Step   int64
	Tiles  map[string]struct{ Value, Second *float64 }
	Panels map[string]struct {
		Series []struct {
			Name   string
			Labels map[string]string
			Values []*float64
		}
	}
	Rules []struct{ Kind, ID, Summary, Cure string }
	Facts map[string]any
}

func (c *collector) snapshot(query string) snapshot {
	c.t.Helper()
	var s snapshot
	c.read("/live/snapshot?"+query, &s)
	return s
}

// last is the newest value of each line of a panel, by name.
func (s snapshot) last(panel string) map[string]float64 {
	last := map[string]float64{}
	for _, line := range s.Panels[panel].Series {
		for _, v := range line.Values {
			if v != nil {
				last[line.Name] = *v
			}
		}
	}
	return last
}

// complete has a server answer a prompt with so many tokens.
func complete(t *testing.T, server *llamasim.Server, prompt string, tokens int) {
	body, err := json.Marshal(map[string]any{"prompt": prompt, "n_predict": tokens, "cache_prompt": false})
	if !assert.NoError(t, err) {
		return
	}
	response, err := http.Post(server.URL()+"/completion", "application/json", bytes.NewReader(body))
	if !assert.NoError(t, err) {
		return
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	assert.NoError(t, err)
	assert.Equal(t, http.StatusOK, response.StatusCode)
}

// completeAll sends one request for each length, of which so many at once.
func completeAll(t *testing.T, server *llamasim.Server, atOnce int, lengths ...int) {
	t.Helper()
	next := make(chan int, len(lengths))
	for _, n := range lengths {
		next <- n
	}
	close(next)
	var clients sync.WaitGroup
	for range atOnce {
		clients.Go(func() {
			for n := range next {
				complete(t, server, fmt.Sprintf("tell me %d things", n), n)
			}
		})
	}
	clients.Wait()
}

// host is the name of a server in the metrics.
func host(server *llamasim.Server) string {
	return strings.TrimPrefix(server.URL(), "http://")
}
