// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard keeps web pages elsewhere from starting load, and from reading results.
//
// Another site's page can send requests here from a user's browser: those that
// change something are refused by their origin. By DNS rebinding the page can
// take this server for its own, under its own name: without authentication
// anything else than an address or localhost is refused, and changes are for this
// host alone.
func guard(authenticated bool, next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := origins.Check(r); err != nil {
			fail(w, http.StatusForbidden, "cross-origin request: changes are not for other sites' pages; use a program, or a page of this server")
			return
		}
		if !authenticated {
			address, loopback := host(r.Host)
			switch {
			case !address:
				fail(w, http.StatusForbidden, "the Host header is neither localhost nor an address: use one, or configure auth")
				return
			case !loopback && r.Method != http.MethodGet && r.Method != http.MethodHead:
				fail(w, http.StatusForbidden, "changes are for localhost alone unless auth is configured")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// host says whether a Host header is an IP address or localhost, which no foreign
// DNS can be behind, and whether it is of the loopback interface.
func host(header string) (address, loopback bool) {
	name, _, err := net.SplitHostPort(header)
	if err != nil {
		name = strings.Trim(header, "[]")
	}
	if strings.EqualFold(name, "localhost") {
		return true, true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil, err == nil && ip.Unmap().IsLoopback()
}
