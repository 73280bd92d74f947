// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// explainsWrongParameters asks a collector what it cannot answer.
func (c *collector) explainsWrongParameters(t *testing.T) {
	long := strings.Repeat("x", 300)
	view := []string{
		"window=0", "window=9", "window=86401", "window=-1", "window=1e3", "window=", "window=5m", "window=300&window=60",
		"window=99999999999999999999", "points=59", "points=2001", "points=x", "server=a&server=b", "server=" + long, "server=%00",
		"server=%ff", "gpu=", "gpu=%0a", "gpu=" + long, "nothing=1", "window=300;points=60", "%zz", strings.Repeat("gpu=a&", 65) + "gpu=b",
	}
	past := []string{"end=0", "end=-5", "end=now", "end=99999999999999999999"}
	for path, queries := range map[string][]string{
		"/live/snapshot":  append(append([]string{"seq=1"}, past...), view...),
		"/live/export":    append(append([]string{"seq=1"}, past...), view...),
		"/live/stream":    append([]string{"seq=-1", "seq=x", "end=1000"}, view...),
		"/live/catalogue": {"a=b", "server=x", "%zz"},
		"/live/servers":   {"a=b", "window=60", "%zz"},
		"/live/requests": {
			"limit=0", "limit=-1", "limit=x", "limit=10001", "limit=", "format=xml", "nothing=1", "limit=1&limit=2", "server=" + long, "server=%00", "%zz",
		},
		"/api/v1/query":                 {"", "query=", "query=rate(", "query=up&time=x", "query=up&timeout=x", "query=foo(1)", "query=sum(up,up)"},
		"/api/v1/query_range":           {"", "query=up", "query=up&start=1&end=0&step=1", "query=up&start=0&end=1&step=0", "query=up&start=0&end=1&step=x", "query=up&start=0&end=1e9&step=1", "query=up[1m]&start=0&end=1&step=1"},
		"/api/v1/series":                {"", "match[]=", "match[]={", "match[]=up&start=x"},
		"/api/v1/labels":                {"match[]={", "start=x", "limit=-1"},
		"/api/v1/label/__name__/values": {"match[]={", "end=x", "limit=x"},
		"/api/v1/query_exemplars":       {"query=rate(", "query=up&start=x"},
		"/api/v1/format_query":          {"", "query=sum("},
		"/api/v1/metadata":              {"limit=x"},
		"/api/v1/rules":                 {"type=x", "match[]={", "exclude_alerts=x"},
		"/api/v1/status/tsdb":           {"limit=x", "limit=0"},
	} {
		for _, query := range queries {
			status, body := c.get(path + "?" + query)
			var answer struct{ Error string }
			assert.Equal(t, http.StatusBadRequest, status, "%s?%s: %s", path, query, body)
			if assert.NoError(t, json.Unmarshal(body, &answer), "%s?%s: %s", path, query, body) {
				assert.NotEmpty(t, answer.Error, "%s?%s", path, query)
				if strings.HasPrefix(path, "/live/") {
					assert.Regexp(t, `: .*(want|give|encode|at most|leave)`, answer.Error, "%s?%s: cause and cure", path, query)
				}
				assert.Less(t, len(answer.Error), 1000, "%s?%s", path, query)
			}
		}
	}
	// Nonsense that nobody thought of. The same on each run.
	random := rand.New(rand.NewPCG(11, 11))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	names := []string{"server", "gpu", "window", "points", "end", "limit", "format", "query", "time", "start", "step", "match[]", "", "\x00", "é"}
	values := []string{"", "0", "1", "-1", "1e308", "NaN", "60", "300", "localhost:8080", `{a="b"}`, "up", "rate(up[5m])", "\xff", "%", "..", "null", "json", long}
	for range 400 {
		form := url.Values{}
		for range random.IntN(4) {
			form.Add(pick(names), pick(values))
		}
		path := pick([]string{
			"/live/snapshot", "/live/export", "/live/catalogue", "/live/servers", "/live/requests", "/live/nothing",
			"/api/v1/query", "/api/v1/query_range", "/api/v1/series", "/api/v1/labels", "/api/v1/alerts", "/api/v1/rules", "/api/v1/nothing",
			"/api/v1/status/flags", "/api/v1/targets", "/api/v1/read", "/", "/assets/nothing", "/nothing",
		})
		status, body := c.get(path + "?" + form.Encode())
		assert.Less(t, status, 500, "%s?%s: %s", path, form.Encode(), body)
	}
}
