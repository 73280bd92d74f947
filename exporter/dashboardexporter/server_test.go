// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// requests are spans of n requests to localhost:8080.
func requests(n int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.instance.id", "localhost:8080")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	for i := range n {
		s := spans.AppendEmpty()
		s.SetSpanID(pcommon.SpanID{byte(i + 1)})
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Second)))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		s.Attributes().PutStr("gen_ai.operation.name", "chat")
		s.Attributes().PutStr("gen_ai.request.model", `</script>,"`)
	}
	return td
}

// Whatever is asked for: an answer that can be read, or what is wrong in one line.
func FuzzHandler_RequestsAndExport(f *testing.F) {
	const kept = 3
	cfg := newDefaultConfig()
	cfg.ServerConfig.NetAddr.Endpoint = fmt.Sprintf("localhost:%d", freeport.For(f))
	d, err := newDashboard(exportertest.NewNopSettings(metadata.Type), cfg, func() {})
	require.NoError(f, err)
	require.NoError(f, d.Start(f.Context(), componenttest.NewNopHost()))
	f.Cleanup(func() { assert.NoError(f, d.Shutdown(context.Background())) })
	require.NoError(f, d.pushMetrics(f.Context(), gauges(map[string]float64{"llamacpp.requests.deferred": 3}, time.Now())))
	require.NoError(f, d.pushTraces(f.Context(), requests(kept)))
	handler := d.server.Handler
	data := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`)

	for _, query := range []string{
		"", "limit=2", "limit=0", "limit=1e9", "limit=%31", "limit=1&limit=x", "server=localhost:8080&format=csv", "server=elsewhere&format=json",
		"format=html", "window=300&points=300&server=localhost:8080", `server="})</script>&gpu=\Q`, "window=1&points=-1", "end=1732500000000&gpu=A&gpu=B", "%zz", "a;b",
	} {
		f.Add(false, query, "")
		f.Add(true, query, "text/csv")
	}
	f.Fuzz(func(t *testing.T, export bool, query, accept string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:9465/live/requests", http.NoBody)
		if export {
			r.URL.Path = "/live/export"
		}
		r.URL.RawQuery = query
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		body, kind := w.Body.String(), w.Header().Get("Content-Type")
		if w.Code != http.StatusOK {
			assert.Equal(t, http.StatusBadRequest, w.Code, body)
			var problem struct{ Error string }
			require.NoError(t, json.Unmarshal([]byte(body), &problem), body)
			assert.NotEmpty(t, problem.Error)
			assert.NotContains(t, problem.Error, "\n")
			return
		}
		switch kind {
		case "text/html; charset=utf-8":
			assert.True(t, export)
			m := data.FindStringSubmatch(body)
			require.Len(t, m, 2)
			assert.True(t, json.Valid([]byte(m[1])))
			assert.Equal(t, strings.Count(body, "<script"), strings.Count(body, "</script>"), "the data ends no element")
		case "text/csv; charset=utf-8":
			rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
			require.NoError(t, err)
			assert.LessOrEqual(t, len(rows), 1+kept)
		case "application/json":
			var list struct{ Requests []map[string]any }
			require.NoError(t, json.Unmarshal([]byte(body), &list), body)
			assert.NotNil(t, list.Requests, "an empty list is none that is missing")
			values, _ := url.ParseQuery(query)
			if server := values.Get("server"); server != "" && server != "localhost:8080" {
				assert.Empty(t, list.Requests)
			}
			if values.Get("limit") == "1" {
				assert.LessOrEqual(t, len(list.Requests), 1)
			}
		default:
			t.Errorf("%s", kind)
		}
	})
}
