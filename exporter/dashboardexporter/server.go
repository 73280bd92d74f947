// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"

import (
	"encoding/json"
	"net"
	"net/http"

	"go.opentelemetry.io/collector/component"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/webguard"
)

// loadAPI is what the loadgen extension offers: its REST API, for this server.
type loadAPI interface {
	Handler(authenticated bool, hosts []string) http.Handler
}

// handler routes the page and its APIs.
func (d *dashboard) handler(host component.Host) (http.Handler, error) {
	guard := webguard.Guard{
		Authenticated: d.cfg.ServerConfig.Auth.HasValue(),
		LoopbackOnly:  loopback(d.cfg.ServerConfig.NetAddr.Endpoint),
		Hosts:         d.cfg.AllowedHosts,
		ReadOnly:      true, // the load generator has a guard of its own
		Refuse:        refuse,
	}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", d.history.Handler("/api/v1"))
	if load := findLoad(host); load != nil {
		mux.Handle("/loadgen/", http.StripPrefix("/loadgen", load.Handler(guard.Authenticated, d.cfg.AllowedHosts)))
	}
	return guard.Protect(mux), nil
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
func refuse(w http.ResponseWriter, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": reason}) // the client is gone
}
