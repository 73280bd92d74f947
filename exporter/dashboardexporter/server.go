// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/live"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/page"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/webguard"
)

// loadAPI is what the loadgen extension offers: its REST API, for this server.
type loadAPI interface {
	Handler(authenticated bool, hosts []string) http.Handler
}

// handler routes the page and its APIs.
func (d *dashboard) handler(host component.Host) http.Handler {
	guard := webguard.Guard{
		Authenticated: d.cfg.ServerConfig.Auth.HasValue(),
		LoopbackOnly:  loopback(d.cfg.ServerConfig.NetAddr.Endpoint),
		Hosts:         d.cfg.AllowedHosts,
		ReadOnly:      true, // the load generator has a guard of its own
		Refuse:        refuse,
	}
	mux := http.NewServeMux()
	mux.Handle("/", d.page)
	mux.HandleFunc("GET /live/export", d.getExport)
	mux.Handle("/api/v1/", d.history.Handler("/api/v1"))
	mux.Handle("/live/", d.live)
	mux.HandleFunc("GET /live/requests", d.getRequests)
	if load := findLoad(host); load != nil {
		mux.Handle("/loadgen/", http.StripPrefix("/loadgen", load.Handler(guard.Authenticated, d.cfg.AllowedHosts)))
	}
	return guard.Protect(mux)
}

// maxRequests is how many requests one answer has at most.
const maxRequests = 10_000

// getRequests answers with the last requests, newest first, as JSON or CSV.
func (d *dashboard) getRequests(w http.ResponseWriter, r *http.Request) {
	query, err := live.Parameters(r.URL.RawQuery, "server", "limit", "format")
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	limit := maxRequests
	if query.Has("limit") {
		text := query.Get("limit")
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxRequests {
			fail(w, http.StatusBadRequest, fmt.Sprintf("limit: %q: want 1 to %d", text, maxRequests))
			return
		}
	}
	requests := d.recent.Last(query.Get("server"), limit)
	switch format := query.Get("format"); {
	case format == "csv" || format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/csv"):
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.Header().Set("Content-Disposition", `attachment; filename="requests.csv"`)
		_ = recent.WriteCSV(w, requests) // the client is gone
	case format == "" || format == "json":
		if requests == nil {
			requests = []recent.Request{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"requests": requests}) // the client is gone
	default:
		fail(w, http.StatusBadRequest, fmt.Sprintf("format: %q: want json or csv", format))
	}
}

// getExport answers with one HTML file that shows a view without a collector.
func (d *dashboard) getExport(w http.ResponseWriter, r *http.Request) {
	snapshot, err := d.live.Snapshot(r.Context(), r.URL.RawQuery)
	switch {
	case live.IsBadQuery(err):
		fail(w, http.StatusBadRequest, err.Error())
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	catalogue, err := d.live.Catalogue()
	var file bytes.Buffer
	if err == nil {
		err = page.Export(&file, page.Data{Kind: page.KindView, Catalogue: catalogue, Snapshot: snapshot})
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "llama-server-"+time.Now().Format("2006-01-02T15-04-05")+".html"))
	_, _ = file.WriteTo(w) // the client is gone
}

// findLoad returns the load generator, or nil if there is none.
func findLoad(host component.Host) loadAPI {
	for _, e := range host.GetExtensions() {
		if load, ok := e.(loadAPI); ok {
			return load
		}
	}
	return nil
}

// loopback reports whether an endpoint is reached from this machine only. It
// answers to loopback names only then, or a page elsewhere could give the address
// a name of its own.
func loopback(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// address is the URL of the page, as it can be opened.
func address(tls bool, listening net.Addr) string {
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(listening.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		return scheme + "://" + net.JoinHostPort("localhost", port)
	}
	return scheme + "://" + listening.String()
}

// refuse answers a request that the guard does not let through.
func refuse(w http.ResponseWriter, reason string) { fail(w, http.StatusForbidden, reason) }

func fail(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": reason}) // the client is gone
}
