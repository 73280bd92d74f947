// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard prevents web pages of other sites from starting load or reading results.
//
// Such a page can send requests to this server from a user's browser. Those that
// change something are refused because of their origin. With DNS rebinding, the
// page can also reach this server under its own domain name, as if both had the
// same origin. Therefore, without authentication, the Host header must be an IP
// address or localhost, and changes need localhost or a loopback address.
func guard(authenticated bool, next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := origins.Check(r); err != nil {
			fail(w, http.StatusForbidden, "cross-origin request: pages of other sites may not make changes; use a program, or a page of this server")
			return
		}
		if !authenticated {
			address, loopback := host(r.Host)
			switch {
			case !address:
				fail(w, http.StatusForbidden, "the Host header is neither localhost nor an address: use one, or configure auth")
				return
			case !loopback && r.Method != http.MethodGet && r.Method != http.MethodHead:
				fail(w, http.StatusForbidden, "only localhost may make changes unless auth is configured")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// host reports whether a Host header is an IP address or localhost, neither of
// which a foreign DNS server can resolve, and whether it is a loopback address.
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
